"""The current embedding as the pages read it: who is near whom. The worker writes it; here it is only looked at."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from annotator.models import Project
from annotator.queries.learning import current_embedding

BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Vectors:
    """An embedding of N items, mapped from disk; a row is an item's place in it.

    item_ids: int64 (N,), ascending. embeddings: float32 (N, D). neighbours: int32 (N, K) rows, nearest first, and
    distances: float32 (N, K), euclidean, to them.
    """

    folder: Path
    item_ids: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    distances: NDArray[np.float32]

    def rows(self, item_ids: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
        """The rows of those of these items that have one, in the order given. Later imports have none yet."""
        wanted = np.asarray(item_ids, np.int64)
        if not len(self.item_ids) or not len(wanted):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.item_ids, wanted).clip(max=len(self.item_ids) - 1)
        return places[self.item_ids[places] == wanted]

    def nearest(
        self, item_id: int, count: int, among: NDArray[np.int64] | list[int] | None = None
    ) -> list[tuple[int, float]]:
        """The ``count`` items nearest to this one with their euclidean distances, nearest first, itself left out.

        ``among``: ids of the items to choose from; None: all. Exact; reads the rows it compares once, a block at a
        time, so 1,000,000 items of 384 numbers take seconds, and the some thousand labelled ones milliseconds. Empty
        where the item has no row.
        """
        own = self.rows([item_id])
        if not len(own):
            return []
        rows = np.arange(len(self.item_ids)) if among is None else self.rows(among)
        rows = rows[rows != own[0]]
        far = self.distances_to(self.embeddings[own[0]], rows)
        first = np.argpartition(far, count)[:count] if len(far) > count else np.arange(len(far))
        first = first[np.lexsort((rows[first], far[first]))]
        return [(int(self.item_ids[rows[at]]), float(far[at])) for at in first]

    def distances_to(self, point: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Euclidean distance, float32 (R,), of these rows to a point (D,)."""
        far = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), BLOCK):
            block = self.embeddings[rows[start : start + BLOCK]]
            far[start : start + BLOCK] = np.linalg.norm(block - point, axis=1)
        return far


def vectors(project: Project) -> Vectors | None:
    """The project's newest embedding, or None before there is one. One query."""
    embedding = current_embedding(project)
    if embedding is None:
        return None
    try:
        return _load(Path(settings.ARTIFACT_ROOT) / embedding.result["folder"])
    except FileNotFoundError:  # replaced between the question and the look; the next request finds the new one
        return None


@lru_cache(maxsize=8)
def _load(folder: Path) -> Vectors:
    read = {
        each: np.load(folder / f"{each}.npy", mmap_mode="r", allow_pickle=False)
        for each in ("item_ids", "embeddings", "neighbours", "distances")
    }
    return Vectors(folder=folder, **read)
