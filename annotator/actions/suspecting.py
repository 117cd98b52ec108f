"""Labels that may be wrong: which are suspected now, what came of those that were looked at again.

The worker finds them (ml_worker/suspecting.py); the queue asks about their images once more, without a word of the
suspicion, and the answer settles them. No page tells an annotator which they are: an answer that knows it is a check
is no check.
"""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import task_types
from annotator.errors import Conflict, NotFound
from annotator.formats.csv_rows import guarded
from annotator.models import Annotation, AuditEvent, Item, Project, QueueEntry, Suspect
from annotator.wording import within

SUSPECT_LOCK = 1007
# So many wait at once, the worst first: the next study knows more than this one does.
OPEN_AT_MOST = 100
# The last so many that were looked at again decide whether looking goes on, once there are so many at least,
NEWEST, SETTLED_AT_LEAST = 40, 20
# until it is all but certain that fewer than this share are wrong. What a list of suspects comes to on clean data
# is 15 % and up; where the upper bound of the hit rate falls below that, none of 22 or one of 34 was wrong: no more
# than labels drawn at random are in an average data set (3.4 % over ten of them, Northcutt et al. 2021). The rate of
# wrong labels that confident learning estimates itself is no yardstick: it counts whatever the model confuses.
WORTH_ASKING = 0.15
# With so many times the labels it begins anew: the model is another one by then.
AGAIN_AT = 2
KEPT = "said a doubted label is right"


@dataclass(frozen=True)
class Doubted:
    """An answer that the others speak against. class_id: what it may be instead, None for an image of no class.
    score: 0..1, 1 = surest to be wrong."""

    annotation_id: int
    class_id: int | None
    score: float

    @property
    def doubt(self) -> str:
        return Suspect.Doubt.FOREIGN if self.class_id is None else Suspect.Doubt.MISLABELLED


@dataclass(frozen=True)
class HitRate:
    """How many suspects were looked at again blind, and how many of them were wrong; with the 95 % interval of the
    share, (0, 1) before the first."""

    settled: int
    repaired: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.repaired / self.settled if self.settled else 0.0

    @property
    def is_enough(self) -> bool:
        return self.settled >= SETTLED_AT_LEAST

    @property
    def is_not_worth_it(self) -> bool:
        return self.is_enough and self.high < WORTH_ASKING


@dataclass(frozen=True)
class Standing:
    """Where a project's suspects stand: those that wait, by what is doubted; told: what a reviewer who saw the
    suspicion said or decided; and the hit rate, of blind answers alone."""

    open: int
    mislabelled: int
    foreign: int
    told: int
    hits: HitRate

    @property
    def ever(self) -> int:
        return self.open + self.told + self.hits.settled


def settled(project: Project) -> QuerySet[Suspect]:
    """Suspects that a blind answer settled."""
    found = Suspect.objects.filter(project=project, state__in=[Suspect.State.CONFIRMED, Suspect.State.REPAIRED])
    return found.exclude(settled_by__reason_code=Annotation.DECISION)


def standing(project: Project) -> Standing:
    """One query."""
    counts: dict[tuple[str, str], int] = {}
    told = 0
    rows = Suspect.objects.filter(project=project).order_by().values_list("state", "doubt")
    for state, doubt, n, settled_n, decided in rows.annotate(
        n=Count("pk"),
        settled_n=Count("pk", filter=Q(settled_at__isnull=False)),
        decided=Count("pk", filter=Q(settled_by__reason_code=Annotation.DECISION)),
    ):
        counts[state, doubt] = n - decided
        told += settled_n if state == Suspect.State.DROPPED else decided
    by_state = {state: sum(n for (found, _), n in counts.items() if found == state) for state in Suspect.State.values}
    repaired = by_state[Suspect.State.REPAIRED]
    return Standing(
        open=by_state[Suspect.State.OPEN],
        mislabelled=counts.get((Suspect.State.OPEN, Suspect.Doubt.MISLABELLED), 0),
        foreign=counts.get((Suspect.State.OPEN, Suspect.Doubt.FOREIGN), 0),
        told=told,
        hits=hit_rate(repaired, repaired + by_state[Suspect.State.CONFIRMED]),
    )


def newest_hits(project: Project, since: str | None) -> HitRate:
    """Of the newest that were settled, after this time (ISO 8601), if it is given. One query."""
    rows = settled(project)
    if since is not None:
        rows = rows.filter(settled_at__gt=datetime.fromisoformat(since))
    states = list(rows.order_by("-settled_at", "-id").values_list("state", flat=True)[:NEWEST])
    return hit_rate(states.count(Suspect.State.REPAIRED), len(states))


def hit_rate(repaired: int, n: int) -> HitRate:
    """With the interval of Wilson 1927."""
    if not n:
        return HitRate(0, 0, 0.0, 1.0)
    z, rate = 1.959964, repaired / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return HitRate(n, repaired, max(0.0, centre - half), min(1.0, centre + half))


COLUMNS = ("image", "item", "label", "doubt", "instead", "score", "state", "now", "suspected_at", "settled_at")


def as_csv(project: Project) -> str:
    """Every suspect, settled and dropped ones too, worst first. Three queries."""
    task_type, names = task_types.get(project.task_type), dict(project.classes.values_list("pk", "name"))

    def named(answer: Annotation | None) -> str:
        if answer is None or answer.kind != Annotation.Kind.LABEL:
            return answer.kind if answer else ""
        return names.get(task_type.class_ids(answer.value or {})[0], "")

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    rows = Suspect.objects.filter(project=project).select_related("item", "annotation", "settled_by")
    for each in rows:
        instead = names.get(each.label_class_id or 0, "")
        times = [at.isoformat() if at else "" for at in (each.created_at, each.settled_at)]
        said = [each.doubt, guarded(instead), round(each.score, 4), each.state, guarded(named(each.settled_by))]
        image = guarded(each.item.source_name)
        writer.writerow([image, each.item_id, guarded(named(each.annotation)), *said, *times])
    return out.getvalue()


@transaction.atomic
def store_suspects(*, project: Project, doubted: Iterable[Doubted]) -> int:
    """Make these the project's open suspects, the OPEN_AT_MOST surest of them; how many are open then.

    One that stays keeps its row, with the doubt of now. One that is suspected no longer, or whose answer was replaced,
    is dropped, and opened again when it is suspected again; whatever a person settled stays settled. An answer that
    was replaced meanwhile is not suspected, nor one whose image somebody answers at this moment or a reviewer decided.
    Takes the project's
    suspect lock, then items and suspects with SKIP LOCKED.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [SUSPECT_LOCK, project.pk])
    worst = sorted(doubted, key=lambda each: (-each.score, each.annotation_id))
    taken = set(_settled_annotations(project))
    wanted = {each.annotation_id: each for each in [d for d in worst if d.annotation_id not in taken][:OPEN_AT_MOST]}
    current = _current(project, list(wanted))
    waiting = Suspect.objects.select_for_update(skip_locked=True, of=("self",)).filter(
        project=project, state=Suspect.State.OPEN
    )
    waiting = waiting.filter(~Q(annotation__in=list(wanted)) | Q(annotation__superseded_by__isnull=False))
    drop_suspects(list(waiting))
    known = {each.annotation_id: each for each in Suspect.objects.filter(project=project, annotation__in=current)}
    for annotation_id, item_id in current.items():
        _open(project, item_id, wanted[annotation_id], known.get(annotation_id))
    return Suspect.objects.filter(project=project, state=Suspect.State.OPEN).count()


def _settled_annotations(project: Project) -> Iterable[int]:
    done = Q(settled_at__isnull=False) | Q(state__in=[Suspect.State.CONFIRMED, Suspect.State.REPAIRED])
    return Suspect.objects.filter(done, project=project).values_list("annotation_id", flat=True)


def _current(project: Project, annotation_ids: list[int]) -> dict[int, int]:
    """Those that are labels and stand, with their items, which are locked."""
    labels = Annotation.objects.filter(project=project, pk__in=annotation_ids, kind=Annotation.Kind.LABEL)
    items = Item.objects.select_for_update(skip_locked=True, no_key=True).filter(pk__in=labels.values("item_id"))
    locked = list(items.order_by("pk").values_list("pk", flat=True))
    # Asked once they are locked: an answer that came between the questions is seen now.
    current = Annotation.objects.filter(item__in=locked, superseded_by__isnull=True)
    decided = current.filter(reason_code=Annotation.DECISION)
    standing = labels.filter(pk__in=current).exclude(item__in=decided.values("item_id"))
    return dict(standing.order_by("pk").values_list("pk", "item_id"))


def _open(project: Project, item_id: int, found: Doubted, known: Suspect | None) -> None:
    doubt = {"doubt": found.doubt, "label_class_id": found.class_id, "score": min(max(found.score, 0.0), 1.0)}
    if known is None:
        Suspect.objects.create(project=project, item_id=item_id, annotation_id=found.annotation_id, **doubt)
        return
    unsettled = Suspect.objects.filter(
        pk=known.pk, settled_at__isnull=True, state__in=[Suspect.State.OPEN, Suspect.State.DROPPED]
    )
    unsettled.update(state=Suspect.State.OPEN, **doubt)


def drop_suspects(suspects: list[Suspect]) -> None:
    """No longer suspected; nobody is asked about them any more."""
    open_still = Suspect.objects.filter(pk__in=[each.pk for each in suspects], state=Suspect.State.OPEN)
    open_still.update(state=Suspect.State.DROPPED)
    _take_off_the_queue([each.item_id for each in suspects])


def _take_off_the_queue(item_ids: list[int]) -> None:
    """Unless somebody holds them: whoever looks at one may answer it."""
    entries = QueueEntry.objects.select_for_update(skip_locked=True).filter(
        Q(leased_until__isnull=True) | Q(leased_until__lte=timezone.now()),
        item__in=item_ids,
        reason_code=QueueEntry.Reason.SUSPECT,
    )
    QueueEntry.objects.filter(pk__in=list(entries.values_list("pk", flat=True))).delete()


@transaction.atomic
def keep_label(*, project: Project, actor: User, suspect_id: int) -> Suspect:
    """A person who saw the suspicion says that the label is right: nobody is asked, and it is never suspected again.

    Not counted as a hit or a miss, because the person was told what to look for; the protocol has who said it. Raises
    NotFound, or Conflict for one that is settled or no longer suspected. Locks the suspect.
    """
    suspect = Suspect.objects.select_for_update(of=("self",)).filter(project=project, pk=suspect_id).first()
    if suspect is None:
        raise NotFound(_("there is no suspected label %(id)s in this project") % {"id": suspect_id})
    if suspect.state != Suspect.State.OPEN:
        why = _("this label waits no more: %(state)s; reload the page")
        raise Conflict(why % {"state": within(suspect.get_state_display())})
    suspect.state, suspect.settled_at = Suspect.State.DROPPED, timezone.now()
    suspect.save(update_fields=["state", "settled_at"])
    _take_off_the_queue([suspect.item_id])
    AuditEvent.objects.create(
        project=project,
        actor=actor,
        verb=KEPT,
        detail={"suspect": suspect.pk, "item": suspect.item_id, "annotation": suspect.annotation_id},
    )
    return suspect
