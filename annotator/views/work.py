"""How is the work going: templates/work.html. Names and numbers of single people are for owners; whoever else looks
sees what they did themselves, and the total."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from annotator import queries
from annotator.access import OWN, allows
from annotator.charts import Column, Part
from annotator.models import Annotation, Item, LabelClass, Membership, ModelVersion, QueueEntry, Split
from annotator.queries.work import DAYS, NEWEST, REVIEWED, Pace, Work, agreement, is_long, names, work
from annotator.views import needs

HOURS = 24


@dataclass(frozen=True)
class PersonRow:
    """name: empty for all others together."""

    name: str
    answers: int
    reviewed: int
    pace: Pace | None
    last_at: datetime | None


@dataclass(frozen=True)
class SplitRow:
    title: str
    help: str
    items: int
    answered: int
    parts: list[Part]


def panel(
    membership: Membership, model: ModelVersion | None, counts: dict[str, dict[str, int]], accepted: int
) -> dict[str, Any]:
    """The context of templates/work.html. Some twenty queries, none over more than the newest answers."""
    project = membership.project
    done = work(project)
    balance, counted_by = class_balance(membership, model)
    flags = queries.raised_flags(project).count()
    return {
        "work": done,
        "work_days": DAYS,
        "by_hour": columns(hours(done), _hour),
        "by_day": columns(days(done), _day),
        "by_reason": [(reason_title(reason), n) for reason, n in done.by_reason()],
        "people": people(membership, done),
        "sees_everybody": allows(membership.role, OWN),
        "agreement": agreement(project),
        "raised_flags": flags,
        "splits": splits(counts, accepted),
        "balance": balance,
        "balance_of": counted_by,
        "newest": NEWEST,
        "balance_most": max((count for _class, count in balance), default=0),
        **needs.panel(membership),
    }


def class_balance(
    membership: Membership, model: ModelVersion | None
) -> tuple[list[tuple[LabelClass, int]], ModelVersion | None]:
    """Labelled images by class: counted now or, where that would go over too many answers, as this model found them;
    that model, or None."""
    found = (model.metrics.get("by_class") if model else None) or []
    if model is None or not found or not is_long(membership.project):
        return queries.class_balance(membership.project), None
    counts = dict(zip(model.class_ids, found, strict=True))
    classes = membership.project.classes.all()
    return [(each, counts.get(each.pk, 0)) for each in classes if not each.is_archived or counts.get(each.pk)], model


def reason_title(reason: str) -> str:
    """Why something was answered, in few words."""
    if reason == REVIEWED:
        return _("Decided in review")
    if reason == Annotation.DECISION:
        return _("Decided by a reviewer")
    return str(QueueEntry.Reason(reason).label) if reason in QueueEntry.Reason.values else _("Not from the queue")


Counts = list[tuple[datetime, int, int]]


def hours(done: Work) -> Counts:
    """The last HOURS hours, oldest first: (when it began, answered, decided in review)."""
    now = timezone.localtime().replace(minute=0, second=0, microsecond=0)
    return _counts(done, [now - timedelta(hours=back) for back in range(HOURS - 1, -1, -1)], timedelta(hours=1))


def days(done: Work) -> Counts:
    """The last DAYS days, likewise."""
    today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    return _counts(done, [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)], timedelta(days=1))


def _counts(done: Work, starts: list[datetime], length: timedelta) -> Counts:
    answered: Counter[datetime] = Counter()
    reviewed: Counter[datetime] = Counter()
    for each in done.given:
        place = (each.hour - starts[0]) // length
        if 0 <= place < len(starts):
            (reviewed if each.reason == REVIEWED else answered)[starts[place]] += each.n
    return [(start, answered[start], reviewed[start]) for start in starts]


def columns(counts: Counts, title: Any) -> list[Column]:
    return [
        Column(
            title(at), [Part(_("Answered"), answered, "labelled"), Part(_("Decided in review"), reviewed, "review")]
        )
        for at, answered, reviewed in counts
    ]


def _hour(at: datetime) -> str:
    return f"{at:%H:00}"


def _day(at: datetime) -> str:
    return date_format(at, "j M")


def people(membership: Membership, done: Work) -> list[PersonRow]:
    """Everybody for an owner, most answers first; for others themselves, and all others as one. One query."""
    if allows(membership.role, OWN):
        ids = sorted({each.person_id for each in done.given}, key=lambda pk: (-done.of(pk), pk))
        called = names(ids)
        return [_person(called[pk], done, {pk}, done.paces.get(pk)) for pk in ids]
    mine, others = {membership.user_id}, {each.person_id for each in done.given} - {membership.user_id}
    rows = [_person(membership.user.username, done, mine, done.paces.get(membership.user_id))]
    return rows + ([_person("", done, others, None)] if others else [])


def _person(name: str, done: Work, ids: set[int], pace: Pace | None) -> PersonRow:
    own = [each for each in done.given if each.person_id in ids]
    return PersonRow(
        name=name,
        answers=sum(each.n for each in own),
        reviewed=sum(each.n for each in own if each.reason == REVIEWED),
        pace=pace,
        last_at=max((each.hour for each in own), default=None),
    )


def splits(counts: dict[str, dict[str, int]], accepted: int) -> list[SplitRow]:
    """accepted: open images of the pool whose label was accepted unseen, a state of their own here."""
    described = {
        Split.POOL: (_("Pool"), _("What people label and the model learns from.")),
        Split.AUDIT: (
            _("Random checks"),
            _("Drawn at random, shown without hints, never learnt from: they measure accuracy."),
        ),
        Split.TEST: (_("Test"), _("Labels known beforehand. Never asked, never learnt from.")),
    }
    rows = []
    for split, (title, help) in described.items():
        by_state = counts[split]
        items = sum(by_state.values())
        if items or split == Split.POOL:
            states = (Item.State.LABELLED, Item.State.NONE_OF_THESE, Item.State.SKIPPED, Item.State.OPEN)
            parts = [Part(str(Item.State(state).label), by_state[state], state) for state in states]
            if split == Split.POOL and accepted:
                parts[-1:] = [
                    Part(_("Accepted unseen"), accepted, "accepted"),
                    Part(str(Item.State.OPEN.label), by_state[Item.State.OPEN] - accepted, Item.State.OPEN),
                ]
            rows.append(SplitRow(title, help, items, items - by_state[Item.State.OPEN], parts))
    return rows
