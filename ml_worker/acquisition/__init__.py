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
    what each member of an ensemble says; only for functions of `NEED_MEMBERS`, None without an ensemble.
    labeled_targets: int64 (L,), the class column of each answered item, -1 where the answer names no class; None:
    not known. spacing: float32 (M,), mean distance to the nearest items of the whole pool; None: not known."""

    embeddings: Floats | Picked
    probs: Floats
    labeled_embeddings: Floats
    member_probs: Floats | None = None
    labeled_targets: Rows | None = None
    spacing: Floats | None = None


Rank = Callable[[Candidates, int, np.random.Generator], tuple[Rows, Floats]]

NEED_MEMBERS = frozenset({"bald", "inlier_margin"})
NEED_STRANGERS = frozenset({"inlier_margin"})  # of these, with a class more, for "none of these"
# These look at every candidate's embedding again and again: of more than 50,000 candidates the loop gives them a
# random 50,000. The others go by one number an item, and get all.
SAMPLED = frozenset({"badge", "coreset", "disagreement", "probcover", "rare_class", "typiclust"})
# What can rank before there is a model, and while it knows next to nothing.
STARTERS = frozenset({"probcover", "random_sampling", "typiclust"})
NEAR_COPY = 0.2  # two items nearer than this part of the pool's radius count as near copies
_BLOCK = 4096
_WINDOW = 1024
_EXACT = _SAMPLE = 4_000


def load(name: str) -> Rank:
    """The rank function in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    rank: Rank = import_module(f"{__name__}.{name}").rank
    return rank


def scarcest(targets: Rows | None) -> int | None:
    """The class column with the fewest answers of those that have any; targets: as `labeled_targets`. The lowest of
    several; None where no answer names a class."""
    named = np.zeros(0, np.int64) if targets is None else targets[targets >= 0]
    if not len(named):
        return None
    columns, counts = np.unique(named, return_counts=True)
    return int(columns[counts.argmin()])


def gaps(probs: Floats) -> Floats:
    """Between the two most likely classes, float32 (M,) in [0, 1]. Raises ValueError if C < 2."""
    if probs.shape[1] < 2:
        raise ValueError(f"ranking by doubt needs at least 2 classes; the pool has {probs.shape[1]}")
    two_best = np.partition(probs, -2, axis=1)[:, -2:]
    return np.asarray(two_best[:, 1] - two_best[:, 0], np.float32)


def best_first(pool: Candidates, utility: Floats, budget: int) -> tuple[Rows, Floats]:
    """What a function returns that gives each item a number (M,): the largest first, near copies at the back; ties
    keep the order of the pool."""
    order = np.argsort(-utility, kind="stable").astype(np.int64)
    rows = spread_out(pool.embeddings, order, max(budget, 0), pool.labeled_embeddings)
    return rows, np.asarray(utility[rows], np.float32)


def filled_up(chosen: list[int], m: int, budget: int, rng: np.random.Generator) -> Rows:
    """The chosen rows and, after them, others by lot, `budget` in all or every one of the M there are."""
    others = rng.permutation(np.setdiff1d(np.arange(m), chosen))
    return np.concatenate([np.asarray(chosen, np.int64), others])[: max(budget, 0)]


def near_copy_radius(embeddings: Floats | Picked) -> float:
    """The distance below which two of these items (N, D) are near copies: a part of the root mean square
    distance to the mean, so it does not depend on the scale of the embeddings. Of more than 4,000 items, 4,000
    evenly spaced ones tell."""
    if len(embeddings) == 0:
        return 0.0
    rows = np.arange(len(embeddings))
    if len(rows) > _EXACT:
        rows = np.linspace(0, len(embeddings) - 1, _SAMPLE).astype(np.int64)
    # In blocks: whole, the float64 that the sums need would take twice the embeddings. About the first one, lest the
    # difference of two large sums be all rounding.
    origin = np.asarray(embeddings[rows[:1]])
    total, squares = np.zeros(embeddings.shape[1]), 0.0
    for start in range(0, len(rows), _BLOCK):
        block = embeddings[rows[start : start + _BLOCK]] - origin
        total += block.sum(axis=0, dtype=np.float64)
        squares += float(np.square(block).sum(dtype=np.float64))
    return NEAR_COPY * float(np.sqrt(max(squares / len(rows) - np.square(total / len(rows)).sum(), 0.0)))


def is_near(embeddings: Floats, others: Floats, radius: float) -> NDArray[np.bool_]:
    """bool (M,): has a row (M, D) one of the others (L, D) within the radius? Copies always count."""
    near = np.zeros(len(embeddings), bool)
    if len(embeddings) == 0:
        return near
    # Centred, the products below lose fewer digits.
    centre = embeddings.mean(axis=0)
    points = embeddings - centre
    squares = np.square(points).sum(axis=1)
    limit = _limit(squares, radius)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK] - centre
        squared = points @ (-2.0 * block.T) + np.square(block).sum(axis=1)
        near |= squared.min(axis=1) + squares <= limit
    return near


def _limit(squares: Floats, radius: float) -> float:
    """The squared radius, with slack for what products of float32 lose with exact copies."""
    return radius**2 + 1e-5 * float(squares.max(initial=0.0))


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
        points = points - points.mean(axis=0)
        squares = np.square(points).sum(axis=1)
        limit = _limit(squares, radius)
        for place, row in enumerate(rows):
            if len(chosen) >= budget:
                break
            if near[place]:
                deferred.append(int(row))
                continue
            chosen.append(int(row))
            near |= squares + squares[place] - 2.0 * (points @ points[place]) <= limit
    return np.asarray((chosen + deferred)[:budget], np.int64)
