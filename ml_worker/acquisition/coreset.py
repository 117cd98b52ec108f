"""The farthest from every answer first: a batch that leaves no region without one."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows

_BLOCK = 4096


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by k-centre greedy; utility: the distance to the nearest labelled or earlier chosen item.

    Each time the item that is farthest from all labelled and chosen ones, kept as one distance an item: (M,), never
    (M, M). Source: Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
    algorithm 1. Difference: without any answer it begins with the item nearest to the mean. It finds oddities before
    anything else, so the loop never lets it open a project. Of more than 50,000 candidates the loop gives it a
    random 50,000.
    """
    embeddings = np.asarray(pool.embeddings)
    m = len(embeddings)
    budget = min(max(budget, 0), m)
    chosen = np.zeros(budget, np.int64)
    away = np.zeros(budget, np.float32)
    if budget == 0:
        return chosen, away
    # Centred, the products below lose fewer digits.
    centre = embeddings.mean(axis=0)
    points = embeddings - centre
    squares = np.square(points).sum(axis=1)
    nearest = _squared_to_nearest(points, squares, pool.labeled_embeddings.reshape(-1, points.shape[1]) - centre)
    for place in range(budget):
        is_first = place == 0 and not len(pool.labeled_embeddings)
        row = int(squares.argmin() if is_first else nearest.argmax())
        chosen[place] = row
        away[place] = np.sqrt(squares.max() if is_first else max(float(nearest[row]), 0.0))
        np.minimum(nearest, squares + squares[row] - 2.0 * (points @ points[row]), out=nearest)
        nearest[row] = -np.inf  # below what rounding makes of a copy's zero
    return chosen, away


def _squared_to_nearest(points: Floats, squares: Floats, others: Floats) -> Floats:
    """Squared distance float32 (M,) to the nearest of the others (L, D), in blocks; infinite without any."""
    nearest = np.full(len(points), np.inf, np.float32)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK]
        for first in range(0, len(points), _BLOCK):
            part = slice(first, first + _BLOCK)
            squared = points[part] @ (-2.0 * block.T) + np.square(block).sum(axis=1)
            nearest[part] = np.minimum(nearest[part], squared.min(axis=1) + squares[part])
    return nearest
