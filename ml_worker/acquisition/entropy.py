"""The most open first: the items whose class the model can narrow down the least."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, best_first

_BLOCK = 65536


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by the entropy of the class probabilities, divided by log C; utility in [0, 1].

    Source: Shannon 1948; for choosing questions Dagan and Engelson 1995. Differences: divided by its largest value;
    near copies go to the back, as with margin. Ties keep the order of the pool.
    """
    utility = np.zeros(len(pool.probs), np.float32)
    for start in range(0, len(utility), _BLOCK):
        probs = pool.probs[start : start + _BLOCK]
        utility[start : start + _BLOCK] = -(probs * np.log(np.maximum(probs, 1e-30))).sum(axis=1)
    return best_first(pool, utility / np.float32(np.log(max(pool.probs.shape[1], 2))), budget)
