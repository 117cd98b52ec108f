"""Typical items of clusters that hold no label yet: what to ask first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_worker.acquisition import Candidates, Floats, Rows

_MAX_CLUSTERS = 500
_SMALL_CLUSTER = 5  # clusters up to this size are noise and come last
_NEIGHBOURS = 20
_KMEANS_SAMPLE = 20_000
_KMEANS_STEPS = 20
_TYPICALITY_MEMBERS = 2_000  # of a larger cluster only so many members nearest its centre are compared
_BLOCK = 8192


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows typical of dense regions, one per cluster, unlabelled clusters first; utility = typicality.

    Source: Hacohen et al. 2022, "Active Learning on a Budget" (TypiClust): labelled + budget clusters, at
    most 500; the clusters with the fewest labels first, the larger first among them; of each the item with
    the highest typicality, 1 / mean distance to its 20 nearest in the cluster. Differences: k-means runs on a
    sample of 20,000 where the pool is larger (and the loop asks about a random 50,000 candidates at most);
    clusters of 5 or fewer come last instead of being dropped, so that the batch is always filled; after one item
    of each cluster come the second ones, and so on.
    """
    m, dimensions = pool.embeddings.shape
    labeled = pool.labeled_embeddings.reshape(-1, dimensions)
    budget = min(max(budget, 0), m)
    if budget == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    points = _unit_rows(np.concatenate([np.asarray(pool.embeddings), labeled]))
    centres = _kmeans(points, min(len(labeled) + budget, _MAX_CLUSTERS), rng)
    cluster, _ = _assign(points, centres)
    labels_in = np.bincount(cluster[m:], minlength=len(centres))
    size_of = np.bincount(cluster[:m], minlength=len(centres))
    order = np.lexsort((-size_of, labels_in, size_of <= _SMALL_CLUSTER))
    # Members of each cluster, most typical first; then a round over the clusters, and another.
    by_cluster = np.argsort(cluster[:m], kind="stable")
    starts = np.concatenate([[0], np.cumsum(size_of)])
    ranked = [by_cluster[starts[c] : starts[c + 1]] for c in order if size_of[c]]
    typical = [_by_typicality(points, rows, centres[cluster[rows[0]]]) for rows in ranked]
    rows = np.concatenate([members for members, _ in typical])
    utility = np.concatenate([typicality for _, typicality in typical])
    turn = np.concatenate([np.arange(len(members)) for members, _ in typical])
    picks = np.argsort(turn, kind="stable")[:budget]
    return rows[picks], utility[picks]


def _unit_rows(points: Floats) -> Floats:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.maximum(lengths, 1e-12), np.float32)


def _by_typicality(points: Floats, rows: Rows, centre: Floats) -> tuple[Rows, Floats]:
    """The members of one cluster, most typical first, with their typicality."""
    if len(rows) > _TYPICALITY_MEMBERS:
        away = np.square(points[rows] - centre).sum(axis=1)
        rows = rows[np.sort(np.argpartition(away, _TYPICALITY_MEMBERS)[:_TYPICALITY_MEMBERS])]
    members = points[rows]
    squares = np.square(members).sum(axis=1)
    squared = np.maximum(squares[:, None] + squares - 2.0 * (members @ members.T), 0.0)
    np.fill_diagonal(squared, 0.0)
    k = min(_NEIGHBOURS, max(len(rows) // 2, 1), len(rows) - 1)
    if k < 1:
        return rows, np.ones(len(rows), np.float32)
    # Column 0 after the partition is the item itself (or a copy at distance 0, which adds nothing either).
    mean_distance = np.sqrt(np.partition(squared, k, axis=1)[:, : k + 1]).sum(axis=1) / k
    typicality = (1.0 / (mean_distance + 1e-5)).astype(np.float32)
    order = np.argsort(-typicality, kind="stable")
    return rows[order], typicality[order]


def _kmeans(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Centres float32 (K, D), K <= k: k-means++ seeding, then Lloyd's steps. Empty clusters are dropped."""
    sample = points
    if len(points) > _KMEANS_SAMPLE:
        sample = points[rng.choice(len(points), _KMEANS_SAMPLE, replace=False)]
    centres = _seed_centres(sample, k, rng)
    previous = np.full(len(sample), -1)
    for _ in range(_KMEANS_STEPS):
        cluster, _ = _assign(sample, centres)
        if np.array_equal(cluster, previous):
            break
        previous = cluster
        counts = np.bincount(cluster, minlength=len(centres))
        sums = np.zeros((len(centres), sample.shape[1]))
        order = np.argsort(cluster, kind="stable")
        held = np.flatnonzero(counts)
        firsts = (np.cumsum(counts) - counts)[held]
        sums[held] = np.add.reduceat(sample[order], firsts, axis=0, dtype=np.float64)
        centres = (sums[held] / counts[held, None]).astype(np.float32)
        if len(held) < len(counts):
            previous = np.full(len(sample), -1)
    return centres


def _seed_centres(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii 2007): centres drawn by squared distance to the nearest one."""
    chosen = [int(rng.integers(len(points)))]
    squares = np.square(points).sum(axis=1)
    nearest = np.full(len(points), np.inf)
    while len(chosen) < k:
        last = points[chosen[-1]]
        away = squares + squares[chosen[-1]] - 2.0 * (points @ last)
        nearest = np.minimum(nearest, np.where(away < 1e-6, 0.0, away))
        total = nearest.sum()
        if total <= 0:  # only copies of the centres are left
            break
        chosen.append(int(np.searchsorted(np.cumsum(nearest), rng.random() * total, side="right")))
        chosen[-1] = min(chosen[-1], len(points) - 1)
    return points[chosen]


def _assign(points: Floats, centres: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Nearest centre int64 (N,) and its squared distance less the point's own square, in blocks."""
    cluster = np.zeros(len(points), np.int64)
    value = np.zeros(len(points), np.float32)
    offset = np.square(centres).sum(axis=1)
    for start in range(0, len(points), _BLOCK):
        partial = points[start : start + _BLOCK] @ (-2.0 * centres.T) + offset
        best = partial.argmin(axis=1)
        cluster[start : start + _BLOCK] = best
        value[start : start + _BLOCK] = np.take_along_axis(partial, best[:, None], axis=1)[:, 0]
    return cluster, value
