"""Items at random: the yardstick every other acquisition function is held against."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows drawn uniformly without replacement; every utility is 0, for none is better than another."""
    rows = rng.permutation(len(pool.embeddings))[: max(budget, 0)].astype(np.int64)
    return rows, np.zeros(len(rows), np.float32)
