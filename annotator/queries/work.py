"""How the work goes: answers over time, by reason and by person, what they took, and how often people agree.

All of it from the newest rows by the index of (project, id): a project of 1,000,000 answers costs what one of NEWEST
does.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Avg, Count, Q, QuerySet
from django.db.models.aggregates import Aggregate
from django.db.models.fields import FloatField
from django.db.models.functions import TruncHour
from django.utils import timezone

from annotator.models import Annotation, Project, QueueEntry
from annotator.queries.classwise import wilson
from annotator.queries.copies import once_each

DAYS = 14
NEWEST = 20_000
# Second opinions that agreement is counted from.
OPINIONS = 1_000
ANSWERS = (Annotation.Kind.LABEL, Annotation.Kind.SKIP, Annotation.Kind.NONE_OF_THESE)
NAMING = (Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE)
# The reason of what nobody asked for: a proposal that was decided in review.
REVIEWED = "review"


class _Median(Aggregate):
    """The median, as PostgreSQL's ordered-set aggregate has it."""

    function = "PERCENTILE_CONT"
    name = "median"
    output_field = FloatField()
    template = "%(function)s(0.5) WITHIN GROUP (ORDER BY %(expressions)s)"


@dataclass(frozen=True)
class Given:
    """``n`` answers of one person within the hour that begins at ``hour``, all for one reason."""

    hour: datetime
    person_id: int
    reason: str
    n: int


@dataclass(frozen=True)
class Pace:
    """Seconds an answer took, idle time left out: the median and the mean of ``timed`` ones."""

    timed: int
    median_s: float
    mean_s: float

    @property
    def per_hour(self) -> int:
        """Answers in an hour at the desk."""
        return round(3600 / self.mean_s) if self.mean_s else 0


@dataclass(frozen=True)
class Work:
    """The answers since ``since``. is_cut: there are older ones within DAYS that were not looked at. paces: by
    person, and under None of all."""

    since: datetime
    is_cut: bool
    given: list[Given]
    paces: dict[int | None, Pace]

    @property
    def answers(self) -> int:
        return sum(each.n for each in self.given)

    def of(self, person_id: int) -> int:
        return sum(each.n for each in self.given if each.person_id == person_id)

    def within(self, hours: int) -> int:
        """Answers since the beginning of the hour so many hours ago."""
        since = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
        return sum(each.n for each in self.given if each.hour >= since)

    def by_reason(self) -> list[tuple[str, int]]:
        """(reason code, answers), most first."""
        counts: Counter[str] = Counter()
        for each in self.given:
            counts[each.reason] += each.n
        return counts.most_common()


def work(project: Project, days: int = DAYS) -> Work:
    """What people answered in the last days, at most the NEWEST rows. Three queries."""
    now = timezone.now()
    since = (now - timedelta(days=days - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = Annotation.objects.filter(project=project).order_by("-id")
    edge = rows.values_list("id", "created_at")[NEWEST : NEWEST + 1].first() if is_long(project) else None
    given = Annotation.objects.filter(
        project=project, source=Annotation.Source.PERSON, kind__in=ANSWERS, created_at__gte=since
    )
    newest = once_each(given)
    if edge is not None:
        newest = newest.filter(id__gt=edge[0])
    is_cut = edge is not None and edge[1] >= since
    return Work(edge[1] if edge and is_cut else since, is_cut, _given(newest), _paces(newest))


def is_long(project: Project) -> bool:
    """Whether there can be more rows than are looked at: ids are counted over all projects."""
    ends = Annotation.objects.filter(project=project).order_by("id").values_list("id", flat=True)
    first, last = ends.first(), ends.last()
    return first is not None and last is not None and last - first >= NEWEST


def _given(newest: QuerySet[Annotation]) -> list[Given]:
    rows = (
        newest.order_by()
        .annotate(hour=TruncHour("created_at"), is_review=Q(settles__isnull=False))
        .values("hour", "annotator_id", "reason_code", "is_review")
        .annotate(n=Count("pk"))
    )
    return [
        Given(row["hour"], row["annotator_id"], REVIEWED if row["is_review"] else row["reason_code"], row["n"])
        for row in rows
    ]


def _paces(newest: QuerySet[Annotation]) -> dict[int | None, Pace]:
    """Of each person and, weighed by their answers, of all; the median of all is the median of what each took."""
    timed = newest.filter(milliseconds__isnull=False, settles__isnull=True).order_by()
    measures = {"n": Count("pk"), "median": _Median("milliseconds"), "mean": Avg("milliseconds")}
    rows: Any = timed.values("annotator_id").annotate(**measures)
    found: dict[int | None, Pace] = {
        row["annotator_id"]: Pace(row["n"], row["median"] / 1000, float(row["mean"]) / 1000) for row in rows
    }
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    elif found:
        whole = timed.aggregate(**measures)
        found[None] = Pace(whole["n"], whole["median"] / 1000, float(whole["mean"]) / 1000)
    return found


def names(people: Iterable[int]) -> dict[int, str]:
    """User names by id. One query."""
    return dict(User.objects.filter(pk__in=set(people)).values_list("pk", "username"))


# --- agreement ---


@dataclass(frozen=True)
class Agreement:
    """Of ``n`` second opinions, asked blind of images drawn at random, how many say what the first answer said, with
    the 95 % interval; chance: the share that would by the frequencies of the answers alone."""

    n: int
    same: int
    low: float
    high: float
    chance: float

    @property
    def rate(self) -> float:
        return self.same / self.n

    @property
    def beyond_chance(self) -> float | None:
        """Scott's pi: 0 as chance, 1 always; None where everybody always says the same."""
        return None if self.chance >= 1 else (self.rate - self.chance) / (1 - self.chance)


def agreement(project: Project) -> Agreement | None:
    """From the newest second opinions; None without any. Two queries.

    Third opinions, which are asked only where two differ, are left out: they would count the hard images twice.
    """
    newest = Annotation.objects.filter(project=project).order_by("-id").values_list("id", flat=True)
    edge = newest[NEWEST : NEWEST + 1].first() if is_long(project) else None
    asked = Annotation.objects.filter(
        project=project,
        reason_code=QueueEntry.Reason.SECOND_OPINION,
        kind__in=NAMING,
        superseded_by__isnull=True,
        id__gt=edge or 0,
    ).exclude(reason_data__has_key="people")
    second = list(asked.order_by("-id").values_list("id", "item_id", "annotator_id", "kind", "value")[:OPINIONS])
    first: dict[int, list[tuple[int, int, Any]]] = defaultdict(list)
    others = Annotation.objects.filter(
        item__in={row[1] for row in second}, kind__in=NAMING, superseded_by__isnull=True
    ).exclude(reason_code=Annotation.DECISION)
    for pk, item_id, person_id, kind, value in others.order_by("id").values_list(
        "id", "item_id", "annotator_id", "kind", "value"
    ):
        first[item_id].append((pk, person_id, (kind, str(value))))
    pairs = [
        (before[0], (kind, str(value)))
        for pk, item_id, person_id, kind, value in second
        if (before := [said for other, who, said in first[item_id] if other < pk and who != person_id])
    ]
    if not pairs:
        return None
    same = sum(one == other for one, other in pairs)
    counts = Counter(said for pair in pairs for said in pair)
    chance = sum((count / (2 * len(pairs))) ** 2 for count in counts.values())
    low, high = wilson(same, len(pairs))
    return Agreement(len(pairs), same, low, high, chance)
