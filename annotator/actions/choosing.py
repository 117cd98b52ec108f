"""Images a person chose to label next: they come before everything that is ranked, for that person alone.

The shares of the needs stay as they are: a random check that is due is asked all the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from annotator.actions import needs, queueing, round_checks
from annotator.errors import Conflict
from annotator.models import AuditEvent, Item, Project, QueueEntry, Split

# So many at a time: an afternoon's work, and few enough to be put back at a click.
CHOSEN_AT_MOST = 500
CHOSE, GAVE_BACK = "chose images to label", "gave chosen images back"


@dataclass(frozen=True)
class Chosen:
    """count: images that now come first. held: others are answering. left: open ones beyond CHOSEN_AT_MOST."""

    count: int
    held: int
    left: int


@transaction.atomic
def choose_items(*, project: Project, annotator: User, item_ids: Sequence[int]) -> Chosen:
    """Put these images at the head of this person's queue, in the order given, and let go of what the person holds.

    Only open images of the pool can be: neither random checks nor what a running round sets aside, nor what is
    accepted unseen; those are passed over. Raises Conflict where none is left. Takes the queue's advisory lock, then
    the item rows, then the entries; what is being answered or handed out at this moment is left as it is.
    """
    queueing.lock_queue(project)
    wanted = _choosable(project, item_ids)
    first, left = wanted[:CHOSEN_AT_MOST], len(wanted[CHOSEN_AT_MOST:])
    items = Item.objects.select_for_update(skip_locked=True, no_key=True)
    still_open = set(items.filter(pk__in=first, state=Item.State.OPEN).order_by("pk").values_list("pk", flat=True))
    queueing.release_items(project=project, annotator=annotator)
    entries = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(item__in=still_open)
    free = entries.filter(needs.free()).exclude(needs.disputes())
    QueueEntry.objects.filter(pk__in=list(free.values_list("pk", flat=True))).delete()
    held = set(QueueEntry.objects.filter(item__in=still_open).values_list("item_id", flat=True))
    taken = [item_id for item_id in first if item_id in still_open and item_id not in held]
    if not taken:
        raise Conflict(_why_none(held, first))
    data = {"by": annotator.pk, "at": int(time.time())}
    QueueEntry.objects.bulk_create(
        QueueEntry(
            project=project,
            item_id=item_id,
            rank=place - len(taken),
            reason_code=QueueEntry.Reason.CHOSEN,
            reason_data=data,
        )
        for place, item_id in enumerate(taken)
    )
    AuditEvent.objects.create(project=project, actor=annotator, verb=CHOSE, detail={"count": len(taken)})
    return Chosen(len(taken), len(first) - len(taken), left)


def _choosable(project: Project, item_ids: Sequence[int]) -> list[int]:
    """Those of these items that may be chosen, in the order given. Two queries."""
    items = Item.objects.filter(
        ~needs.accepted_unseen(),
        ~round_checks.is_check(),
        project=project,
        split=Split.POOL,
        state=Item.State.OPEN,
    )
    # Either is one query; a list of ids is quicker up to where the index of open images is.
    if len(item_ids) <= 20_000:
        items = items.filter(pk__in=list(item_ids))
    there = np.fromiter(items.values_list("pk", flat=True), np.int64)
    there = np.setdiff1d(there, round_checks.set_aside(project))
    given = np.asarray(item_ids, np.int64)
    return list(dict.fromkeys(given[np.isin(given, there)].tolist()))


def _why_none(held: set[int], first: list[int]) -> str:
    if held or first:
        return _("somebody else is answering these images right now; nothing was changed, try again in a few minutes")
    return _(
        "none of these images can be labelled: they are answered, random checks, or part of a running"
        " round; nothing was changed"
    )


@transaction.atomic
def give_back(*, project: Project, annotator: User) -> int:
    """Let the images this person chose and has not answered be ranked like all others; how many those were."""
    queueing.lock_queue(project)
    mine = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(chosen_by(annotator))
    mine = mine.filter(Q(leased_by=annotator) | needs.free(), project=project)
    count = QueueEntry.objects.filter(pk__in=list(mine.values_list("pk", flat=True))).delete()[0]
    if count:
        AuditEvent.objects.create(project=project, actor=annotator, verb=GAVE_BACK, detail={"count": count})
        queueing.start_queue(project=project)
    return count


def chosen_by(annotator: User) -> Q:
    """Entries this person chose."""
    return Q(reason_code=QueueEntry.Reason.CHOSEN, reason_data__by=annotator.pk)


def waiting(project: Project, annotator: User) -> int:
    """How many images this person chose and has not answered. One query."""
    return QueueEntry.objects.filter(chosen_by(annotator), project=project).count()
