"""What stands for most others first: a batch whose neighbourhoods cover as much of the pool as possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_worker.acquisition import Candidates, Floats, Rows, filled_up
from ml_worker.clustering import assign, kmeans, unit_rows

_PURE = 0.95
_ANCHORS = 2_048  # items whose neighbourhood tells the radius
_BLOCK = 1024  # a product of two blocks stays in the processor's cache: four times as fast as with 4,096


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows that cover the most items without an answer; utility: how many each covers that nothing before it did.

    An item covers those nearer than a radius: the largest for which 95 % of the neighbourhoods hold one k-means
    cluster only, of as many clusters as there are classes. What answered items cover is covered. Once everything is,
    the rest comes by lot, with utility 0.

    Source: Yehuda et al. 2022, "Active Learning Through a Covering Lens" (ProbCover), algorithm 1. Differences: no
    graph is stored, neither (M, M) nor edges: each item has a count, and what a choice covers is looked up in blocks
    and taken off, so memory stays flat and no neighbourhood has to be cut; at most 2,048 items tell the radius. Of
    more than 50,000 candidates the loop gives it a random 50,000.
    """
    points = unit_rows(np.asarray(pool.embeddings))
    labeled = unit_rows(pool.labeled_embeddings.reshape(-1, points.shape[1]))
    budget = min(max(budget, 0), len(points))
    if budget == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    cosine = _purest(points, pool.probs.shape[1], rng)
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


def _purest(points: Floats, n_clusters: int, rng: np.random.Generator) -> float:
    """The cosine of the largest radius with 95 % pure neighbourhoods.

    A neighbourhood is pure up to the nearest item of another cluster; so the radius is the distance to that, of the
    item for which 5 % of the others have a shorter one. No search over radii is needed.
    """
    cluster = assign(points, kmeans(points, n_clusters, rng))
    anchors = np.arange(len(points))
    if len(anchors) > _ANCHORS:
        anchors = np.sort(rng.choice(anchors, _ANCHORS, replace=False))
    nearest = np.full(len(anchors), -1.0, np.float32)
    for start in range(0, len(points), _BLOCK):
        cosines = points[anchors] @ points[start : start + _BLOCK].T
        cosines[cluster[anchors, None] == cluster[start : start + _BLOCK]] = -1.0
        nearest = np.maximum(nearest, cosines.max(axis=1))
    # A little less, for that item itself is outside.
    return float(-np.sort(-nearest)[int((1.0 - _PURE) * len(nearest))]) + 1e-6
