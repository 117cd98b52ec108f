"""The queue: what is asked next, and who holds it.

The ranking says which informative question comes next; whether it is one, or one of another need (needs.py), is
decided when it is handed out, by what each need is owed of the answers (shares.py).

Locks are always taken in this order: item rows, then queue entries. Entries are taken with SKIP LOCKED, so nobody
waits for somebody else's next image. Whoever holds an item or an entry only ever tries for the queue's advisory lock:
a ranking that is being written holds that one and comes for the rows after it, and each would wait for the other.
The desk's advisory lock comes last of all: people take turns being handed questions, or two at once would both get
the one that is owed. Whoever holds it waits for nothing else, and takes rows with SKIP LOCKED alone.
"""

import random
import time
import uuid as uuids
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Case, Q, QuerySet, When
from django.utils import timezone

from annotator import queries
from annotator.actions import needs, round_checks, shares
from annotator.actions.needs import Desk, free
from annotator.models import Annotation, Item, ModelVersion, Project, QueueEntry, Split

# Advisory lock namespaces; the second key is the project.
QUEUE_LOCK, DESK_LOCK = 1001, 1011
REFILL = 50
# What a person chose to label waits for that person so long.
CHOSEN_FOR_S = 12 * 3600


@dataclass(frozen=True)
class Ranked:
    """One line of a ranking: ask ``item_id`` in this order, for this reason."""

    item_id: int
    utility: float
    reason_code: str
    reason_data: dict[str, Any] = field(default_factory=dict)


@transaction.atomic
def reserve_items(*, project: Project, annotator: User, count: int = 5) -> list[QueueEntry]:
    """Everything this person now holds, topped up to ``count`` items: what is due, then what is held longest.

    Holding is a lease of LEASE_S seconds; what is already held is renewed. Locks the entries it takes with SKIP
    LOCKED, so two people never get the same one. Fewer than ``count`` come while a new ranking is being written, and
    when nearly everything is answered. Takes the desk's lock where anything is missing. Five queries and those of
    each question that is handed out: two for an informative one, at most eight for another.
    """
    renew_leases(project=project, annotator=annotator)
    held = list(queries.held_entries(project, annotator))
    if len(held) >= count:
        return held
    _lock(DESK_LOCK, project)
    _hand_out(project, annotator, held, count - len(held))
    return list(queries.held_entries(project, annotator))


def _hand_out(project: Project, annotator: User, held: list[QueueEntry], missing: int) -> None:
    """So many questions more for this person, who holds these: what is owed first, then what is informative."""
    answers = shares.newest_answers(project)
    out = QueueEntry.objects.filter(project=project, leased_until__gt=timezone.now(), leased_by__isnull=False)
    ledger = shares.Ledger(
        shares.shares(project.settings, is_round_running=round_checks.running(project) is not None),
        [each.reason for each in answers],
        out.values_list("reason_code", "leased_by_id"),
        annotator.pk,
    )
    # Asked before what this person holds already: a need is due now, and the ranked ones can wait.
    first = min((each.rank for each in held if each.reason_code not in shares.NEEDS), default=None)
    last = max((each.rank for each in held), default=-1)
    desk = Desk(project, annotator, answers, lease_end(), max(0, last) if first is None else first - 1)
    dry: set[str] = set()
    while missing > 0:
        need = next((each for each in ledger.due() if each not in dry), None)
        if need is not None:
            if not needs.take(desk, need):
                dry.add(need)
                continue
            taken = need
            last = max(last, desk.rank)
        else:
            rank, is_over = _take_informative(desk, last + 1)
            if rank is None:
                if is_over:
                    _hand_out_the_rest(desk, missing)
                return
            taken = QueueEntry.Reason.RANDOM
            last = rank
            if first is None:  # a deck of its own: one after the other
                desk = replace(desk, rank=rank)
        ledger.hand_out(taken)
        missing -= 1


def _take_informative(desk: Desk, behind: int) -> tuple[int | None, bool]:
    """The rank of the next of the ranking, topped up when it is empty; None when there is none, and then whether there
    will be none: somebody may be writing to the queue at this moment, and the next request finds that."""
    rank = _take_ranked(desk, behind)
    if rank is not None or not _try_queue_lock(desk.project):
        return rank, False
    rank = _take_ranked(desk, behind)
    if rank is None:
        _drop_left_behind(desk.project)
        if refill_queue(project=desk.project):
            rank = _take_ranked(desk, behind)
    return rank, rank is None


def _take_ranked(desk: Desk, behind: int) -> int | None:
    """Its rank is raised to ``behind``, past all that this person holds: every ranking begins at 0 again, and what is
    held would wait for ever behind what came later. What this person chose comes first, what others did last."""
    chosen = Q(reason_code=QueueEntry.Reason.CHOSEN)
    turn = Case(When(chosen & Q(reason_data__by=desk.annotator.pk), then=0), When(chosen, then=2), default=1)
    waiting = (
        QueueEntry.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(free(), project=desk.project)
        .exclude(reason_code__in=shares.NEEDS)
        .order_by(turn, "rank", "id")
        .values_list("pk", "rank")
        .first()
    )
    if waiting is None:
        return None
    rank = max(waiting[1], behind)
    QueueEntry.objects.filter(pk=waiting[0]).update(leased_by=desk.annotator, leased_until=desk.until, rank=rank)
    return rank


def _drop_left_behind(project: Project) -> None:
    """Let open images that a need asked for, and that nobody holds any more, be drawn like all others: the need may
    have no share by now, and what it asks again about may have lost its answer."""
    behind = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(
        free(), needs.left_behind(), project=project
    )
    QueueEntry.objects.filter(pk__in=list(behind.values_list("pk", flat=True))).delete()


def _hand_out_the_rest(desk: Desk, missing: int) -> None:
    """Nothing informative is left. What has an end is asked to its end, whether it is owed anything or not."""
    for take in needs.FINITE:
        while missing > 0 and take(desk):
            missing -= 1


def lease_end() -> Any:
    return timezone.now() + timedelta(seconds=settings.LEASE_S)


def renew_leases(*, project: Project, annotator: User) -> int:
    """Give this person LEASE_S more seconds for everything still held; how many items that is.

    SKIP LOCKED: an entry in the hands of the same person's other window is being answered or renewed there, and two
    windows that wait for each other's entries would wait for ever.
    """
    held = QueueEntry.objects.select_for_update(skip_locked=True).filter(
        project=project, leased_by=annotator, leased_until__gt=timezone.now()
    )
    return QueueEntry.objects.filter(pk__in=list(held.values_list("pk", flat=True))).update(leased_until=lease_end())


def release_items(*, project: Project, annotator: User) -> int:
    """Let others have what this person holds; how many items that is."""
    return QueueEntry.objects.filter(project=project, leased_by=annotator).update(leased_by=None, leased_until=None)


@transaction.atomic
def fill_queue(*, project: Project, entries: list[Ranked], model_version: ModelVersion | None = None) -> int:
    """Replace the queue by a new ranking; what people hold stays with them. How many entries now wait.

    Items answered since the ranking was computed are left out. Takes the queue's advisory lock, then the item rows,
    then the entries; rows that are being answered or handed out at this moment are left as they are.
    """
    lock_queue(project)
    still_open = _lock_open_items(project, entries)
    stale = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(free(), project=project)
    stale = stale.exclude(needs.disputes()).exclude(_still_chosen())
    QueueEntry.objects.filter(pk__in=list(stale.values_list("pk", flat=True))).delete()
    return _insert(project, [entry for entry in entries if entry.item_id in still_open], model_version, first_rank=0)


def _still_chosen() -> Q:
    """Entries somebody chose lately and nobody has answered: no ranking takes them away."""
    since = int(time.time()) - CHOSEN_FOR_S
    return Q(reason_code=QueueEntry.Reason.CHOSEN, reason_data__at__gte=since, item__state=Item.State.OPEN)


def _lock_open_items(project: Project, entries: list[Ranked]) -> set[int]:
    """Those that may be queued. Locked until they are, or an answer in between would leave them queued for ever.

    The checks of a running round for nothing else: another reason might come with a hint.
    """
    blind = [entry.item_id for entry in entries if entry.reason_code == QueueEntry.Reason.AUTOMATIC]
    items = Item.objects.select_for_update(skip_locked=True, no_key=True).filter(
        _is_asked(),
        Q(~round_checks.is_check()) | Q(pk__in=blind),
        project=project,
        pk__in=[entry.item_id for entry in entries],
        state=Item.State.OPEN,
    )
    return set(items.order_by("pk").values_list("pk", flat=True))


def start_queue(*, project: Project) -> int:
    """Top the queue up in random order, so that labelling can begin before anything is embedded."""
    missing = project.settings.queue_length - QueueEntry.objects.filter(project=project).count()
    return refill_queue(project=project, count=missing) if missing > 0 else 0


@transaction.atomic
def refill_queue(*, project: Project, count: int = REFILL) -> int:
    """Add up to ``count`` open items in random order at the end of the queue; how many there were.

    The stop-gap for when people are faster than the ranking. What a running round speaks of is left out where there
    is anything else. Locks as ``fill_queue`` does.
    """
    lock_queue(project)
    entries = [Ranked(pk, 0.0, QueueEntry.Reason.RANDOM) for pk in _random_pool_items(project, count)]
    last = QueueEntry.objects.filter(project=project).order_by("-rank").values_list("rank", flat=True).first()
    still_open = _lock_open_items(project, entries)
    entries = [entry for entry in entries if entry.item_id in still_open]
    return _insert(project, entries, None, first_rank=0 if last is None else last + 1)


def _unqueued(project: Project, split: str) -> QuerySet[Item]:
    return Item.objects.filter(
        _is_asked(),
        ~round_checks.is_check(),
        project=project,
        split=split,
        state=Item.State.OPEN,
        queue_entry__isnull=True,
    )


def _is_asked() -> Q:
    """Whether people are asked about an item, other than to check it: not while its label is accepted unseen."""
    return Q(~needs.accepted_unseen())


def _random_pool_items(project: Project, count: int) -> list[int]:
    """Open pool items by chance, those of a running round only where no others are left."""
    pool = _unqueued(project, Split.POOL).order_by("pk").values_list("pk", flat=True)
    apart = round_checks.set_aside(project)
    if not len(apart):
        return _some_of(pool, count)
    # A round is about half of what is open at most: of so many some are others.
    for found in (_some_of(pool, 8 * count), list(pool)):
        others = [pk for pk, is_apart in zip(found, np.isin(found, apart).tolist(), strict=True) if not is_apart]
        if others:
            return others[:count]
    return _some_of(pool, count)


def _some_of(pool: Any, count: int) -> list[int]:
    """From a random place on: a full random sort of a large pool would take seconds."""
    first, last = pool.first(), pool.last()
    if first is None or last is None or count <= 0:
        return []
    if last - first < 20_000:
        return list(pool.order_by("?")[:count])
    start = random.randint(first, last)
    found = list(pool.filter(pk__gte=start)[:count])
    found += list(pool.filter(pk__lt=start)[: count - len(found)])
    random.shuffle(found)
    return found


def _insert(
    project: Project, entries: Iterable[Ranked], model_version: ModelVersion | None, *, first_rank: int
) -> int:
    rows = [
        QueueEntry(
            project=project,
            item_id=entry.item_id,
            rank=first_rank + position,
            utility=entry.utility,
            reason_code=entry.reason_code,
            reason_data=entry.reason_data,
            model_version=model_version,
        )
        for position, entry in enumerate(entries)
    ]
    QueueEntry.objects.bulk_create(rows, ignore_conflicts=True, batch_size=1000)
    return len(rows)


def lock_queue(project: Project) -> None:
    """Let nobody else write to this project's queue until the transaction ends. Before any row."""
    _lock(QUEUE_LOCK, project)


def _lock(namespace: int, project: Project) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [namespace, project.pk])


def _try_queue_lock(project: Project) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [QUEUE_LOCK, project.pk])
        return bool(cursor.fetchone()[0])


@transaction.atomic
def return_skipped(*, project: Project) -> int:
    """Make every skipped item open again, so that it is asked once more. How many there were.

    Each skip is retracted, in the name of whoever skipped: an item is as open as its answers say. Takes the queue's
    advisory lock before the item rows, since topping the queue up waits for it.
    """
    lock_queue(project)
    skipped = Item.objects.select_for_update(no_key=True).filter(project=project, state=Item.State.SKIPPED)
    returned = list(skipped.order_by("pk").values_list("pk", flat=True))
    skips = Annotation.objects.filter(
        item_id__in=returned, kind=Annotation.Kind.SKIP, superseded_by__isnull=True
    ).order_by("pk")
    Annotation.objects.bulk_create([_retraction_of(skip) for skip in skips], batch_size=1000)
    Item.objects.filter(pk__in=returned).update(state=Item.State.OPEN)
    if returned:
        start_queue(project=project)
    return len(returned)


def _retraction_of(skip: Annotation) -> Annotation:
    return Annotation(
        uuid=uuids.uuid4(),
        project_id=skip.project_id,
        item_id=skip.item_id,
        annotator_id=skip.annotator_id,
        kind=Annotation.Kind.RETRACTION,
        supersedes=skip,
    )
