"""What stands for most others first: a batch whose neighbourhoods cover as much of the pool as possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_worker.acquisition import Candidates, Floats, Rows, filled_up
from ml_worker.clustering import assign, kmeans, unit_rows

_PURE = 0.9
_ANCHORS, _AROUND = 1_000, 10_000  # items whose neighbourhood tells the radius, and items looked for in it
_STEPS = 4_096
_BLOCK = 1024  # a product of two blocks stays in the processor's cache: four times as fast as with 4,096


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows that cover the most items without an answer; utility: how many each covers that nothing before it did.

    An item covers those nearer than a radius: the largest within which on average 90 % belong to an item's own
    k-means cluster, of as many clusters as there are classes. What answered items cover is covered. Once everything
    is, the rest comes by lot, with utility 0.

    Source: Yehuda et al. 2022, "Active Learning Through a Covering Lens" (ProbCover), algorithm 1. Differences: theirs
    is the radius for which 95 % of the neighbourhoods hold no other cluster at all, which shrinks with every item
    added: four digits to a neighbourhood, and a first batch of 10 that teaches 0.60, less than one by lot; so 0.78.
    No graph is stored, neither (M, M) nor edges: each item has a count, and what a choice covers is looked up in
    blocks and taken off, so memory stays flat and no neighbourhood has to be cut. Of more than 50,000 candidates the
    loop gives it a random 50,000.
    """
    points = unit_rows(np.asarray(pool.embeddings))
    labeled = unit_rows(pool.labeled_embeddings.reshape(-1, points.shape[1]))
    budget = min(max(budget, 0), len(points))
    if budget == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    cosine = purest(points, pool.probs.shape[1], rng)
    bare = _count_near(points, labeled, cosine) == 0
    counts = _covered_by(points, bare, cosine)
    chosen: list[int] = []
    covers: list[int] = []
    while len(chosen) < budget and bare.any():
        row = int(counts.argmax())
        newly = bare & (points @ points[row] > cosine)
        newly[row] = bare[row]
        bare &= ~newly
        chosen.append(row)
        covers.append(int(newly.sum()))
        counts -= _count_near(points, points[newly], cosine)
        counts[row] = -len(points)  # rounding at the rim must not bring it back
    rows = filled_up(chosen, len(points), budget, rng)
    utility = np.zeros(len(rows), np.float32)
    utility[: len(covers)] = covers
    return rows, utility


def _covered_by(points: Floats, bare: NDArray[np.bool_], cosine: float) -> Rows:
    """How many of the bare points each point (M, D) has about it; every pair is looked at once."""
    counts = np.zeros(len(points), np.int64)
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        for first in range(start, len(points), _BLOCK):
            columns = slice(first, first + _BLOCK)
            near: NDArray[np.bool_] = points[rows] @ points[columns].T > cosine
            counts[rows] += np.count_nonzero(near & bare[columns], axis=1)
            if first != start:
                counts[columns] += np.count_nonzero(near & bare[rows, None], axis=0)
    return counts


def _count_near(points: Floats, others: Floats, cosine: float) -> Rows:
    """How many of the others (L, D) lie nearer to each point (M, D) than the angle of this cosine; unit rows, in
    blocks."""
    counts = np.zeros(len(points), np.int64)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK].T
        for first in range(0, len(points), _BLOCK):
            near: NDArray[np.bool_] = points[first : first + _BLOCK] @ block > cosine
            counts[first : first + _BLOCK] += np.count_nonzero(near, axis=1)
    return counts


def purest(points: Floats, n_clusters: int, rng: np.random.Generator) -> float:
    """The cosine of the largest radius within which, on average, 90 % belong to an item's own k-means cluster.

    points: unit rows (M, D). 1,000 items by lot tell, of 10,000 about them; in 4,096 steps.
    """
    around = points if len(points) <= _AROUND else points[rng.choice(len(points), _AROUND, replace=False)]
    cluster = assign(around, kmeans(around, n_clusters, rng))
    purity = np.zeros(_STEPS)
    anchors = range(min(len(around), _ANCHORS))
    for row in anchors:
        step = ((1.0 - around @ around[row]) * (_STEPS / 2)).astype(np.int64).clip(0, _STEPS - 1)
        near = np.cumsum(np.bincount(step, minlength=_STEPS))
        own = np.cumsum(np.bincount(step[cluster == cluster[row]], minlength=_STEPS))
        purity += np.where(near > 0, own / np.maximum(near, 1), 1.0) / len(anchors)
    mixed = np.flatnonzero(purity < _PURE - 1e-9)
    return 1.0 - (int(mixed[0]) if len(mixed) else _STEPS) * 2.0 / _STEPS
