"""Unsure and unlike each other: a batch spread over the changes that its answers would make to the model."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, filled_up


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows drawn by k-means++ on gradients; utility: squared distance to the nearest gradient drawn before
    (of the first, its squared length).

    The gradient of the last layer, were the model's guess the truth, is (p - onehot(guess)) times the embedding: C x D
    numbers an item, which are never formed, for their products factor: g_i . g_j = (a_i . a_j)(h_i . h_j). First the
    longest, then each with a chance in proportion to its squared distance to the nearest one drawn.

    Source: Ash et al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds" (BADGE),
    algorithm 1. Differences: the embedding stands for the last hidden layer; once all that is left are copies of what
    was drawn (their implementation stops there) the rest comes by lot, with utility 0. As what comes is drawn, its
    utility need not fall. Of more than 50,000 candidates the loop gives it a random 50,000.
    """
    hidden = np.asarray(pool.embeddings)
    slopes = pool.probs.copy()
    slopes[np.arange(len(slopes)), pool.probs.argmax(axis=1)] -= 1.0
    squares = np.square(slopes).sum(axis=1) * np.square(hidden).sum(axis=1)
    chosen: list[int] = []
    away: list[float] = []
    nearest = squares
    none_left = 1e-6 * float(squares.max(initial=0.0))  # what float32 leaves of a distance that is zero
    while len(chosen) < min(budget, len(hidden)) and nearest.max() > none_left:
        row = _drawn(nearest, rng) if chosen else int(nearest.argmax())
        chosen.append(row)
        away.append(float(nearest[row]))
        squared = squares + squares[row] - 2.0 * (slopes @ slopes[row]) * (hidden @ hidden[row])
        squared[squared <= none_left] = 0.0
        nearest = squared if len(chosen) == 1 else np.minimum(nearest, squared)
        nearest[row] = 0.0
    rows = filled_up(chosen, len(hidden), budget, rng)
    utility = np.zeros(len(rows), np.float32)
    utility[: len(away)] = away
    return rows, utility


def _drawn(weights: Floats, rng: np.random.Generator) -> int:
    """A row with a chance in proportion to its weight, never one that weighs nothing."""
    upto = np.cumsum(weights, dtype=np.float64)
    row = int(np.searchsorted(upto, rng.random() * upto[-1], side="right"))
    return min(row, int(np.flatnonzero(weights)[-1]))
