"""The least sure first: the items whose most likely class is the least likely."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, best_first


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by one minus the probability of the most likely class; utility in [0, 1 - 1 / C].

    Source: Lewis and Gale 1994, "A Sequential Algorithm for Training Text Classifiers"; for more than two classes
    Culotta and McCallum 2005. Difference: near copies go to the back, as with margin. Ties keep the order of the pool.
    """
    return best_first(pool, 1.0 - pool.probs.max(axis=1), budget)
