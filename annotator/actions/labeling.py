"""Answers: recorded once, in order, never overwritten."""

import uuid as uuids
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from annotator import queries, task_types
from annotator.actions import queueing, training
from annotator.errors import Conflict, InvalidAnnotation, LeaseLost, NotFound
from annotator.models import Annotation, Item, Project, Proposal, QueueEntry, Split

ANSWERS = (Annotation.Kind.LABEL, Annotation.Kind.SKIP, Annotation.Kind.NONE_OF_THESE)


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

    kind: one of ANSWERS. raw_value: what the task type's ``clean`` takes, for labels only. milliseconds: time spent.
    Raises InvalidAnnotation for a value that does not fit, LeaseLost when another person holds or has answered the
    item, Conflict when the uuid was used for something else. Locks the item row, then its queue entry.
    """
    if kind not in ANSWERS:
        raise InvalidAnnotation(f"answer {kind!r} is not one of {', '.join(ANSWERS)}")
    if milliseconds is not None and not 0 <= milliseconds <= 2**31 - 1:
        raise InvalidAnnotation(f"time spent {milliseconds} ms is not a sensible number; leave it out")
    # 1. The item first: whoever else answers it waits here.
    item = Item.objects.select_for_update(no_key=True).filter(project=project, pk=item_id).first()
    if item is None:
        raise NotFound(f"there is no item {item_id} in this project")
    # 2. The same answer again? Asked under the lock, so that a twin that was on its way has landed.
    repeated = Annotation.objects.filter(uuid=uuid).first()
    if repeated is not None:
        return _same_answer(repeated, item, annotator)
    # 3. May this person answer?
    if item.split == Split.TEST:
        raise Conflict("this image belongs to the held-out test set; it is not labelled here")
    value = None
    if kind == Annotation.Kind.LABEL:
        class_ids = [label_class.pk for label_class in queries.open_classes(project)]
        value = task_types.get(project.task_type).clean(raw_value, class_ids)
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
    close_item(item)
    # The person answered for themselves: what the model had put up is off the table.
    Proposal.objects.filter(item=item, state=Proposal.State.PENDING).update(state=Proposal.State.WITHDRAWN)
    training.refit_when_due(project=project)
    return annotation


def _same_answer(repeated: Annotation, item: Item, annotator: User) -> Annotation:
    if repeated.item_id != item.pk or repeated.annotator_id != annotator.pk:
        raise Conflict(f"the id {repeated.uuid} was already used for another answer; make a new one for each answer")
    return repeated


def _entry_for(item: Item, annotator: User) -> QueueEntry | None:
    """The item's queue entry. Raises LeaseLost unless it is free, held by this person, or open and not queued.

    A lease that ran out is forgiven as long as nobody else took the item.
    """
    entry = QueueEntry.objects.select_for_update().filter(item=item).first()
    if entry is not None and entry.leased_by_id not in (None, annotator.pk) and entry.leased_until is not None:
        if entry.leased_until > timezone.now():
            raise LeaseLost("your hold on this image ran out and somebody else has it now; your answer was not saved")
        return entry
    if entry is None and item.state != Item.State.OPEN:
        others = Annotation.objects.filter(item=item).exclude(annotator_id=annotator.pk)
        if others.exclude(kind=Annotation.Kind.RETRACTION).exists():
            raise LeaseLost("somebody else answered this image meanwhile; your answer was not saved")
    return entry


def close_item(item: Item) -> None:
    """Bring the item's state in line with its current answers and take it off the queue when it is settled.

    The caller holds the item's row lock.
    """
    item.state = state_of(queries.current_annotations(item))
    item.save(update_fields=["state"])
    if item.state != Item.State.OPEN:
        QueueEntry.objects.filter(item=item).delete()


def state_of(current: list[Annotation]) -> str:
    """The state that these current answers put an item in: a label outweighs none-of-these, which outweighs a skip."""
    kinds = {annotation.kind for annotation in current}
    if Annotation.Kind.LABEL in kinds:
        return Item.State.LABELLED
    if Annotation.Kind.NONE_OF_THESE in kinds:
        return Item.State.NONE_OF_THESE
    return Item.State.SKIPPED if Annotation.Kind.SKIP in kinds else Item.State.OPEN


@transaction.atomic
def undo_last(*, project: Project, annotator: User, uuid: uuids.UUID) -> QueueEntry | None:
    """Take back this person's newest answer and hold its item again, ahead of the others; None when there is none.

    The same ``uuid`` again undoes nothing more. Adds a retraction; nothing is deleted. Locks the item row.
    """
    repeated = Annotation.objects.filter(uuid=uuid, annotator=annotator).first()
    if repeated is not None:
        return QueueEntry.objects.select_related("item").filter(item_id=repeated.item_id).first()
    last = (
        Annotation.objects.filter(
            project=project,
            annotator=annotator,
            kind__in=ANSWERS,
            source=Annotation.Source.PERSON,
            superseded_by__isnull=True,
            settles__isnull=True,
        )
        .order_by("-id")
        .first()
    )
    if last is None:
        return None
    item = Item.objects.select_for_update(no_key=True).get(pk=last.item_id)
    if Annotation.objects.filter(supersedes=last).exists():  # a twin request was faster
        return QueueEntry.objects.select_related("item").filter(item=item).first()
    Annotation.objects.create(
        uuid=uuid,
        project=project,
        item=item,
        annotator=annotator,
        kind=Annotation.Kind.RETRACTION,
        supersedes=last,
    )
    close_item(item)
    return _hold_again(project, item, annotator, last)


def _hold_again(project: Project, item: Item, annotator: User, last: Annotation) -> QueueEntry:
    first = QueueEntry.objects.filter(project=project).order_by("rank").values_list("rank", flat=True).first() or 0
    entry, _ = QueueEntry.objects.update_or_create(
        item=item,
        defaults={
            "project": project,
            "rank": first - 1,
            "reason_code": last.reason_code or QueueEntry.Reason.RETURNED,
            "reason_data": last.reason_data,
            "leased_by": annotator,
            "leased_until": queueing.lease_end(),
        },
    )
    return entry
