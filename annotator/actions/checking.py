"""A reviewer looks through labels that people gave: a screenful in one transaction, taken back as one."""

import uuid as uuids
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from annotator import queries, task_types
from annotator.actions import deciding, flagging
from annotator.actions.reviewing import CHECKED, DECISIONS_AT_MOST, Conflicting, Decision
from annotator.errors import Conflict, InvalidAnnotation
from annotator.models import Annotation, AuditEvent, Flag, Item, Project

DOUBTED = "A reviewer doubts this label"


@transaction.atomic
def check_labels(
    *,
    project: Project,
    reviewer: User,
    right: list[int] | None = None,
    doubted: list[int] | None = None,
    corrected: dict[int, Any] | None = None,
    place: str = "",
) -> Decision:
    """Decide what the corrected items are, flag the doubted ones, and leave those that are right as they are.

    All name items. ``corrected`` maps an item to what the task type's clean takes; each becomes a decision of the
    reviewer (`deciding.decide`), which outweighs the other answers. What cannot be decided now is left alone and
    reported, in ``conflicts`` by item. Sending the same again writes nothing new. place: the address it was decided
    at, for an undo to lead back to. Locks the items in the order of their ids.
    """
    right, doubted, corrected = right or [], doubted or [], corrected or {}
    named = [*right, *doubted, *corrected]
    if len(set(named)) != len(named):
        raise InvalidAnnotation(_("an image was named twice; say right, doubted or corrected, once for each"))
    if not named or len(named) > DECISIONS_AT_MOST:
        raise InvalidAnnotation(
            _("%(n)s labels at once; send 1 to %(decisions_at_most)s")
            % {"n": len(named), "decisions_at_most": DECISIONS_AT_MOST}
        )
    decision, written, flags = Decision(accepted=len(right)), [], []
    for item_id in sorted(corrected):
        value = _cleaned(project, corrected[item_id])
        if not _is_decided(project, item_id, reviewer, value):
            try:
                written.append(_decide(project, item_id, reviewer, value))
            except Conflict as error:
                decision.conflicts.append(Conflicting(item_id, error.message))
                continue
        decision.corrected += 1
    for item_id in sorted(doubted):
        if not Flag.objects.filter(item_id=item_id, raised_by=reviewer, lowered_at=None).exists():
            flags.append(flagging.raise_flag(project=project, item_id=item_id, actor=reviewer, note=DOUBTED).pk)
        decision.rejected += 1
    if written or flags:
        detail = {"annotations": written, "flags": flags, "place": place, "accepted": len(right)}
        detail |= {"rejected": decision.rejected, "corrected": decision.corrected}
        event = AuditEvent.objects.create(project=project, actor=reviewer, verb=CHECKED, detail=detail)
        decision.event_id = event.pk
    return decision


@transaction.atomic
def _decide(project: Project, item_id: int, reviewer: User, value: dict[str, Any]) -> int:
    decided = deciding.decide(
        project=project,
        item_id=item_id,
        actor=reviewer,
        uuid=uuids.uuid4(),
        raw_value=value,
        again=True,
        checking=True,
    )
    return decided.pk


def _cleaned(project: Project, raw: Any) -> dict[str, Any]:
    class_ids = [label_class.pk for label_class in queries.open_classes(project)]
    value: dict[str, Any] = task_types.get(project.task_type).clean(raw, class_ids)
    return value


def _is_decided(project: Project, item_id: int, reviewer: User, value: dict[str, Any]) -> bool:
    item = Item.objects.filter(project=project, pk=item_id).first()
    current = queries.current_annotation(item, reviewer) if item else None
    return current is not None and (current.reason_code, current.value) == (Annotation.DECISION, value)
