"""Accepting predictions without a look, only under a certificate that holds.

Three things make a promise of "99 % of these are right" false although each look at the audit answers was sound:
choosing the threshold by its result, looking again after every answer until it passes, and judging a small pool by a
bound for an endless one. Against the first the regions are fixed beforehand and walked in a fixed order; against the
second looks are planned (`look_due`), each with its own share of the error; against the third the bound counts the
items that are left (`rest_bound`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import beta

from ml_worker.pool import Floats, Rows

# The regions are fixed before any audit answer is seen: the most confident 10 %, 15 %, ... of the pool.
LADDER = tuple(share / 100 for share in range(10, 101, 5))
# Looks: each when there are a quarter more audit answers than at the one before, with seven tenths of its error. The
# answers grow faster than the error shrinks, so later looks certify more, however many there were.
GROWTH, SPENT = 1.25, 0.7


@dataclass(frozen=True)
class Look:
    """One of the planned looks at the audit answers. number: from 1. at: audit answers from which it is due.
    delta: its part of the whole error; all looks there will ever be come to no more than that."""

    number: int
    at: int
    delta: float


@dataclass(frozen=True)
class Certificate:
    """With probability 1 - delta, at least `target` of the items in the region that nobody has looked at are right.

    The region: items predicted as `column` (None: as any class) with a confidence of at least threshold. k of its n
    audited items were right; bound is the lower bound on the precision of its `rest` others. share: those others as a
    part of the pool, 0..1.
    """

    threshold: float
    n: int
    k: int
    rest: int
    bound: float
    target: float
    delta: float
    share: float
    column: int | None = None


def planned_look(number: int, target: float, delta: float = 0.05) -> Look:
    """The look of this number. The first is due when the target could be met without an error."""
    spent = delta * (1.0 - SPENT) * SPENT ** (number - 1)
    first = audits_needed(target, delta * (1.0 - SPENT))
    return Look(number, math.ceil(first * GROWTH ** (number - 1)), spent)


def look_due(n_answers: int, taken: int, target: float, delta: float = 0.05) -> Look | None:
    """The newest look that n_answers audit answers allow and that was not taken yet; None where there is none.

    taken: the number of the newest look taken, 0 before the first. Looks that were passed over are not made up for.
    When a look comes depends on how many answers there are and never on what they said, so a model that changed
    since, and a person who stops as soon as a certificate appears, change nothing: by Bonferroni all certificates
    ever given are right together with probability 1 - delta. (A betting bound would be valid after every answer, but
    for one model only: with a new model at every refit it would have to be paid for anew each time.)
    """
    if n_answers < planned_look(taken + 1, target, delta).at:
        return None
    number = taken + 1
    while planned_look(number + 1, target, delta).at <= n_answers:
        number += 1
    return planned_look(number, target, delta)


def lower_bound(k: int, n: int, delta: float) -> float:
    """Clopper-Pearson: a rate seen k times in n is at least this, with probability 1 - delta."""
    return 0.0 if k == 0 else float(beta.ppf(delta, k, n - k + 1))


def rest_bound(k: int, n: int, rest: int, delta: float) -> float:
    """A rate among the `rest` others of n + rest items, of which n drawn at random held it k times, is at least this.

    With probability 1 - delta. The exact bound of sampling without replacement (hypergeometric; Clopper-Pearson is
    its limit for an endless rest). 1 where there is no rest.
    """
    if rest == 0:
        return 1.0
    if n == 0:
        return 0.0
    errors, whole = n - k, n + rest
    # The largest number of errors in the whole that such a sample does not rule out.
    possible, ruled_out = errors, errors + rest + 1
    while ruled_out - possible > 1:
        middle = (possible + ruled_out) // 2
        fits = _at_most(errors, whole, middle, n) > delta
        possible, ruled_out = (middle, ruled_out) if fits else (possible, middle)
    return 1.0 - (possible - errors) / rest


def _at_most(errors: int, whole: int, wrong: int, n: int) -> float:
    """The probability of at most so many errors in a sample of n out of `whole` items, so many of them wrong."""
    seen = np.arange(max(0, n - (whole - wrong)), min(errors, wrong) + 1)
    ways = _log_choose(wrong, seen) + _log_choose(whole - wrong, n - seen) - _log_choose(whole, n)
    return float(np.exp(ways).sum())


def _log_choose(n: int, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
    return np.asarray(gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0))


@lru_cache(maxsize=4096)
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
    """The widest region of the pool whose predictions may be accepted, or None when none may. For one look.

    confidence_pool: (M,) of the items that would be accepted. confidence_audit (n,) and correct_audit (n,):
    audit answers, drawn uniformly from the same pool. The confidence must not have been fitted on these
    answers (use the model's own, before a temperature). Walks from the narrowest region outwards and stops at
    the first bound below the target: fixed-sequence testing, which needs no correction for trying many
    regions because their order does not depend on the answers (Angelopoulos et al. 2021, "Learn then Test").
    Regions with too few audited items to pass even without an error are stepped over: that looks at how many
    were audited, not at how they came out.
    """
    passed = None
    for share in LADDER if len(confidence_pool) else ():
        threshold = float(np.quantile(confidence_pool, 1.0 - share, method="lower"))
        inside = confidence_audit >= threshold
        n, k = int(inside.sum()), int(correct_audit[inside].sum())
        rest = int((confidence_pool >= threshold).sum())
        if rest_bound(n, n, rest, delta) < target:
            continue
        bound = rest_bound(k, n, rest, delta)
        if bound < target:
            break
        passed = Certificate(threshold, n, k, rest, bound, target, delta, rest / len(confidence_pool))
    return passed


def certify_classes(
    probs_pool: Floats, probs_audit: Floats, targets_audit: Rows, target: float, delta: float = 0.05
) -> list[Certificate | None]:
    """A threshold for each class on its own, over the items predicted as that class; None where it has none.

    probs_pool (M, C), probs_audit (n, C): as the model gives them. targets_audit int64 (n,): the answers, -1 for one
    of no class. All certificates together hold with probability 1 - delta: each class gets an equal part of it, which
    costs audit answers and buys thresholds that an easy class does not share with a hard one.
    """
    n_classes = probs_pool.shape[1]
    guesses_pool, guesses_audit = probs_pool.argmax(axis=1), probs_audit.argmax(axis=1)
    found: list[Certificate | None] = []
    for column in range(n_classes):
        mine, audited = guesses_pool == column, guesses_audit == column
        given = certify(
            probs_pool[mine].max(axis=1, initial=0.0),
            probs_audit[audited].max(axis=1, initial=0.0),
            targets_audit[audited] == column,
            target,
            delta / n_classes,
        )
        share = given.rest / len(probs_pool) if given else 0.0
        found.append(replace(given, column=column, share=share) if given else None)
    return found


def answers_missing(confidence_audit: Floats, correct_audit: NDArray[np.bool_], target: float, delta: float) -> int:
    """How many more audit answers the most confident part of the pool needs, if no further error turns up in it.

    For one look of this delta, and a large pool; at least 1. Of the regions of the ladder the one that would be there
    first: a tenth of the pool gets a tenth of the answers, and a wide one has more errors to make up for.
    """
    missing: list[int] = []
    order = np.argsort(-confidence_audit, kind="stable")
    for share in LADDER:
        inside = order[: round(share * len(order))]
        errors = int((~correct_audit[inside]).sum())
        needed = audits_needed(target, delta, errors) - len(inside)
        missing.append(max(1, math.ceil(needed / share)))
    return min(missing)


def representative(strata_pool: Sequence[int], strata_audit: Sequence[int]) -> NDArray[np.bool_]:
    """Which audit answers stand for the pool as a whole, bool (n,), where parts of it were sampled at different rates.

    strata: of each item that may be accepted, (M,), and of each audit answer, (n,), in the order they were given: the
    import it came with. Every import was sampled at random for itself, a small one more densely; of each only so many
    of its first answers count that the rate is the same everywhere, that of the thinnest. An import without an answer
    makes the rate 0: nothing is known about it.
    """
    pool, audit = np.asarray(strata_pool), np.asarray(strata_audit)
    names, sizes = np.unique(pool, return_counts=True)
    answered = np.array([(audit == name).sum() for name in names])
    # The rate at which the whole of a stratum, answered and not, was looked at.
    rate = float((answered / (sizes + answered)).min(initial=1.0)) if len(names) else 0.0
    kept = np.zeros(len(audit), bool)
    for name, size, n in zip(names, sizes, answered, strict=True):
        quota = n if rate == 1.0 else min(n, math.floor(rate * size / (1.0 - rate) + 1e-9))
        kept[np.flatnonzero(audit == name)[:quota]] = True
    return kept
