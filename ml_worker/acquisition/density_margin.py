"""Close calls among many first: an answer about a common kind of item helps more than one about an oddity."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, best_first, gaps


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by margin's utility times the density about the item; utility in [0, 1].

    Density is t / (t + s), s the mean distance to the nearest items of the pool and t its median over the candidates:
    1/2 for a usual item, near 1 amid copies, near 0 for a stranger. Where spacing is not known: margin.
    Raises ValueError if C < 2. Source: Settles and Craven 2008, "An Analysis of Active Learning Strategies for
    Sequence Labeling Tasks" (information density, beta = 1). Differences: margin as the doubt; the distance to the
    nearest instead of the mean similarity to all, which asks for every pair and mostly finds the pool's centre; near
    copies go to the back, as with margin.
    """
    utility = 1.0 - gaps(pool.probs)
    if pool.spacing is not None and len(pool.spacing):
        usual = max(float(np.median(pool.spacing)), 1e-12)
        utility = utility * (usual / (usual + pool.spacing)).astype(np.float32)
    return best_first(pool, utility, budget)
