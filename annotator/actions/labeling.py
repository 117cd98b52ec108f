"""Answers: recorded once, in order, never overwritten."""

import uuid as uuids
from collections import Counter
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import queries, task_types
from annotator.actions import certifying, class_changes, queueing, rechecking, rounds, training
from annotator.errors import ClassArchived, Conflict, InvalidAnnotation, LeaseLost, NotFound
from annotator.models import Annotation, Item, Project, Proposal, QueueEntry, Split, Suspect

ANSWERS = (Annotation.Kind.LABEL, Annotation.Kind.SKIP, Annotation.Kind.NONE_OF_THESE)
# Answers that settle an item for everybody; a skipped one is still anybody's.
SETTLING = (Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE)
# Advisory lock namespace; the second key is part of a uuid.
UUID_LOCK = 1003


@transaction.atomic
def submit_and_reserve(
    *,
    project: Project,
    annotator: User,
    item_id: int,
    uuid: uuids.UUID,
    kind: str,
    raw_value: Any = None,
    milliseconds: int | None = None,
    suggestion_shown: bool = False,
    count: int = 5,
) -> tuple[Annotation, list[QueueEntry]]:
    """Record an answer and hold the next items, in one transaction. Arguments as in ``record_annotation``."""
    annotation = record_annotation(
        project=project,
        annotator=annotator,
        item_id=item_id,
        uuid=uuid,
        kind=kind,
        raw_value=raw_value,
        milliseconds=milliseconds,
        suggestion_shown=suggestion_shown,
    )
    return annotation, queueing.reserve_items(project=project, annotator=annotator, count=count)


@transaction.atomic
def record_annotation(
    *,
    project: Project,
    annotator: User,
    item_id: int,
    uuid: uuids.UUID,
    kind: str,
    raw_value: Any = None,
    milliseconds: int | None = None,
    suggestion_shown: bool = False,
) -> Annotation:
    """The stored answer of this person to this item; sending the same ``uuid`` again returns the same row.

    kind: one of ANSWERS. raw_value: what the task type's ``clean`` takes, for labels only; a class that was merged
    into another meanwhile counts as that one. milliseconds: time spent. suggestion_shown: whether the person was told
    anything of what the model thinks. Raises InvalidAnnotation for a value that does not fit, ClassArchived where it
    did before, LeaseLost when another person holds or has answered the
    item and it was not offered to this one for a second answer, Conflict when the uuid was used for something else.
    Locks the classes, the uuid, the item row, then its queue entry.
    """
    if kind not in ANSWERS:
        raise InvalidAnnotation(
            _("answer %(kind)s is not one of %(known)s") % {"kind": repr(kind), "known": ", ".join(ANSWERS)}
        )
    if milliseconds is not None and not 0 <= milliseconds <= 2**31 - 1:
        raise InvalidAnnotation(
            _("time spent %(milliseconds)s ms is not a sensible number; leave it out") % {"milliseconds": milliseconds}
        )
    # 1. The classes, the uuid, then the item: whoever else uses the one or answers the other waits here.
    class_changes.hold_classes(project)
    lock_uuid(uuid)
    item = Item.objects.select_for_update(no_key=True).filter(project=project, pk=item_id).first()
    if item is None:
        raise NotFound(_("there is no item %(item_id)s in this project") % {"item_id": item_id})
    # 2. The same answer again? Asked under the locks, so that a twin that was on its way has landed.
    repeated = Annotation.objects.filter(uuid=uuid).first()
    if repeated is not None:
        return _same_answer(repeated, item, annotator, kind, raw_value)
    # 3. May this person answer?
    if item.split == Split.TEST:
        raise Conflict(_("this image belongs to the held-out test set; it is not labelled here"))
    value = None
    if kind == Annotation.Kind.LABEL:
        value = _value(project, raw_value)
    entry = _entry_for(item, annotator)
    # 4. Write.
    annotation = Annotation.objects.create(
        uuid=uuid,
        project=project,
        item=item,
        annotator=annotator,
        kind=kind,
        value=value,
        milliseconds=milliseconds,
        suggestion_shown=suggestion_shown,
        reason_code=entry.reason_code if entry else "",
        reason_data=entry.reason_data if entry else {},
        supersedes=queries.current_annotation(item, annotator),
    )
    class_changes.follow(annotation)
    close_item(item)
    # The person answered for themselves: what the model had put up is off the table.
    Proposal.objects.filter(item=item, state__in=Proposal.UNDECIDED).update(state=Proposal.State.WITHDRAWN)
    training.refit_when_due(project=project)
    if annotation.reason_code == QueueEntry.Reason.AUTOMATIC:
        rounds.judge_when_answered(project)
    return annotation


def _value(project: Project, raw_value: Any) -> dict[str, Any]:
    """The value to store. One query where its class is open."""
    task_type = task_types.get(project.task_type)
    open_ids = [each.pk for each in queries.open_classes(project)]
    try:
        return dict(task_type.clean(raw_value, open_ids))
    except InvalidAnnotation as refusal:
        known = {each.pk: each for each in project.classes.all()}
        try:
            named = known[task_type.class_ids(task_type.clean(raw_value, list(known)))[0]]
        except InvalidAnnotation:
            raise refusal from None
    # An answer may have waited in a browser while its class was merged, and that class into another one.
    merged = named
    while merged.is_archived and merged.merged_into_id is not None:
        merged = known[merged.merged_into_id]
    if merged.is_archived:
        raise ClassArchived(
            _("the class “%(name)s” was archived meanwhile; choose another one") % {"name": named.name}
        )
    # Stored as it was given; `class_changes.follow` writes down behind it what it counts as.
    return dict(task_type.clean(named.pk, [named.pk]))


def lock_uuid(uuid: uuids.UUID) -> None:
    """Let one transaction at a time use this uuid, so that a twin finds its row instead of breaking the constraint.

    Taken before any row: whoever waits here holds nothing that others wait for. 32 of the 128 bits are the key; two
    uuids that share them take turns, that is all.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [UUID_LOCK, uuid.int % 2**32 - 2**31])


def _same_answer(repeated: Annotation, item: Item, annotator: User, kind: str, raw_value: Any) -> Annotation:
    is_same = (repeated.item_id, repeated.annotator_id, repeated.kind) == (item.pk, annotator.pk, kind)
    if not is_same or not says(repeated, raw_value):
        raise Conflict(
            _("the id %(uuid)s was already used for another answer; make a new one for each answer")
            % {"uuid": repeated.uuid}
        )
    return repeated


def says(answer: Annotation, raw_value: Any) -> bool:
    """Whether this is its value, though its class may have been archived since."""
    if answer.value is None:
        return True
    task_type = task_types.get(answer.project.task_type)
    try:
        return bool(task_type.clean(raw_value, task_type.class_ids(answer.value)) == answer.value)
    except InvalidAnnotation:
        return False


def _entry_for(item: Item, annotator: User) -> QueueEntry | None:
    """The item's queue entry. Raises LeaseLost when another person holds the item, or has settled it.

    A lease that ran out is forgiven as long as nobody else took the item. What others settled may be answered by
    whom the queue asked again.
    """
    entry = QueueEntry.objects.select_for_update().filter(item=item).first()
    is_held = entry is not None and entry.leased_until is not None and entry.leased_until > timezone.now()
    if entry is not None and is_held and entry.leased_by_id not in (None, annotator.pk):
        raise LeaseLost(_("your hold on this image ran out and somebody else has it now; your answer was not saved"))
    is_offered = entry is not None and entry.reason_code in queries.ASKED_AGAIN and entry.leased_by_id == annotator.pk
    if item.state != Item.State.OPEN and not is_offered:
        current = queries.current_annotations(item)
        if any(each.kind in SETTLING and each.annotator_id != annotator.pk for each in current):
            raise LeaseLost(_("somebody else answered this image meanwhile; your answer was not saved"))
    return entry


def close_item(item: Item, *, after_undo: bool = False) -> None:
    """Bring all that follows from an item's answers in line with its current ones: its state, its place in the queue,
    and the suspicions about its label.

    Settled, it leaves the queue; disputed, it waits there for somebody who has not answered it. after_undo: whoever
    was asked again about it meanwhile keeps it, and is told no more than is true by now. The caller holds the item's
    row lock.
    """
    current = queries.current_annotations(item)
    item.state = state_of(current)
    item.save(update_fields=["state"])
    held = QueueEntry.objects.filter(
        item=item, reason_code__in=queries.ASKED_AGAIN, leased_until__gt=timezone.now(), leased_by__isnull=False
    )
    people = _at_odds(item, current)
    if after_undo and held.exists():
        _ask_truly(item, people)
    elif people:
        _queue_dispute(item, people)
    elif item.state != Item.State.OPEN:
        QueueEntry.objects.filter(item=item).delete()
    rechecking.settle_suspects(item, current)


def close_items(items: list[Item]) -> None:
    """`close_item` for many: five queries for those with one answer at most, as most have; the others one by one."""
    item_ids = [item.pk for item in items]
    current: dict[int, list[Annotation]] = {item_id: [] for item_id in item_ids}
    ends = Annotation.objects.filter(item_id__in=item_ids, superseded_by__isnull=True)
    for annotation in ends.exclude(kind=Annotation.Kind.RETRACTION).order_by("id"):
        current[annotation.item_id].append(annotation)
    suspected = set(Suspect.objects.filter(item_id__in=item_ids).values_list("item_id", flat=True))
    by_state: dict[str, list[int]] = {}
    for item in items:
        if len(current[item.pk]) > 1 or item.pk in suspected:
            close_item(item)
            continue
        item.state = state_of(current[item.pk])
        by_state.setdefault(item.state, []).append(item.pk)
    for state, same in by_state.items():
        Item.objects.filter(pk__in=same).update(state=state)
        if state != Item.State.OPEN:
            QueueEntry.objects.filter(item_id__in=same).delete()


def _at_odds(item: Item, current: list[Annotation]) -> int:
    """How many people a dispute is between; 0 where there is none."""
    if len(current) < 2 or not queries.is_disputed(task_types.get(item.project.task_type), current):
        return 0
    return len({each.annotator_id for each in queries.counted_answers(current)})


def _ask_truly(item: Item, people: int) -> None:
    """Bring what somebody is told who was asked again about the item in line with its answers: people of them are at
    odds. Where none is left, it is asked for the first time."""
    again = QueueEntry.objects.filter(item=item, reason_code__in=queries.ASKED_AGAIN)
    if item.state == Item.State.OPEN:
        first = QueueEntry.Reason.AUDIT if item.split == Split.AUDIT else QueueEntry.Reason.RANDOM
        again.update(reason_code=first, reason_data={})
        return
    opinion = again.filter(reason_code=QueueEntry.Reason.SECOND_OPINION)
    opinion.update(reason_data={"people": people} if people else {})


def _queue_dispute(item: Item, people: int) -> None:
    QueueEntry.objects.update_or_create(
        item=item,
        defaults={
            "project_id": item.project_id,
            "rank": 0,
            "utility": 0.0,
            "reason_code": QueueEntry.Reason.SECOND_OPINION,
            "reason_data": {"people": people},
            "leased_by": None,
            "leased_until": None,
        },
    )


def state_of(current: list[Annotation]) -> str:
    """The state that these current answers put an item in: what most say of it, and where that is level, a label
    outweighs none-of-these, which outweighs a skip."""
    counted = queries.counted_answers(current)
    n_labels = Counter(str(each.value) for each in counted if each.kind == Annotation.Kind.LABEL)
    n_none = sum(each.kind == Annotation.Kind.NONE_OF_THESE for each in counted)
    if n_labels and max(n_labels.values()) >= n_none:
        return Item.State.LABELLED
    if n_none:
        return Item.State.NONE_OF_THESE
    is_skipped = any(each.kind == Annotation.Kind.SKIP for each in current)
    return Item.State.SKIPPED if is_skipped else Item.State.OPEN


@transaction.atomic
def undo_last(
    *, project: Project, annotator: User, uuid: uuids.UUID, answer: uuids.UUID | None = None
) -> Annotation | None:
    """This person's newest answer, or the ``answer`` of this uuid, now taken back; None when there is none.

    Its item is held again, ahead of the others, unless an earlier answer of the same person or somebody else's still
    settles it; asked about an image that had an answer, the person is asked again all the same. A label that was
    accepted unseen, and taken off by the answer, counts again. The same ``uuid`` again undoes nothing more; Conflict
    when it was used for something else, when the answer changed at this very moment, or when the named one does not
    count any more. Nothing is deleted. Locks the uuid, then the item row, then its queue entry.
    """
    class_changes.hold_classes(project)
    lock_uuid(uuid)
    repeated = Annotation.objects.select_related("supersedes").filter(uuid=uuid).first()
    if repeated is not None:
        return _same_undo(repeated, project, annotator)
    last = _named_answer(project, annotator, answer) if answer else _newest_answer(project, annotator)
    if last is None:
        return None
    item = Item.objects.select_for_update(no_key=True).get(pk=last.item_id)
    if Annotation.objects.filter(supersedes=last).exists():
        raise Conflict(
            _("your newest answer was changed from elsewhere meanwhile; nothing was taken back, undo again")
        )
    take_back(last, item, uuid)
    if last.reason_code == QueueEntry.Reason.AUTOMATIC:
        certifying.accept_again(item=item, proposal_id=last.reason_data.get("proposal"))
    if item.state == Item.State.OPEN or last.reason_code in queries.ASKED_AGAIN:
        _hold_again(project, item, annotator, last)
    return last


def _newest_answer(project: Project, annotator: User) -> Annotation | None:
    """By the time it was given: one that was brought back is as old as it was."""
    return _own_answers(project, annotator).order_by("-created_at", "-id").first()


def _named_answer(project: Project, annotator: User, uuid: uuids.UUID) -> Annotation:
    """The answer of this uuid, or the copy of it that an undo brought back. Raises Conflict unless it counts now.

    Two tabs of one person each take back what was answered in them, whatever was answered last.
    """
    given = Annotation.objects.filter(uuid=uuid, project=project, annotator=annotator).first()
    found = None
    if given is not None:
        found = _own_answers(project, annotator).filter(item_id=given.item_id, created_at=given.created_at).first()
    if found is None:
        raise Conflict(_("that answer does not count any more, so nothing was taken back"))
    return found


def _own_answers(project: Project, annotator: User) -> QuerySet[Annotation]:
    return Annotation.objects.filter(
        project=project,
        annotator=annotator,
        kind__in=ANSWERS,
        source=Annotation.Source.PERSON,
        superseded_by__isnull=True,
        settles__isnull=True,
    )


def _same_undo(repeated: Annotation, project: Project, annotator: User) -> Annotation | None:
    is_same = (repeated.project_id, repeated.annotator_id) == (project.pk, annotator.pk)
    if not is_same or repeated.kind != Annotation.Kind.RETRACTION:
        raise Conflict(
            _("the id %(uuid)s was already used for something else; make a new one for each undo")
            % {"uuid": repeated.uuid}
        )
    return repeated.supersedes


def take_back(answer: Annotation, item: Item, uuid: uuids.UUID) -> None:
    """Retract a current answer, bring back the one it had replaced, and bring the item's state in line.

    Rows are only added: a retraction, and behind it a copy of the earlier answer. The caller holds the item's row
    lock.
    """
    retraction = Annotation.objects.create(
        uuid=uuid,
        project_id=answer.project_id,
        item=item,
        annotator_id=answer.annotator_id,
        kind=Annotation.Kind.RETRACTION,
        supersedes=answer,
    )
    replaced = _as_given(answer).supersedes
    if replaced is not None and replaced.kind != Annotation.Kind.RETRACTION:
        # In the words it was given in: the merge that moved it may have been taken back since.
        _bring_back(_as_given(replaced), retraction)
    close_item(item, after_undo=True)


def _as_given(answer: Annotation) -> Annotation:
    """The row in which this answer was first recorded: one that was brought back is a copy with the same time."""
    copies = Annotation.objects.filter(
        item_id=answer.item_id, annotator_id=answer.annotator_id, created_at=answer.created_at
    )
    return copies.earliest("id")


def _bring_back(replaced: Annotation, retraction: Annotation) -> None:
    copy = Annotation.objects.get(pk=replaced.pk)
    copy.pk, copy.uuid, copy.supersedes = None, uuids.uuid4(), retraction
    copy._state.adding = True
    copy.save()
    rechecking.doubt_the_copy(replaced, copy)
    # It was given then, not now; auto_now_add cannot be told so.
    Annotation.objects.filter(pk=copy.pk).update(created_at=replaced.created_at)
    copy.created_at = replaced.created_at
    rechecking.doubt_the_copy(copy, class_changes.follow(copy))  # its class may have been merged since


def _hold_again(project: Project, item: Item, annotator: User, last: Annotation) -> None:
    entry = QueueEntry.objects.select_for_update().filter(item=item, leased_until__gt=timezone.now()).first()
    if entry is not None and entry.leased_by_id not in (None, annotator.pk):
        return  # somebody else was asked meanwhile, and looks at it
    first = QueueEntry.objects.filter(project=project).order_by("rank").values_list("rank", flat=True).first() or 0
    was_asked = last.reason_code and last.reason_code != Annotation.DECISION
    QueueEntry.objects.update_or_create(
        item=item,
        defaults={
            "project": project,
            "rank": first - 1,
            "reason_code": last.reason_code if was_asked else QueueEntry.Reason.RETURNED,
            "reason_data": last.reason_data if was_asked else {},
            "leased_by": annotator,
            "leased_until": queueing.lease_end(),
        },
    )
    _ask_truly(item, _at_odds(item, queries.current_annotations(item)))
