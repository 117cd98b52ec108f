"""A pool of items as the algorithms see it: embeddings and their nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_ARRAYS = ("embeddings", "neighbours", "distances", "indexed")
_VIEWS = "views.npy"


@dataclass(frozen=True, eq=False)
class Pool:
    """Embeddings and neighbours of N items; a row is an item's place in these arrays.

    embeddings: float32 (N, D). neighbours: int32 (N, K) rows, nearest first, the item itself left out.
    distances: float32 (N, K), euclidean. indexed: bool (N,), the items the graph is built over. A row that is
    not indexed (a held-out test item) has neighbours among the indexed rows and is nobody's neighbour, so
    that it is scored and never has a say. K is smaller than asked for where fewer items are indexed.
    views: float32 (V, N, D), embeddings of V distorted looks at each item by the same encoder; None without any.

    Compared by identity (eq=False): heads keep what they derive from a pool for as long as the pool lives.
    """

    embeddings: Floats
    neighbours: NDArray[np.int32]
    distances: Floats
    indexed: NDArray[np.bool_]
    views: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.embeddings)
        if self.embeddings.ndim != 2:
            raise ValueError(f"embeddings have shape {self.embeddings.shape}; wanted (N, D)")
        if self.neighbours.shape != self.distances.shape or len(self.neighbours) != n:
            raise ValueError(
                f"neighbours {self.neighbours.shape}, distances {self.distances.shape} do not fit {n} items"
            )
        if self.indexed.shape != (n,):
            raise ValueError(f"indexed has shape {self.indexed.shape}; wanted ({n},)")
        if self.views is not None and (len(self.views) == 0 or self.views.shape[1:] != self.embeddings.shape):
            raise ValueError(
                f"views have shape {self.views.shape}; wanted (V, {n}, {self.embeddings.shape[1]}), V > 0"
            )

    def __len__(self) -> int:
        return len(self.embeddings)

    def save(self, folder: Path) -> None:
        """Write one .npy per array into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        if self.views is None:
            (folder / _VIEWS).unlink(missing_ok=True)
        else:
            np.save(folder / _VIEWS, self.views, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """The pool saved in a folder; its arrays are memory-mapped and read-only."""
        names = [*_ARRAYS, "views"] if (folder / _VIEWS).exists() else _ARRAYS
        return cls(**{n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names})
