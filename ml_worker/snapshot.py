"""The database as frozen arrays. With tasks.py the only code of the worker that sees Django.

A row is an item's place in the arrays of the current embedding; items imported since have no row yet.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.db.models import Max
from numpy.typing import NDArray

from annotator import queries, task_types
from annotator.models import Annotation, Item, Project, Proposal, Split
from ml_worker.fast_loop import Answers, LoopSettings
from ml_worker.pool import Pool, Rows

# How splits are written in splits.npy.
SPLIT_CODES = {Split.POOL: 0, Split.AUDIT: 1, Split.TEST: 2}


@dataclass(frozen=True, eq=False)
class Embedded:
    """An embedding on disk. item_ids: int64 (N,), ascending; splits: uint8 (N,), see SPLIT_CODES."""

    pool: Pool
    item_ids: Rows
    splits: NDArray[np.uint8]

    def rows(self, item_ids: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows of these items and which of them have one; rows of the others are meaningless."""
        places = np.searchsorted(self.item_ids, item_ids).clip(max=len(self.item_ids) - 1)
        return places, self.item_ids[places] == item_ids


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything a refit works on. ``open_rows``: pool items nobody settled, nor any certificate (``accepted_rows``);
    ``asked_rows``: the answered ones."""

    embedded: Embedded
    class_ids: list[int]
    train: Answers
    audit: Answers
    test: Answers
    open_rows: Rows
    open_audit_rows: Rows
    asked_rows: Rows
    accepted_rows: Rows
    watermark: int
    answer_count: int


def embedding_folder(name: str) -> Path:
    """Where an artifact of this name lies."""
    return Path(settings.ARTIFACT_ROOT) / name


@lru_cache(maxsize=4)
def load_embedded(name: str) -> Embedded:
    """The embedding in this folder. Kept for later refits, and with it what heads derive from its pool."""
    folder = embedding_folder(name)
    return Embedded(Pool.load(folder), np.load(folder / "item_ids.npy"), np.load(folder / "splits.npy"))


def label_watermark(project: Project) -> int:
    """The newest annotation there is: what comes later is not in a snapshot taken now."""
    return Annotation.objects.filter(project=project).aggregate(last=Max("id"))["last"] or 0


def take(project: Project, embedding_name: str) -> Snapshot:
    """The project's answers against the embedding in this folder."""
    return against(project, load_embedded(embedding_name))


def against(project: Project, embedded: Embedded) -> Snapshot:
    """The project's answers against an embedding, with the splits of now: random checks are drawn later, too.

    Six queries; cost grows with the answers, not with the pool."""
    watermark = label_watermark(project)
    class_ids = [label_class.pk for label_class in queries.open_classes(project)]
    embedded = _with_splits_of_now(project, embedded)
    answers = _answers(project, embedded, class_ids)
    settled = Item.objects.filter(project=project).exclude(state=Item.State.OPEN).exclude(split=Split.TEST)
    rows, has_row = embedded.rows(np.fromiter(settled.values_list("pk", flat=True), np.int64))
    is_open = np.ones(len(embedded.item_ids), bool)
    is_open[rows[has_row]] = False
    is_pool = embedded.splits == SPLIT_CODES[Split.POOL]
    unseen = Proposal.objects.filter(project=project, state=Proposal.State.AUTO_ACCEPTED)
    rows_unseen, has_row_unseen = embedded.rows(np.fromiter(unseen.values_list("item_id", flat=True), np.int64))
    is_unseen = np.zeros(len(embedded.item_ids), bool)
    is_unseen[rows_unseen[has_row_unseen]] = True
    is_audit = embedded.splits == SPLIT_CODES[Split.AUDIT]
    foreign = settled.filter(state=Item.State.NONE_OF_THESE, split=Split.POOL).order_by("pk")
    strangers, has_row_stranger = embedded.rows(np.fromiter(foreign.values_list("pk", flat=True), np.int64))
    return Snapshot(
        embedded=embedded,
        class_ids=class_ids,
        train=replace(answers[Split.POOL], strangers=strangers[has_row_stranger].astype(np.int64)),
        audit=answers[Split.AUDIT],
        test=answers[Split.TEST],
        open_rows=np.flatnonzero(is_open & is_pool & ~is_unseen),
        open_audit_rows=np.flatnonzero(is_open & is_audit),
        asked_rows=np.flatnonzero(~is_open & is_pool),
        accepted_rows=np.flatnonzero(is_open & is_pool & is_unseen),
        watermark=watermark,
        answer_count=len(rows),
    )


def _with_splits_of_now(project: Project, embedded: Embedded) -> Embedded:
    checks = Item.objects.filter(project=project, split=Split.AUDIT).values_list("pk", flat=True)
    rows, has_row = embedded.rows(np.fromiter(checks, np.int64))
    splits = embedded.splits.copy()
    splits[rows[has_row]] = SPLIT_CODES[Split.AUDIT]
    return replace(embedded, splits=splits)


def _answers(project: Project, embedded: Embedded, class_ids: list[int]) -> dict[str, Answers]:
    """Settled labels by split. Items whose people disagree, and labels of archived classes, are left out; but of a
    random check the first answer stands until the dispute is settled. Disputes gather where images are hard: without
    them every model would look better than it is."""
    task_type = task_types.get(project.task_type)
    columns = {class_id: column for column, class_id in enumerate(class_ids)}
    naming = [Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE]
    current = Annotation.objects.filter(project=project, kind__in=naming, superseded_by__isnull=True)
    current = current.only("item_id", "value", "source", "kind", "reason_code", "created_at").order_by("id")
    by_item: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in current.iterator(chunk_size=5000):
        by_item[annotation.item_id].append(annotation)
    item_ids: list[int] = []
    targets: list[int] = []
    for item_id, given in by_item.items():
        value = queries.settled_value(task_type, given)
        if value is None and _is_check(embedded, item_id) and queries.is_disputed(task_type, given):
            value = min(given, key=lambda each: (each.created_at, each.pk)).value
        column = columns.get(task_type.class_ids(value)[0]) if value else None
        if column is not None:
            item_ids.append(item_id)
            targets.append(column)
    rows, has_row = embedded.rows(np.asarray(item_ids, np.int64))
    rows, wanted = rows[has_row], np.asarray(targets, np.int64)[has_row]
    # Ascending rows: the order in which answers arrived must not change what is learnt.
    order = np.argsort(rows, kind="stable")
    rows, wanted = rows[order], wanted[order]
    split_of = embedded.splits[rows]
    return {
        split: Answers(rows[split_of == code].astype(np.int64), wanted[split_of == code])
        for split, code in SPLIT_CODES.items()
    }


def _is_check(embedded: Embedded, item_id: int) -> bool:
    rows, has_row = embedded.rows(np.array([item_id]))
    return bool(has_row[0] and embedded.splits[rows[0]] == SPLIT_CODES[Split.AUDIT])


def loop_settings(project: Project, seed: int) -> LoopSettings:
    """The project's settings as the loop takes them."""
    chosen = project.settings
    return LoopSettings(
        head=chosen.head,
        head_parameters=chosen.parameters_of("head", chosen.head),
        acquisition=chosen.acquisition,
        cold_start=chosen.cold_start,
        queue_length=chosen.queue_length,
        audit_share=chosen.audit_share,
        seed=seed,
    )


def encoder_parameters(project: Project) -> dict[str, Any]:
    """Every parameter of the project's encoder, as its owner chose or by default."""
    return project.settings.parameters_of("encoder", project.settings.encoder)
