"""Accepting predictions without a look, only under a certificate that holds.

Three things make a promise of "99 % of these are right" false although each look at the audit answers was sound:
choosing the threshold by its result, looking again after every answer until it passes, and judging a small pool by a
bound for an endless one. Against the first the regions are fixed beforehand and walked in a fixed order; against the
second looks are planned (`next_look`), each with its own share of the error; against the third the bound counts the
items that are left (`open_bound`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import beta

from ml_worker.pool import Floats, Rows

# Of each item or answer, the part of the pool that it was drawn from.
Strata = Sequence[int] | Rows
# The regions are fixed before any audit answer is seen: the most confident 10 %, 15 %, ... of the pool.
LADDER = tuple(share / 100 for share in range(10, 101, 5))
# Looks: each when there are a quarter more audit answers than at the one before, with seven tenths of its error. The
# answers grow faster than the error shrinks, so later looks certify more, however many there were.
GROWTH, SPENT = 1.25, 0.7
# All looks together may err by this part of the whole error, certification rounds (rounds.py) by the rest.
LOOKS = 0.25


@dataclass(frozen=True)
class Look:
    """One of the planned looks at the audit answers. number: from 1. at: audit answers from which it is due.
    delta: its part of the whole error; all looks there will ever be come to no more than that."""

    number: int
    at: int
    delta: float


@dataclass(frozen=True)
class Taken:
    """A look that was taken. number: in its family, the looks in a row with this target and confidence. answers: how
    many it saw. spent: the part of the error that is gone with it."""

    number: int
    answers: int
    target: float
    confidence: float
    spent: float


@dataclass(frozen=True)
class Certificate:
    """With probability 1 - delta, at least `target` of the items in the region that nobody has looked at are right.

    The region: items predicted as `column` (None: as any class) with a confidence of at least threshold. k of its n
    audited items were right; bound is the lower bound on the precision of its `rest` others. share: those others as a
    part of the pool, 0..1. answered: how many more of the region people answered otherwise than as audit items.
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
    answered: int = 0


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


def sample_target(target: float, share_answered: float) -> float:
    """What the audit items must show so that the target is met by the open ones, where people answered this share of
    the pool: see `open_bound`."""
    return 1.0 - (1.0 - target) * (1.0 - min(share_answered, 0.95))


def next_look(
    n_answers: int,
    past: Sequence[Taken],
    target: float,
    confidence: float,
    leaks: int = 0,
    share_answered: float = 0.0,
) -> tuple[Look | None, bool]:
    """The look to take now (True), or the one to wait for (False); None when no error is left for any.

    past: every look ever taken, oldest first. leaks: how often what the audit answers said chose between two models.

    All of them together may err by LOOKS of 1 - confidence. What a look spent stays spent. A change of target or
    confidence starts a family of looks anew, which shares what is left of the error as the first shared the whole; so
    all looks under all targets come to no more than the error that is allowed now. Its first look waits for a quarter
    more answers than the last one saw: wishing for another target is no reason to ask the same answers twice. Each
    leak is one bit of the answers that the model may depend on, so there are at most 2 ** leaks models it can be, and
    the error is shared between them (the union bound).
    share_answered: of the pool, by people and otherwise than as audit items; a look before the sample could show what
    that asks of it (`sample_target`) would be spent in vain.
    """
    family = list(takewhile(lambda each: (each.target, each.confidence) == (target, confidence), reversed(past)))
    left = LOOKS * (1.0 - confidence) - sum(each.spent for each in past[: len(past) - len(family)])
    if left < 1e-6:
        return None, False
    taken, delta = family[0].number if family else 0, left / 2**leaks
    floor = math.ceil(GROWTH * past[-1].answers) if past and not family else 0
    shown = sample_target(target, share_answered)
    due = look_due(n_answers, taken, shown, delta) if n_answers >= floor else None
    upcoming = planned_look(taken + 1, shown, delta)
    return (due, True) if due else (replace(upcoming, at=max(upcoming.at, floor)), False)


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
        fits = at_most(errors, whole, middle, n) > delta
        possible, ruled_out = (middle, ruled_out) if fits else (possible, middle)
    return 1.0 - (possible - errors) / rest


def open_bound(k: int, n: int, rest: int, answered: int, delta: float) -> float:
    """The `rest_bound` of the `rest` open ones of a region in which people answered `answered` others meanwhile.

    Those were chosen, not drawn: the doubtful ones, say, or what a reviewer looked through. How they were chosen is
    not known, so the worst is taken for true: that of the errors which the audit items show for all of the region
    none is among the answered, and the open ones have every one.
    """
    if rest == 0:
        return 1.0
    return max(0.0, 1.0 - (1.0 - rest_bound(k, n, rest + answered, delta)) * (rest + answered) / rest)


def at_most(errors: int, whole: int, wrong: int, n: int) -> float:
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
    confidence_answered: Floats | None = None,
) -> Certificate | None:
    """The widest region of the pool whose predictions may be accepted, or None when none may. For one look.

    confidence_pool: (M,) of the items that would be accepted. confidence_audit (n,) and correct_audit (n,):
    audit answers, drawn uniformly from the same pool. The confidence must not have been fitted on these
    answers (use the model's own, before a temperature). confidence_answered: of those of the pool that people answered
    otherwise (see `open_bound`). Walks from the narrowest region outwards and stops at
    the first bound below the target: fixed-sequence testing, which needs no correction for trying many
    regions because their order does not depend on the answers (Angelopoulos et al. 2021, "Learn then Test").
    Regions with too few audited items to pass even without an error are stepped over: that looks at how many
    were audited, not at how they came out.
    """
    passed = None
    others = np.zeros(0, np.float32) if confidence_answered is None else confidence_answered
    for share in LADDER if len(confidence_pool) else ():
        threshold = float(np.quantile(confidence_pool, 1.0 - share, method="lower"))
        inside = confidence_audit >= threshold
        n, k = int(inside.sum()), int(correct_audit[inside].sum())
        rest, answered = int((confidence_pool >= threshold).sum()), int((others >= threshold).sum())
        if open_bound(n, n, rest, answered, delta) < target:
            continue
        bound = open_bound(k, n, rest, answered, delta)
        if bound < target:
            break
        wide = rest / len(confidence_pool)
        passed = Certificate(threshold, n, k, rest, bound, target, delta, wide, answered=answered)
    return passed


def certify_classes(
    probs_pool: Floats,
    probs_audit: Floats,
    targets_audit: Rows,
    target: float,
    delta: float = 0.05,
    probs_answered: Floats | None = None,
) -> list[Certificate | None]:
    """A threshold for each class on its own, over the items predicted as that class; None where it has none.

    probs_pool (M, C), probs_audit (n, C): as the model gives them. targets_audit int64 (n,): the answers, -1 for one
    of no class. probs_answered: as in `certify`. All certificates together hold with probability 1 - delta: each class
    gets an equal part of it, which costs audit answers and buys thresholds that an easy class does not share with a
    hard one.
    """
    n_classes = probs_pool.shape[1]
    others = probs_pool[:0] if probs_answered is None else probs_answered
    guesses_pool, guesses_audit = probs_pool.argmax(axis=1), probs_audit.argmax(axis=1)
    guesses_others = others.argmax(axis=1)
    found: list[Certificate | None] = []
    for column in range(n_classes):
        mine, audited = guesses_pool == column, guesses_audit == column
        given = certify(
            probs_pool[mine].max(axis=1, initial=0.0),
            probs_audit[audited].max(axis=1, initial=0.0),
            targets_audit[audited] == column,
            target,
            delta / n_classes,
            others[guesses_others == column].max(axis=1, initial=0.0),
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


def representative(strata_pool: Strata, strata_audit: Strata) -> NDArray[np.bool_]:
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


def spoken_for(strata_pool: Strata, strata_audit: Strata) -> tuple[list[int], NDArray[np.bool_]]:
    """The strata that the audit answers can speak for, and which of those do, bool (n,); arguments as above.

    Strata are left out, the thinnest sampled first, where that leaves more answers that count: a large import whose
    first checks are just coming in would otherwise silence all the others. Goes by how many answers there are, never
    by what they said.
    """
    pool, audit = np.asarray(strata_pool), np.asarray(strata_audit)
    names, sizes = np.unique(pool, return_counts=True)
    answered = np.array([(audit == name).sum() for name in names])
    densest = names[np.argsort(-answered / np.maximum(sizes + answered, 1), kind="stable")]
    best, kept = densest[:0], np.zeros(len(audit), bool)
    for count in range(1, len(densest) + 1):
        inside = np.isin(audit, densest[:count])
        counted = np.zeros(len(audit), bool)
        counted[inside] = representative(pool[np.isin(pool, densest[:count])], audit[inside])
        if counted.sum() and counted.sum() >= kept.sum():  # as many answers for more images are better
            best, kept = densest[:count], counted
    return sorted(int(name) for name in best), kept
