"""Accepting predictions without a look, only under a certificate that holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ml_worker.pool import Floats

# The regions are fixed before any audit answer is seen: the most confident 10 %, 15 %, ... of the pool.
LADDER = tuple(share / 100 for share in range(10, 101, 5))


@dataclass(frozen=True)
class Certificate:
    """With probability 1 - delta, at least `target` of the predictions of confidence >= threshold are right.

    k of n audited items above the threshold were right; bound is the Clopper-Pearson lower bound on the
    precision. share: the part of the pool it lets through, 0..1.
    """

    threshold: float
    n: int
    k: int
    bound: float
    target: float
    delta: float
    share: float


def lower_bound(k: int, n: int, delta: float) -> float:
    """Clopper-Pearson: a rate seen k times in n is at least this, with probability 1 - delta."""
    return 0.0 if k == 0 else float(beta.ppf(delta, k, n - k + 1))


def audits_needed(target: float, delta: float = 0.05, errors: int = 0) -> int:
    """The fewest audit answers, with so many errors among them, that certify the target. target in (0, 1)."""
    if not 0 < target < 1 or not 0 < delta < 1 or errors < 0:
        raise ValueError(f"wanted target {target} and delta {delta} between 0 and 1, errors {errors} >= 0")
    enough = errors + 1
    while lower_bound(enough - errors, enough, delta) < target:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        fits = middle > errors and lower_bound(middle - errors, middle, delta) >= target
        too_few, enough = (too_few, middle) if fits else (middle, enough)
    return enough


def certify(
    confidence_pool: Floats,
    confidence_audit: Floats,
    correct_audit: NDArray[np.bool_],
    target: float,
    delta: float = 0.05,
) -> Certificate | None:
    """The widest region of the pool whose predictions may be accepted, or None when none may.

    confidence_pool: (M,) of the items that would be accepted. confidence_audit (n,) and correct_audit (n,):
    audit answers, drawn uniformly from the same pool. The confidence must not have been fitted on these
    answers (use the model's own, before a temperature). Walks from the narrowest region outwards and stops at
    the first bound below the target: fixed-sequence testing, which needs no correction for trying many
    regions because their order does not depend on the answers (Angelopoulos et al. 2021, "Learn then Test").
    Regions with too few audited items to pass even without an error are stepped over: that looks at how many
    were audited, not at how they came out.
    """
    needed = audits_needed(target, delta)
    passed = None
    for share in LADDER if len(confidence_pool) else ():
        threshold = float(np.quantile(confidence_pool, 1.0 - share, method="lower"))
        inside = confidence_audit >= threshold
        n, k = int(inside.sum()), int(correct_audit[inside].sum())
        if n < needed:
            continue
        bound = lower_bound(k, n, delta)
        if bound < target:
            break
        accepted = float(np.mean(confidence_pool >= threshold))
        passed = Certificate(threshold, n, k, bound, target, delta, accepted)
    return passed
