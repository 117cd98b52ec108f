"""A reviewer settles what an image is: where people disagree, or a label is suspected, and nobody is left to ask.

Whoever decides has seen what the others said. So a decision says what the image is and nothing of how good people or
models are: it is no answer to a question of the queue, no blind check, no hit of the search for wrong labels.
"""

import uuid as uuids
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import queries, task_types
from annotator.actions import class_changes, labeling, training
from annotator.errors import Conflict, LeaseLost, NotFound
from annotator.models import (
    Annotation,
    AuditEvent,
    Item,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Split,
    Suspect,
)

DECIDED = "decided what an image is"


def disputed_items(project: Project) -> QuerySet[Item]:
    """Those that people answered differently and no side has more of them, the longest waiting first."""
    waits = Q(queue_entry__reason_code=QueueEntry.Reason.SECOND_OPINION, queue_entry__reason_data__has_key="people")
    return Item.objects.filter(waits, project=project).order_by("queue_entry__pk")


def decided_items(project: Project) -> QuerySet[Item]:
    """Those that a decision stands for, the newest images first."""
    standing = Annotation.objects.filter(
        project=project, reason_code=Annotation.DECISION, superseded_by__isnull=True
    ).exclude(kind=Annotation.Kind.RETRACTION)
    return Item.objects.filter(project=project, pk__in=standing.values("item_id")).order_by("-pk")


@transaction.atomic
def decide(
    *,
    project: Project,
    item_id: int,
    actor: User,
    uuid: uuids.UUID,
    raw_value: Any,
    again: bool = False,
    checking: bool = False,
) -> Annotation:
    """The stored decision of this reviewer; it outweighs every other answer to the item until a later one. Sending the
    same ``uuid`` again returns the same row.

    raw_value: what the task type's ``clean`` takes, or None: none of the classes. again: whether an item that was
    decided before may be decided anew. checking: whether a label that nobody doubts may be decided too, because a
    reviewer looked at it; never that of a random check. `labeling.undo_last` takes it back. Raises InvalidAnnotation
    for a value that does not fit, NotFound, LeaseLost while somebody else is asked about the item, Conflict when it
    waits for no decision or the uuid was used for something else. Locks as `labeling.record_annotation` does: the
    uuid, the item row, its queue entry.
    """
    # 1. The uuid, then the item: whoever answers or decides it at this moment comes before or after.
    class_changes.hold_classes(project)
    labeling.lock_uuid(uuid)
    item = Item.objects.select_for_update(no_key=True).filter(project=project, pk=item_id).first()
    if item is None:
        raise NotFound(_("there is no item %(item_id)s in this project") % {"item_id": item_id})
    repeated = Annotation.objects.filter(uuid=uuid).first()
    if repeated is not None:
        return _same_decision(repeated, item, actor, raw_value)
    # 2. May it be decided?
    if item.split == Split.TEST:
        raise Conflict(_("this image belongs to the held-out test set; it is not labelled here"))
    kind, value = _cleaned(project, raw_value)
    _refuse_held(item, actor)
    why = _waits_for(item, again=again, checking=checking)
    # 3. Write.
    decision = Annotation.objects.create(
        uuid=uuid,
        project=project,
        item=item,
        annotator=actor,
        kind=kind,
        value=value,
        reason_code=Annotation.DECISION,
        reason_data={"was": why},
        supersedes=queries.current_annotation(item, actor),
    )
    class_changes.follow(decision)
    labeling.close_item(item)
    Proposal.objects.filter(item=item, state__in=Proposal.UNDECIDED).update(state=Proposal.State.WITHDRAWN)
    training.refit_when_due(project=project)
    detail = {"item": item.pk, "annotation": decision.pk, "kind": kind, "value": value, "was": why}
    AuditEvent.objects.create(project=project, actor=actor, verb=DECIDED, detail=detail)
    return decision


def _same_decision(repeated: Annotation, item: Item, actor: User, raw_value: Any) -> Annotation:
    kind = Annotation.Kind.NONE_OF_THESE if raw_value is None else Annotation.Kind.LABEL
    is_same = (repeated.item_id, repeated.annotator_id, repeated.kind) == (item.pk, actor.pk, kind)
    if not is_same or repeated.reason_code != Annotation.DECISION or not labeling.says(repeated, raw_value):
        raise Conflict(
            _("the id %(uuid)s was already used for another answer; reload the page and decide again")
            % {"uuid": repeated.uuid}
        )
    return repeated


def _cleaned(project: Project, raw_value: Any) -> tuple[str, dict[str, Any] | None]:
    if raw_value is None:
        return Annotation.Kind.NONE_OF_THESE, None
    class_ids = [label_class.pk for label_class in queries.open_classes(project)]
    class_ids += class_changes.merged_into(project)  # as one that was merged while the page was open
    return Annotation.Kind.LABEL, task_types.get(project.task_type).clean(raw_value, class_ids)


def _refuse_held(item: Item, actor: User) -> None:
    """Who looks at it at present was told nothing: that answer is worth more than a decision, and may spare it."""
    entry = QueueEntry.objects.select_for_update().filter(item=item).first()
    is_held = entry is not None and entry.leased_until is not None and entry.leased_until > timezone.now()
    if entry is not None and is_held and entry.leased_by_id not in (None, actor.pk):
        raise LeaseLost(
            _("somebody is answering this image right now; nothing was decided, look again in a few minutes")
        )


def _waits_for(item: Item, *, again: bool, checking: bool) -> str:
    """Why the item waits for a decision: disputed, suspected, asked for again: decided, or checked while nobody doubts
    it. Raises Conflict."""
    current = queries.current_annotations(item)
    if queries.is_disputed(task_types.get(item.project.task_type), current):
        return "disputed"
    if Suspect.objects.filter(item=item, state=Suspect.State.OPEN).exists():
        return "suspected"
    is_decided = any(each.reason_code == Annotation.DECISION for each in current)
    if is_decided and again:
        return "decided"
    if is_decided:
        raise Conflict(_("somebody decided this image meanwhile; nothing was changed, reload the page"))
    if checking and item.state == Item.State.LABELLED and not _is_measured(item):
        return "checked"
    raise Conflict(
        _("this image waits for no decision: it is not disputed and its label not suspected; reload the page")
    )


def _is_measured(item: Item) -> bool:
    """Whether its answer measures a model: a random check, or one of a round that runs."""
    in_round = RoundCheck.objects.filter(item=item, round__state=Round.State.RUNNING)
    return item.split != Split.POOL or in_round.exists()
