"""Close calls first: the items whose two most likely classes are nearly level."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, spread_out


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by one minus the gap between the two most likely classes; utility in [0, 1].

    Raises ValueError if C < 2. Source: Scheffer et al. 2001; one minus the gap here, so that larger is
    sooner. Difference: an item that nearly copies a labelled or an already chosen one goes to the back of the
    batch, because its answer would follow from the other's. Ties keep the order of the pool.
    """
    if pool.probs.shape[1] < 2:
        raise ValueError(f"margin needs at least 2 classes; the pool has {pool.probs.shape[1]}")
    two_best = np.partition(pool.probs, -2, axis=1)[:, -2:]
    utility = (1.0 - (two_best[:, 1] - two_best[:, 0])).astype(np.float32)
    order = np.argsort(-utility, kind="stable").astype(np.int64)
    rows = spread_out(pool.embeddings, order, max(budget, 0), pool.labeled_embeddings)
    return rows, utility[rows]
