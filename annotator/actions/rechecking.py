"""What an answer to an image that was answered before means for the suspicion that led to it."""

from typing import Any

from django.utils import timezone

from annotator import queries, task_types
from annotator.models import Annotation, Item, QueueEntry, Suspect

NAMING = (Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE)
State = Suspect.State


def settle_suspects(item: Item, current: list[Annotation]) -> None:
    """Bring the suspicions about an item's labels in line with these current answers to it. One query, mostly.

    A blind check settles one, or else a reviewer's decision: with the same class the label was right, otherwise it is
    repaired. Taken back, it is as if it had never been. What a check found stays found, whatever is decided later. A
    label that its author replaced in another way is no longer suspected. What somebody dropped by word stays dropped.
    """
    for suspect in Suspect.objects.filter(item=item).exclude(state=State.DROPPED).select_related("annotation"):
        state, check = _state(suspect, item, current)
        if state == suspect.state and (check is None or check.pk == suspect.settled_by_id):
            continue
        suspect.state, suspect.settled_by = state, check
        is_settled = state in (State.CONFIRMED, State.REPAIRED)
        suspect.settled_at = timezone.now() if is_settled else None
        suspect.save(update_fields=["state", "settled_by", "settled_at"])


def _state(suspect: Suspect, item: Item, current: list[Annotation]) -> tuple[str, Annotation | None]:
    doubted = suspect.annotation
    stands = any(each.pk == doubted.pk for each in current)
    blind = [each for each in current if each.reason_code != Annotation.DECISION]
    for answers, reason in ((blind, QueueEntry.Reason.SUSPECT), (current, Annotation.DECISION)):
        checks = [
            each
            for each in answers
            if each.reason_code == reason
            and each.kind in NAMING
            and each.created_at >= suspect.created_at
            and (stands or each.annotator_id == doubted.annotator_id)
        ]
        if checks:
            return (State.CONFIRMED if _is_upheld(doubted, item, answers) else State.REPAIRED), checks[-1]
    if stands:
        return State.OPEN, None
    # Settled by somebody else's check before its author took it back: that stays as it was found.
    return (State.DROPPED if suspect.state == State.OPEN else State(suspect.state)), suspect.settled_by


def _is_upheld(doubted: Annotation, item: Item, current: list[Annotation]) -> bool:
    """Whether the item still is what the doubted label says."""
    task_type: Any = task_types.get(item.project.task_type)
    value = queries.settled_value(task_type, current)
    return value is not None and doubted.value is not None and bool(task_type.agreement(value, doubted.value) >= 0.5)


def doubt_the_copy(replaced: Annotation, copy: Annotation) -> None:
    """An answer that was settled by another of the same person is brought back by a copy; so is the suspicion."""
    settled = Suspect.objects.filter(annotation=replaced, state__in=[State.CONFIRMED, State.REPAIRED])
    settled.update(annotation=copy)
