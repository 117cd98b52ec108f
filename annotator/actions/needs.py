"""Where the questions of each need come from, and how one is handed to somebody.

All are asked blind: nothing on the page tells what the model, or anybody before, said of the image. Drawn at random
means: from a random place in the order of ids on, one of the next NEARBY at random. That costs the same for a million
images, and as ids follow the import, an image's place says nothing about what is on it; an image behind a gap of
answered ones comes a little sooner.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Exists, Max, Min, OuterRef, Q, QuerySet
from django.utils import timezone

from annotator import queries, task_types
from annotator.actions import round_checks
from annotator.actions.shares import Given, Reason, newest_answers
from annotator.models import Annotation, Item, Project, Proposal, QueueEntry, Split, Suspect

NEARBY = 32
# What somebody else is asked about, by chance and whatever was answered. Of the random checks "none of these" too:
# there it counts as an error of the model, and a person's slip is to be found as likely as any other.
ASKED_TWICE = (
    (Split.POOL, Item.State.LABELLED),
    (Split.AUDIT, Item.State.LABELLED),
    (Split.AUDIT, Item.State.NONE_OF_THESE),
)
# Who is asked again about an answer of their own has given so many others since.
ANSWERS_BETWEEN = 20


@dataclass(frozen=True)
class Desk:
    """Who is asked, what the project's newest answers are, how long a hold lasts, and the rank it gets."""

    project: Project
    annotator: User
    answers: list[Given]
    until: datetime
    rank: int


def take(desk: Desk, need: str) -> bool:
    """Hand this person one question of a need; whether there was any. Two to eight queries, all by an index.

    Locks the item it takes, then its queue entry, both with SKIP LOCKED: nobody waits, and the same question never
    goes to two people.
    """
    return {
        Reason.AUDIT: _take_audit,
        Reason.BASELINE: _take_baseline,
        Reason.SECOND_OPINION: _take_second_opinion,
        Reason.SUSPECT: _take_suspect,
        Reason.AUTOMATIC: _take_automatic,
    }[Reason(need)](desk)


def free() -> Q:
    """Entries held by nobody, or no longer."""
    return Q(leased_until__isnull=True) | Q(leased_until__lte=timezone.now())


def accepted_unseen() -> Exists:
    """Of items: whether a label of theirs counts although nobody looked."""
    return Exists(Proposal.objects.filter(item=OuterRef("pk"), state=Proposal.State.AUTO_ACCEPTED))


def disputes() -> Q:
    """Entries of items whose people disagree. They stay until somebody settles them, whatever is ranked."""
    return Q(reason_code=Reason.SECOND_OPINION, reason_data__has_key="people")


def left_behind() -> Q:
    """Entries of open images that no need comes back to of itself. Random checks and those of a round are: whoever is
    asked next gets them first."""
    drawn = Q(reason_code__in=(Reason.BASELINE, Reason.SECOND_OPINION, Reason.SUSPECT))
    unseen = Q(reason_code=Reason.AUTOMATIC) & ~Q(reason_data={})
    return (drawn | unseen) & Q(item__state=Item.State.OPEN)


def _answered_by(annotator: User) -> Any:
    given = Annotation.objects.filter(annotator_id=annotator.pk, superseded_by__isnull=True)
    return given.exclude(kind=Annotation.Kind.RETRACTION)


def _take_entry(desk: Desk, which: Q) -> bool:
    """One that waits in the queue already, the first by rank."""
    entries = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",))
    entry = entries.filter(which, free(), project=desk.project).order_by("rank", "id").first()
    if entry is None:
        return False
    _lease(desk, entry)
    return True


def _lease(desk: Desk, entry: QueueEntry) -> None:
    entry.leased_by_id, entry.leased_until, entry.rank = desk.annotator.pk, desk.until, desk.rank
    entry.save()


def _claim(desk: Desk, item_ids: Iterable[int], which: Q, reason: str, data: dict[int, dict[str, Any]]) -> bool:
    """Queue the first of these items that nobody holds, still as ``which`` says, and hand it out."""
    for item_id in item_ids:
        items = Item.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
        if items.filter(which, project=desk.project, pk=item_id).first() is None:
            continue
        entries = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(item_id=item_id)
        entry = entries.filter(free()).exclude(disputes()).first()
        # One that is there all the same is held, disputed, or being replaced by a ranking at this moment.
        if entry is None and QueueEntry.objects.filter(item_id=item_id).exists():
            continue
        entry = entry or QueueEntry(project=desk.project, item_id=item_id)
        entry.reason_code, entry.reason_data, entry.utility = reason, data.get(item_id, {}), 0.0
        entry.model_version = None
        _lease(desk, entry)
        return True
    return False


def _nearby(desk: Desk, split: str, state: str) -> list[int]:
    """Items of this split and state from a random place on, in random order; at most NEARBY. Two or three queries."""
    items = Item.objects.filter(project=desk.project, split=split, state=state)
    start = _random_place(items)
    if start is None:
        return []
    return _from(start, items.order_by("pk").values_list("pk", flat=True), "pk")


def _random_place(items: QuerySet[Item]) -> int | None:
    ends = items.aggregate(first=Min("pk"), last=Max("pk"))
    return None if ends["first"] is None else random.randint(ends["first"], ends["last"])


def _from(start: int, ids: Any, column: str) -> list[int]:
    """NEARBY of these ids from a place on, around the end to the beginning, shuffled."""
    found = list(ids.filter(**{f"{column}__gte": start})[:NEARBY])
    if len(found) < NEARBY:
        found = list(dict.fromkeys([*found, *ids[: NEARBY - len(found)]]))
    random.shuffle(found)
    return found


def _take_audit(desk: Desk) -> bool:
    """A random check; first one that somebody let go of, since leaving out what people hesitate over would flatter."""
    if _take_entry(desk, Q(reason_code=Reason.AUDIT)):
        return True
    which = Q(split=Split.AUDIT, state=Item.State.OPEN)
    return _claim(desk, _nearby(desk, Split.AUDIT, Item.State.OPEN), which, Reason.AUDIT, {})


def _take_baseline(desk: Desk) -> bool:
    """Any open image of the pool, wherever the ranking has it. None while a certification round sets images aside:
    what is drawn from the others is no sample of the pool."""
    if round_checks.running(desk.project):
        return False
    which = Q(~accepted_unseen(), split=Split.POOL, state=Item.State.OPEN)
    return _claim(desk, _nearby(desk, Split.POOL, Item.State.OPEN), which, Reason.BASELINE, {})


def _take_second_opinion(desk: Desk) -> bool:
    """Where people disagreed, before anything drawn: those are out of the training until somebody decides.

    Else any answered image, random checks among them: a slip there is charged to every model until a second person
    finds it. Never because the model differs: that would mend the slips against it alone.
    """
    if _take_dispute(desk):
        return True
    which = Q()
    for split, state in ASKED_TWICE:
        which |= Q(split=split, state=state)
    there = _answered_once(desk, _answered_nearby(desk))
    return _claim(desk, there, which, Reason.SECOND_OPINION, {})


def _answered_nearby(desk: Desk) -> list[int]:
    """As `_nearby`, of all that is ASKED_TWICE together. Two or three queries, each by the index."""
    items = Item.objects.filter(project=desk.project).order_by("pk").values_list("pk", flat=True)
    kinds = [items.filter(split=split, state=state) for split, state in ASKED_TWICE]
    ends = _together([part for each in kinds for part in (each[:1], each.reverse()[:1])])
    if not ends:
        return []
    start = random.randint(ends[0], ends[-1])
    found = _together([each.filter(pk__gte=start)[:NEARBY] for each in kinds])[:NEARBY]
    if len(found) < NEARBY:
        again = _together([each[:NEARBY] for each in kinds])
        found = list(dict.fromkeys([*found, *again[: NEARBY - len(found)]]))
    random.shuffle(found)
    return found


def _together(ids: list[Any]) -> list[int]:
    """The ids of all these queries, ascending. One query."""
    return sorted(ids[0].union(*ids[1:], all=True))


def _take_dispute(desk: Desk) -> bool:
    mine = _answered_by(desk.annotator).filter(item=OuterRef("item"))
    return _take_entry(desk, disputes() & Q(~Exists(mine)))


def _answered_once(desk: Desk, item_ids: list[int]) -> list[int]:
    """Those named by exactly one person, who is somebody else, and with no other answer. Two queries.

    None whose label is of an archived class: who is asked cannot choose it, and would dispute what is right.
    """
    given: dict[int, list[Annotation]] = defaultdict(list)
    current = Annotation.objects.filter(item__in=item_ids, superseded_by__isnull=True)
    for answer in current.exclude(kind=Annotation.Kind.RETRACTION):
        given[answer.item_id].append(answer)
    alone = [given[pk][0] for pk in item_ids if len(given[pk]) == 1]
    open_ids = {each.pk for each in queries.open_classes(desk.project)}
    return [each.item_id for each in alone if _is_others(each, desk.annotator) and _class_ids(desk, each) <= open_ids]


def _is_others(answer: Annotation, but: User) -> bool:
    naming = (Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE)
    return answer.annotator_id != but.pk and answer.kind in naming and answer.source == Annotation.Source.PERSON


def _class_ids(desk: Desk, answer: Annotation) -> set[int]:
    return set(task_types.get(desk.project.task_type).class_ids(answer.value)) if answer.value else set()


def _take_suspect(desk: Desk) -> bool:
    """The worst first."""
    waiting = _suspects(desk.project, desk.annotator, desk.answers)
    found = dict(waiting.order_by("-score", "id").values_list("item_id", "pk")[:NEARBY])
    which = Q(split=Split.POOL) & ~Q(state=Item.State.OPEN)
    data = {item_id: {"suspect": pk} for item_id, pk in found.items()}
    return _claim(desk, found, which, Reason.SUSPECT, data)


def _suspects(project: Project, annotator: User, answers: list[Given]) -> QuerySet[Suspect]:
    """Those this person may settle: of somebody else's answers; of one's own only where nobody else answers at
    present, and not at once: what was answered a minute ago is remembered, not seen again."""
    waiting = Suspect.objects.filter(
        project=project, state=Suspect.State.OPEN, annotation__superseded_by__isnull=True, item__split=Split.POOL
    )
    mine = _answered_by(annotator).filter(item=OuterRef("item"))
    asked = ~Q(annotation__annotator_id=annotator.pk) & Q(~Exists(mine))
    own = [each.annotation_id for each in answers if each.annotator_id == annotator.pk]
    if len(own) == len(answers) and len(own) >= ANSWERS_BETWEEN:
        asked |= Q(annotation__annotator_id=annotator.pk, annotation__lt=own[-ANSWERS_BETWEEN])
    return waiting.filter(asked)


def has_second_looks(project: Project, annotator: User) -> bool:
    """Whether this person could settle what others disagree about, or a suspicion. At most three queries."""
    mine = _answered_by(annotator).filter(item=OuterRef("item"))
    if QueueEntry.objects.filter(disputes(), free(), ~Exists(mine), project=project).exists():
        return True
    return _suspects(project, annotator, newest_answers(project)).exists()


def _take_automatic(desk: Desk) -> bool:
    """What a certification round waits for, else a label that was accepted unseen, under whatever certificate."""
    if _take_round_check(desk):
        return True
    if not desk.project.settings.auto_accept:  # then there are none, and this costs nothing to know
        return False
    open_items = Item.objects.filter(project=desk.project, split=Split.POOL, state=Item.State.OPEN)
    start = _random_place(open_items)
    if start is None:
        return False
    unseen = Proposal.objects.filter(project=desk.project, state=Proposal.State.AUTO_ACCEPTED)
    there = _from(start, unseen.order_by("item_id").values_list("item_id", flat=True), "item_id")
    data = {
        item_id: {"proposal": pk, "certificate": certificate_id}
        for item_id, pk, certificate_id in unseen.filter(item__in=there).values_list("item_id", "pk", "certificate_id")
    }
    which = Q(accepted_unseen(), split=Split.POOL, state=Item.State.OPEN)
    return _claim(desk, [pk for pk in there if pk in data], which, Reason.AUTOMATIC, data)


def _take_round_check(desk: Desk) -> bool:
    if _take_entry(desk, Q(reason_code=Reason.AUTOMATIC, reason_data={})):
        return True
    due = round_checks.checks_due(desk.project, NEARBY)
    return _claim(desk, due, Q(split=Split.POOL, state=Item.State.OPEN), Reason.AUTOMATIC, {})


# Each of these comes to an end when it is asked again and again.
FINITE = (_take_audit, _take_round_check, _take_dispute, _take_suspect)
