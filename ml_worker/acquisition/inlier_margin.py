"""Close calls that are no strangers first: for pools in which much belongs to none of the classes."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, best_first, gaps


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by how likely an item is of a known class, less the gap between the two likeliest; utility in [0, 1].

    member_probs: float32 (E, M, C + 1), the last column for "none of these", which learns from the answers that say
    so. With p their mean: 1 - p_none - (p_first - p_second), which is 1 for a toss-up between two classes and 0 for a
    sure stranger as for a sure item. Without such members: margin.

    Raises ValueError if C < 2. No paper's formula: the margin (Scheffer et al. 2001) of an ensemble that learns the
    strangers jointly with the classes, as class C + 1. Near copies go to the back, as with margin. Of use only once
    some items were answered "none of these".
    """
    columns = pool.probs.shape[1]
    utility = 1.0 - gaps(pool.probs)
    if pool.member_probs is not None and pool.member_probs.shape[2] == columns + 1:
        known = np.stack([pool.member_probs[:, :, column].mean(axis=0) for column in range(columns)], axis=1)
        utility = np.maximum(known.sum(axis=1) - gaps(known), 0.0)
    return best_first(pool, utility, budget)
