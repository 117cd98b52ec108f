"""The queue: what is asked next, and who holds it.

Locks are always taken in this order: item rows, then queue entries. Entries are taken with SKIP LOCKED, so nobody
waits for somebody else's next image. Whoever holds an item or an entry only ever tries for the queue's advisory lock:
a ranking that is being written holds that one and comes for the rows after it, and each would wait for the other.
"""

import random
import uuid as uuids
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from annotator import queries
from annotator.models import Annotation, Item, ModelVersion, Project, Proposal, QueueEntry, Split

# Advisory lock namespaces; the second key is the project.
QUEUE_LOCK = 1001
REFILL = 50


@dataclass(frozen=True)
class Ranked:
    """One line of a ranking: ask ``item_id`` in this order, for this reason."""

    item_id: int
    utility: float
    reason_code: str
    reason_data: dict[str, Any] = field(default_factory=dict)


@transaction.atomic
def reserve_items(*, project: Project, annotator: User, count: int = 5) -> list[QueueEntry]:
    """Everything this person now holds, topped up to ``count`` items, in rank order.

    Holding is a lease of LEASE_S seconds; what is already held is renewed. Locks the entries it takes with SKIP
    LOCKED, so two people never get the same one. Fewer than ``count`` come while a new ranking is being written, and
    when nearly everything is answered. Four to ten queries.
    """
    renew_leases(project=project, annotator=annotator)
    missing = count - queries.held_entries(project, annotator).count()
    if missing > 0:
        missing -= _take(project, annotator, missing)
    # Empty: top it up, unless somebody is writing to it at this moment; then the next request finds that.
    if missing > 0 and _try_queue_lock(project):
        missing -= _take(project, annotator, missing)
        if missing > 0 and refill_queue(project=project):
            _take(project, annotator, missing)
    return list(queries.held_entries(project, annotator))


def _take(project: Project, annotator: User, count: int) -> int:
    free = (
        QueueEntry.objects.select_for_update(skip_locked=True, of=("self",))
        .filter(_free(), project=project)
        .order_by("rank", "id")
        .values_list("pk", flat=True)[:count]
    )
    return QueueEntry.objects.filter(pk__in=list(free)).update(leased_by=annotator, leased_until=lease_end())


def _free() -> Q:
    """Held by nobody, or no longer."""
    return Q(leased_until__isnull=True) | Q(leased_until__lte=timezone.now())


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
    stale = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(_free(), project=project)
    QueueEntry.objects.filter(pk__in=list(stale.values_list("pk", flat=True))).delete()
    return _insert(project, [entry for entry in entries if entry.item_id in still_open], model_version, first_rank=0)


def _lock_open_items(project: Project, entries: list[Ranked]) -> set[int]:
    """Those that may be queued. Locked until they are, or an answer in between would leave them queued for ever."""
    items = Item.objects.select_for_update(skip_locked=True, no_key=True).filter(
        _is_asked(), project=project, pk__in=[entry.item_id for entry in entries], state=Item.State.OPEN
    )
    return set(items.order_by("pk").values_list("pk", flat=True))


def start_queue(*, project: Project) -> int:
    """Top the queue up in random order, so that labelling can begin before anything is embedded."""
    missing = project.settings.queue_length - QueueEntry.objects.filter(project=project).count()
    return refill_queue(project=project, count=missing) if missing > 0 else 0


@transaction.atomic
def refill_queue(*, project: Project, count: int = REFILL) -> int:
    """Add up to ``count`` open items in random order at the end of the queue, random checks at their share.

    The stop-gap for when people are faster than the ranking. Checks are drawn at random among all open ones: a
    subset in import order would bias the accuracy measured on it. Locks as ``fill_queue`` does.
    """
    lock_queue(project)
    share = project.settings.audit_share
    checks = list(_unqueued(project, Split.AUDIT).order_by("?").values_list("pk", flat=True)[: round(count * share)])
    asked = _random_pool_items(project, count - len(checks))
    if not asked and not checks:
        checks = list(_unqueued(project, Split.AUDIT).order_by("?").values_list("pk", flat=True)[:count])
    entries = [Ranked(pk, 0.0, QueueEntry.Reason.RANDOM) for pk in asked]
    for position, pk in enumerate(checks):
        entries.insert(round(position / share) if share else len(entries), Ranked(pk, 0.0, QueueEntry.Reason.AUDIT))
    last = QueueEntry.objects.filter(project=project).order_by("-rank").values_list("rank", flat=True).first()
    still_open = _lock_open_items(project, entries)
    entries = [entry for entry in entries if entry.item_id in still_open]
    return _insert(project, entries, None, first_rank=0 if last is None else last + 1)


def _unqueued(project: Project, split: str) -> QuerySet[Item]:
    return Item.objects.filter(
        _is_asked(), project=project, split=split, state=Item.State.OPEN, queue_entry__isnull=True
    )


def _is_asked() -> Q:
    """Whether people are asked about an item: not while its label is accepted unseen."""
    unseen = Proposal.objects.filter(item=OuterRef("pk"), state=Proposal.State.AUTO_ACCEPTED)
    return Q(~Exists(unseen))


def _random_pool_items(project: Project, count: int) -> list[int]:
    """Open pool items from a random place on: a full random sort of a large pool would take seconds."""
    pool = _unqueued(project, Split.POOL).order_by("pk").values_list("pk", flat=True)
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
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [QUEUE_LOCK, project.pk])


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
