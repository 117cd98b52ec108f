"""Acquisition functions: which items to ask about next. One file each, named as the function; numpy only.

Each is a function `rank(pool, budget, rng) -> (rows int64 (B,), utility float32 (B,))`: rows of the
candidates, best first, B = min(budget, M); larger utility = the function wants it sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Picked:
    """Some rows of embeddings (N, D), read when they are asked for: no pool of a million is copied for a queue.

    Stands in for an array (M, D) where only length, shape and indexing are used; `np.asarray` reads everything.
    """

    def __init__(self, embeddings: Floats, rows: Rows) -> None:
        self._embeddings, self._rows = embeddings, rows
        self.shape = (len(rows), embeddings.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> Floats:
        return np.asarray(self._embeddings[self._rows[which]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What may be asked next. embeddings: float32 (M, D), perhaps not read yet. probs: float32 (M, C), rows sum to 1.
    labeled_embeddings: float32 (L, D), the items already answered; L may be 0. member_probs: float32 (E, M, C),
    what each member of an ensemble says; only for functions of `NEED_MEMBERS`, None without an ensemble."""

    embeddings: Floats | Picked
    probs: Floats
    labeled_embeddings: Floats
    member_probs: Floats | None = None


Rank = Callable[[Candidates, int, np.random.Generator], tuple[Rows, Floats]]

NEED_MEMBERS = frozenset({"disagreement"})
NEAR_COPY = 0.2  # two items nearer than this part of the pool's radius count as near copies
_BLOCK = 4096
_WINDOW = 1024
_EXACT, _SAMPLE = 50_000, 10_000


def load(name: str) -> Rank:
    """The rank function in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    rank: Rank = import_module(f"{__name__}.{name}").rank
    return rank


def near_copy_radius(embeddings: Floats | Picked) -> float:
    """The distance below which two of these items (N, D) are near copies: a part of the root mean square
    distance to the mean, so it does not depend on the scale of the embeddings. Of more than 50,000 items, 10,000
    evenly spaced ones tell."""
    if len(embeddings) == 0:
        return 0.0
    if len(embeddings) > _EXACT:
        embeddings = embeddings[np.linspace(0, len(embeddings) - 1, _SAMPLE).astype(np.int64)]
    return NEAR_COPY * float(np.sqrt(np.asarray(embeddings).var(axis=0, dtype=np.float64).sum()))


def is_near(embeddings: Floats, others: Floats, radius: float) -> NDArray[np.bool_]:
    """bool (M,): has a row (M, D) one of the others (L, D) within the radius? Copies always count."""
    near = np.zeros(len(embeddings), bool)
    if len(embeddings) == 0:
        return near
    # Centred, the products below lose fewer digits; the slack is for what they still lose with exact copies.
    centre = embeddings.mean(axis=0)
    points = embeddings - centre
    squares = np.square(points).sum(axis=1)
    limit = radius**2 + 1e-5 * float(squares.max())
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK] - centre
        squared = points @ (-2.0 * block.T) + np.square(block).sum(axis=1)
        near |= squared.min(axis=1) + squares <= limit
    return near


def spread_out(embeddings: Floats | Picked, order: Rows, budget: int, labeled_embeddings: Floats) -> Rows:
    """The first `budget` rows of an order, near copies of chosen or labelled items moved to the back.

    embeddings: float32 (M, D); order: int64 rows, best first. Walks down in windows, so that a short batch looks at
    the head of the order only, reads no other embeddings, and a long one compares in blocks.
    """
    radius = near_copy_radius(embeddings)
    chosen: list[int] = []
    deferred: list[int] = []
    for start in range(0, len(order), _WINDOW):
        if len(chosen) >= budget:
            break
        rows = order[start : start + _WINDOW]
        points = embeddings[rows]
        near = is_near(points, labeled_embeddings, radius) | is_near(points, embeddings[chosen], radius)
        for place, row in enumerate(rows):
            if len(chosen) >= budget:
                break
            if near[place]:
                deferred.append(int(row))
                continue
            chosen.append(int(row))
            near |= np.square(points - points[place]).sum(axis=1) <= radius**2
    return np.asarray((chosen + deferred)[:budget], np.int64)
