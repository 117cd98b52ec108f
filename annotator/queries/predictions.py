"""What the newest model says of every image it has scored, as the pages read it; refitting.py writes it."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from annotator import task_types
from annotator.models import Annotation, Item, ModelVersion, Project, Split

_BLOCK = 65_536
# Items asked about at once.
CHUNK = 10_000


@dataclass(frozen=True, eq=False)
class Predictions:
    """item_ids: int64 (N,), ascending; best: int64 (N,), the likeliest class of each by its id; confidence: float32
    (N,), 0..1."""

    model: ModelVersion
    item_ids: NDArray[np.int64]
    best: NDArray[np.int64]
    confidence: NDArray[np.float32]


def predictions(project: Project) -> Predictions | None:
    """Of the newest model whose scores are there, None without any. One query.

    Never to be shown of an open random check, nor of an image somebody is asked about blind.
    """
    model = ModelVersion.objects.filter(project=project).exclude(artifact_folder="").order_by("-number").first()
    if model is None or not model.metrics.get("embedding"):
        return None
    try:
        item_ids, column, confidence = _load(
            str(settings.ARTIFACT_ROOT), model.artifact_folder, model.metrics["embedding"]
        )
    except FileNotFoundError:  # pruned between the question and the look
        return None
    return Predictions(model, item_ids, np.asarray(model.class_ids, np.int64)[column], confidence)


@lru_cache(maxsize=4)
def _load(root: str, folder: str, embedding: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Kept: the largest of 1,000,000 x 10 probabilities takes a tenth of a second to find."""
    probs = np.load(Path(root) / folder / "probs.npy", mmap_mode="r", allow_pickle=False)
    column, confidence = np.empty(len(probs), np.int64), np.empty(len(probs), np.float32)
    for start in range(0, len(probs), _BLOCK):
        block = np.asarray(probs[start : start + _BLOCK], np.float32)
        column[start : start + _BLOCK] = block.argmax(axis=1)
        confidence[start : start + _BLOCK] = block.max(axis=1)
    return np.load(Path(root) / embedding / "item_ids.npy", allow_pickle=False), column, confidence


def labels_of(project: Project, item_ids: NDArray[np.int64]) -> dict[int, int]:
    """Class id by item, for those of these items of the pool that have a current label; of several the newest. One
    query for each CHUNK of items."""
    task_type = task_types.get(project.task_type)
    found: dict[int, int] = {}
    for start in range(0, len(item_ids), CHUNK):
        given = Annotation.objects.filter(
            item__in=item_ids[start : start + CHUNK].tolist(),
            kind=Annotation.Kind.LABEL,
            superseded_by__isnull=True,
            item__project=project,
            item__split=Split.POOL,
            item__state=Item.State.LABELLED,
        )
        newest = given.order_by("item_id", "-id").distinct("item_id").values_list("item_id", "value")
        found |= {item_id: task_type.class_ids(value or {})[0] for item_id, value in newest}
    return found


def contradicted(project: Project, given_id: int, said_id: int) -> tuple[ModelVersion | None, list[tuple[int, float]]]:
    """Images of the pool labelled as one class that the newest model takes for another, with its confidence, surest
    first; and that model. One query, and one for each CHUNK of images it takes for that."""
    known = predictions(project)
    if known is None:
        return None, []
    said = known.item_ids[known.best == said_id]
    labels = labels_of(project, said)
    labelled = np.array([item_id for item_id in said.tolist() if labels.get(item_id) == given_id], np.int64)
    rows = np.searchsorted(known.item_ids, labelled)
    rows = rows[np.argsort(-known.confidence[rows], kind="stable")]
    return known.model, [(int(known.item_ids[row]), float(known.confidence[row])) for row in rows]
