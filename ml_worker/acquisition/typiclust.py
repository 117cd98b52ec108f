"""Typical items of clusters that hold no label yet: what to ask first."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows
from ml_worker.clustering import assign, kmeans, unit_rows

_MAX_CLUSTERS = 500
_SMALL_CLUSTER = 5  # clusters up to this size are noise and come last
_NEIGHBOURS = 20
_TYPICALITY_MEMBERS = 2_000  # of a larger cluster only so many members nearest its centre are compared


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
    points = unit_rows(np.concatenate([np.asarray(pool.embeddings), labeled]))
    centres = kmeans(points, min(len(labeled) + budget, _MAX_CLUSTERS), rng)
    cluster = assign(points, centres)
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
