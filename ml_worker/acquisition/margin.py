"""Close calls first: the items whose two most likely classes are nearly level."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, best_first, gaps


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by one minus the gap between the two most likely classes; utility in [0, 1].

    Raises ValueError if C < 2. Source: Scheffer et al. 2001; one minus the gap here, so that larger is
    sooner. Difference: an item that nearly copies a labelled or an already chosen one goes to the back of the
    batch, because its answer would follow from the other's. Ties keep the order of the pool.
    """
    return best_first(pool, 1.0 - gaps(pool.probs), budget)
