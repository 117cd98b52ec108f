"""Suspected labels, for the study job: which answers the others speak against, and what repairs were worth."""

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from django.utils import timezone

from annotator import queries, task_types
from annotator.actions import suspecting
from annotator.actions.suspecting import Doubted
from annotator.models import Annotation, Job, Project, Split, Suspect
from ml_worker import fast_loop, snapshot
from ml_worker.fast_loop import Answers, NotEnoughLabels
from ml_worker.pool import Floats, Rows
from ml_worker.quality import suspicion
from ml_worker.quality.early import Early
from ml_worker.quality.repairs import change
from ml_worker.quality.suspicion import Doubts
from ml_worker.snapshot import Snapshot

# Beside the project's own: the one that names held-out labels best is believed.
HEADS = ("label_spreading", "logistic_regression")
# Rows above which one head, and one sharing of the folds, must do: every fold scores the whole pool.
ROWS_FOR_ALL = 100_000
NEAR = 6


@dataclass(frozen=True, eq=False)
class _Given:
    """The labels of a snapshot: annotation_ids int64 (L,), the newest answer that gave each, 0 where none of now does;
    askable bool (L,), which of them one more look could settle."""

    annotation_ids: Rows
    askable: np.ndarray


def study(project: Project, taken: Snapshot) -> dict[str, Any]:
    """Open, drop and describe suspects; what the page says of them, see `_found` and `_effect`."""
    n_labels = len(taken.train.rows)
    told = _earlier(project)
    stopped_at, since = told.get("stopped_at"), told.get("since")
    if stopped_at and n_labels >= suspecting.AGAIN_AT * stopped_at:
        stopped_at, since = None, timezone.now().isoformat()
    elif not stopped_at:
        hits = suspecting.newest_hits(project, since)
        stopped_at = n_labels if hits.is_not_worth_it else None
    result: dict[str, Any] = {"labels": n_labels, "stopped_at": stopped_at, "since": since}
    if stopped_at:
        suspecting.store_suspects(project=project, doubted=[])
    else:
        result |= _found(project, taken)
    return result | {"effect": _effect(project, taken)}


def _earlier(project: Project) -> dict[str, Any]:
    newest = queries.newest_study(project)
    return (newest.result.get("suspects") or {}) if newest else {}


# --- who is suspected -----------------------------------------------------------------------------------------------


def _found(project: Project, taken: Snapshot) -> dict[str, Any]:
    """Suspects stored, and of them all: suspected, foreign: how many; noise: rate, low, high, None with too few
    labels; head: which was believed; evidence: by item id, what stands beside an open suspect."""
    given = _given(project, taken)
    found = _doubts(project, taken, given)
    chosen = np.flatnonzero(found.suspected & given.askable)
    doubted = [
        Doubted(
            annotation_id=int(given.annotation_ids[at]),
            class_id=None if found.foreign[at] else taken.class_ids[int(found.instead[at])],
            score=float(found.score[at]),
        )
        for at in chosen
    ]
    suspecting.store_suspects(project=project, doubted=doubted)
    return {
        "suspected": len(chosen),
        "foreign": int(found.foreign[chosen].sum()),
        "noise": asdict(found.noise) if found.noise else None,
        "head": found.head,
        "evidence": _evidence(project, taken, found),
    }


def _given(project: Project, taken: Snapshot) -> _Given:
    """Not askable: what two people said independently, what somebody said when asked about it again, and what a
    reviewer decided. One query over the labels of the pool, one over the settled suspects."""
    task_type = task_types.get(project.task_type)
    current = Annotation.objects.filter(
        project=project, item__split=Split.POOL, kind=Annotation.Kind.LABEL, superseded_by__isnull=True
    )
    said: dict[tuple[int, int], list[Annotation]] = defaultdict(list)
    columns = ("item_id", "value", "source", "annotator_id", "reason_code")
    decided: set[int] = set()
    for each in current.only(*columns).order_by("id").iterator(chunk_size=5000):
        said[each.item_id, task_type.class_ids(each.value or {})[0]].append(each)
        if each.reason_code == Annotation.DECISION:
            decided.add(each.item_id)
    judged = _judged(project)
    item_ids = taken.embedded.item_ids[taken.train.rows].tolist()
    keys = [
        (item_id, taken.class_ids[column])
        for item_id, column in zip(item_ids, taken.train.targets.tolist(), strict=True)
    ]
    settled = [key in judged or key[0] in decided or _voices(said.get(key, [])) > 1 for key in keys]
    return _Given(
        np.array([said[key][-1].pk if key in said else 0 for key in keys], np.int64),
        np.array([key in said and not is_settled for key, is_settled in zip(keys, settled, strict=True)], bool),
    )


def _voices(given: list[Annotation]) -> int:
    """How many people said it; an imported label is nobody's word."""
    return len({each.annotator_id for each in given if each.source == Annotation.Source.PERSON})


def _judged(project: Project) -> set[tuple[int, int]]:
    """(item, class) pairs that a second look ended with, blind or not."""
    task_type = task_types.get(project.task_type)
    looked_at = Suspect.objects.filter(project=project, settled_at__isnull=False)
    pairs = set()
    for each in looked_at.select_related("annotation", "settled_by"):
        last = each.settled_by if each.state == Suspect.State.REPAIRED else each.annotation
        if last is not None and last.kind == Annotation.Kind.LABEL:
            pairs.add((each.item_id, task_type.class_ids(last.value or {})[0]))
    return pairs


def _doubts(project: Project, taken: Snapshot, given: _Given) -> Doubts:
    pool, own = taken.embedded.pool, project.settings.head
    is_large = len(pool) > ROWS_FOR_ALL
    names = [own] if is_large else list(dict.fromkeys((own, *HEADS)))
    return suspicion.doubts(
        pool,
        taken.train.rows,
        taken.train.targets,
        len(taken.class_ids),
        [(name, _parameters(project, name)) for name in names],
        strangers=taken.train.strangers,
        early=_early(project, taken, given),
        sharings=1 if is_large else suspicion.SHARINGS,
    )


def _parameters(project: Project, head: str) -> dict[str, Any]:
    return project.settings.parameters_of("head", head)


def _early(project: Project, taken: Snapshot, given: _Given) -> Floats | None:
    """What the newest training that kept its early beliefs has to say, None without one. One query."""
    trained = Job.objects.filter(project=project, kind=Job.Kind.TRAIN, result__has_key="early").order_by("-id").first()
    path = snapshot.embedding_folder(trained.result["early"]) if trained else None
    if path is None or not path.exists():
        return None
    return Early.load(path).of(taken.embedded.item_ids[taken.train.rows], given.annotation_ids)


def _evidence(project: Project, taken: Snapshot, found: Doubts) -> dict[str, Any]:
    """By the item of each open suspect: near, the nearest labelled images as [item id, class id]; support, how likely
    the head finds the given class and the likeliest other. Two queries."""
    train = taken.train
    waiting = Suspect.objects.filter(project=project, state=Suspect.State.OPEN).values_list("item_id", flat=True)
    rows, has_row = taken.embedded.rows(np.fromiter(waiting, np.int64))
    places = np.flatnonzero(np.isin(train.rows, rows[has_row]))
    near = suspicion.nearest_labelled(taken.embedded.pool, train.rows, train.rows[places], NEAR)
    return {
        str(int(taken.embedded.item_ids[train.rows[place]])): {
            "near": [
                [int(taken.embedded.item_ids[train.rows[other]]), taken.class_ids[int(train.targets[other])]]
                for other in others
            ],
            "support": [round(float(share), 4) for share in found.support[place]],
        }
        for place, others in zip(places.tolist(), near.tolist(), strict=True)
    }


# --- what it was worth ----------------------------------------------------------------------------------------------


def _effect(project: Project, taken: Snapshot) -> dict[str, Any] | None:
    """The project's head learnt from the labels of now, and with what suspects were repaired from put back, on the
    answered random checks: `repairs.Change` and how many labels were repaired. None without repairs, or with too few
    checks to tell."""
    columns = {class_id: column for column, class_id in enumerate(taken.class_ids)}
    task_type = task_types.get(project.task_type)
    repaired = Suspect.objects.filter(project=project, state=Suspect.State.REPAIRED).select_related("annotation")
    old = {each.item_id: columns.get(task_type.class_ids(each.annotation.value or {})[0]) for each in repaired}
    if not old or len(taken.audit.rows) < queries.CHECKS_AT_LEAST:
        return None
    unrepaired = _put_back(taken, {item_id: column for item_id, column in old.items() if column is not None})
    try:
        after, before = (_right(project, taken, train) for train in (taken.train, unrepaired))
    except NotEnoughLabels:
        return None
    return asdict(change(before, after)) | {"repaired": len(old)}


def _put_back(taken: Snapshot, old: dict[int, int]) -> Answers:
    """The training answers with these items labelled as they were: column by item id."""
    item_ids, columns = np.fromiter(old, np.int64), np.fromiter(old.values(), np.int64)
    rows, has_row = taken.embedded.rows(item_ids)
    rows, columns = rows[has_row], columns[has_row]
    kept = ~np.isin(taken.train.rows, rows)
    all_rows = np.concatenate([taken.train.rows[kept], rows])
    order = np.argsort(all_rows, kind="stable")
    return replace(
        taken.train,
        rows=all_rows[order],
        targets=np.concatenate([taken.train.targets[kept], columns])[order],
        strangers=np.setdiff1d(taken.train.strangers, rows),
    )


def _right(project: Project, taken: Snapshot, train: Answers) -> np.ndarray:
    settings = replace(snapshot.loop_settings(project, seed=0), acquisition="random_sampling")
    learned = fast_loop.learn(taken.embedded.pool, train, taken.audit, len(taken.class_ids), settings)
    return np.asarray(learned.probs[taken.audit.rows].argmax(axis=1) == taken.audit.targets)
