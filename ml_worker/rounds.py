"""Certification rounds: random checks inside the very region that is to be accepted unseen.

The audit sample is spread over the whole pool, so a region of a tenth of it gets a tenth of the checks, and a promise
of 99 % takes some 400 in it. A round asks them there. It fixes a set of open items that nobody has answered, with the
predictions of one model, frozen; it draws checks from it without replacement; people answer them without a hint; and
at planned numbers of answers, counted in the order of the draw, the exact bound for the unchecked rest
(`gate.open_bound`) is held against the target.

Why everything ever promised holds together with probability 1 - delta:

- The looks at the audit sample may err by a quarter of delta (`gate.LOOKS`), all rounds there will ever be by the
  rest. A fixed split, because what one of them leaves over cannot be known beforehand. Rounds get more of it: a look
  that fails cost nobody an answer, whereas each halving of a round's error costs 69 checks for 99 %, about a seventh.
- A round takes two thirds of what the rounds before it left (`error_for`), known before it is drawn; what it takes is
  gone however it ends. So the sum over all rounds is at most the rounds' part, also for somebody who starts another
  whenever one fails and chooses its region, or the moment to stop, after seeing everything. Whatever led to a region,
  the audit answers and all earlier rounds included, its checks are drawn afresh from it, and its predictions change no
  more with any later model: given all that, each round errs with no more than its own part, and the parts add up.
- The stages of a round share its part. The bound of a stage is about the first `at` checks of the draw, answered all:
  who answers first, or leaves the doubtful ones for later, changes nothing. Each bound says how many errors the region
  can have at all, and all of a round's hold at once, so the best of them counts, whenever it is read, and for any
  target: one that is lowered to 98 % while a round runs is held against the same bounds at no cost. After the round is
  over it takes another one, with fewer checks. (A look at the audit sample is different: there the target chooses the
  region, see `gate.next_look`.)
- Items of the region that people answered meanwhile otherwise than as checks may have been picked because they were
  right: the errors are taken to lie all among the others. Not so those that chance made random checks of the whole
  pool: they stay among what is promised, answered or not, and their answers can only break the promise.

Nothing is promised of items that are not in the region, those imported later included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from ml_worker import gate
from ml_worker.pool import Floats, Rows

# Of what rounds may err by, each takes this part of what is left: the first should succeed, later ones cost some 110
# checks more each. Of its own part, each stage has half of the one before.
TAKEN, LATER = 2 / 3, 0.5
# A region with more errors than so many among its checks is not waited for.
ERRORS_AT_MOST = 4
# What is thought of a region's error before any check: a beta distribution with much of its weight near nothing. It
# chooses what is offered and has no part in what is promised.
PRIOR = (0.25, 1.0)
# A region with less chance than this is not offered, nor one wider than this part of what may be asked: doubt gathers
# in the other half, where a few errors would cost the promise for all, and another round can follow for it.
FAIR, WIDEST = 0.2, 0.5
# Less error than this is none.
NOTHING = 1e-6


@dataclass(frozen=True)
class Stage:
    """After the first `at` checks of the draw, `errors` of them wrong at most, the target is met.

    That many where nobody has answered anything else of the region. delta: the stage's part of the error.
    """

    at: int
    errors: int
    delta: float


@dataclass(frozen=True)
class Standing:
    """Where a round stands. answered, errors: of all its checks, in any order.

    bound: the best lower bound on the precision of what is open that a finished stage shows, 0 before the first one;
    stage: that one; wrong: errors among its checks; rest: open items of the region behind its checks; others: those
    answered otherwise. upcoming: the next stage that may still meet the target; missing: its checks not answered yet.
    is_met: the bound reaches the target; is_lost: no answers to come could make it.
    """

    answered: int
    errors: int
    bound: float
    stage: Stage | None
    wrong: int
    rest: int
    others: int
    upcoming: Stage | None
    missing: int
    is_met: bool

    @property
    def is_lost(self) -> bool:
        return not self.is_met and self.upcoming is None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Answers that say how right the model is where. places float (n,): of each the share of the pool that is at least
    as confident; right bool (n,). reach: drawn from this share of the pool, the most confident; 1: from all of it."""

    places: NDArray[np.float64]
    right: NDArray[np.bool_]
    reach: float = 1.0


@dataclass(frozen=True, eq=False)
class Region:
    """What a round may be about. rows int64 (M,): places in the arrays it was chosen from. threshold: the least
    confidence; share: of the pool. stages: as far as they fit. chance: to meet the target, by what is known so far;
    checks: to be expected, ended early or not."""

    rows: Rows
    threshold: float
    share: float
    stages: tuple[Stage, ...]
    chance: float
    checks: float
    column: int | None = None

    @property
    def gain(self) -> float:
        """Items let through less checks asked, to be expected."""
        return self.chance * (len(self.rows) - self.checks) - (1.0 - self.chance) * self.checks


def error_for(spent: Sequence[float], confidence: float) -> float:
    """What the next round may err by; 0 when nothing is left. spent: by all rounds so far, however they ended."""
    left = (1.0 - gate.LOOKS) * (1.0 - confidence) - sum(spent)
    return left * TAKEN if left * TAKEN >= NOTHING else 0.0


@lru_cache(maxsize=4096)
def checks_needed(size: int, target: float, delta: float, errors: int = 0) -> int | None:
    """The fewest checks, with so many errors among them, that show the target for the rest of `size` items.

    None where that would take more than half of them: then there is little to gain.
    """

    def is_enough(n: int) -> bool:
        rest = size - n
        allowed = math.floor((1.0 - target) * rest + 1e-9)
        if allowed and 1.0 - allowed / rest < target:
            allowed -= 1
        # The fewest errors that break the promise must be ruled out.
        return gate.at_most(errors, size, errors + allowed + 1, n) <= delta

    too_few, enough = errors, size // 2
    if enough <= errors or not is_enough(enough):
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if is_enough(middle) else (middle, enough)
    return enough


def plan(size: int, target: float, delta: float, errors_at_most: int = ERRORS_AT_MOST) -> tuple[Stage, ...]:
    """The stages of a round over `size` items, one for each number of errors; as many as fit, none where none does."""
    for most in range(errors_at_most, -1, -1):
        parts = [LATER**errors for errors in range(most + 1)]
        deltas = [delta * part / sum(parts) for part in parts]
        counts = [checks_needed(size, target, each, errors) for errors, each in enumerate(deltas)]
        fitting = [count for count in counts if count is not None]
        if len(fitting) == len(counts):
            return tuple(Stage(at, errors, deltas[errors]) for errors, at in enumerate(fitting))
    return ()


def standing(stages: Sequence[Stage], said: NDArray[np.int8], size: int, n_open: int, target: float) -> Standing:
    """Where a round of these stages stands.

    said int8 (n,): its checks in the order drawn, 1 right, 0 wrong, -1 not answered yet; n is the last stage's `at`.
    size: items of the region, checks included; n_open: of those that are no checks, how many nobody has answered.
    """
    shown: tuple[float, Stage | None, int, int, int] = (0.0, None, 0, 0, 0)
    upcoming = None
    for stage in stages:
        first = said[: stage.at]
        wrong = int((first == 0).sum())
        rest = n_open + int((said[stage.at :] == -1).sum())
        others = size - stage.at - rest
        bound = gate.open_bound(stage.at - wrong, stage.at, rest, others, stage.delta)
        if (first == -1).any():
            if upcoming is None and bound >= target:  # if no more errors come
                upcoming = stage
        elif shown[1] is None or bound > shown[0]:
            shown = (bound, stage, wrong, rest, others)
    missing = int((said[: upcoming.at] == -1).sum()) if upcoming else 0
    bound, stage_shown, wrong, rest, others = shown
    return Standing(
        answered=int((said >= 0).sum()),
        errors=int((said == 0).sum()),
        bound=bound,
        stage=stage_shown,
        wrong=wrong,
        rest=rest,
        others=others,
        upcoming=upcoming,
        missing=missing,
        is_met=stage_shown is not None and bound >= target,
    )


def prospects(stages: Sequence[Stage], wrong: int, right: int) -> tuple[float, float]:
    """The chance that a round meets its target, and the checks it is to take, after so many answers from its region.

    By the beta distribution of its error rate that PRIOR and the answers give; the checks as from an endless region.
    """
    rates = beta.ppf((np.arange(40) + 0.5) / 40, PRIOR[0] + wrong, PRIOR[1] + right)
    met, checks, before = np.zeros(40), np.zeros(40), 0
    # still[e]: that the round goes on with e errors so far, for each rate.
    still = np.zeros((len(stages) + 1, 40))
    still[0] = 1.0
    for stage in stages:
        more = stage.at - before
        checks += more * still.sum(axis=0)
        ways = binom.pmf(np.arange(len(still))[:, None], more, rates)
        still = np.array([(still[: e + 1] * ways[e::-1]).sum(axis=0) for e in range(len(still))])
        met += still[: stage.errors + 1].sum(axis=0)
        still[: stage.errors + 1] = 0.0
        before = stage.at
    return float(met.mean()), float(checks.mean())


def propose(
    confidence: Floats,
    may_be_asked: NDArray[np.bool_],
    evidence: Sequence[Evidence],
    target: float,
    delta: float,
) -> Region | None:
    """The region with the most to gain, of the most confident 10 %, 15 %, ... of what may be asked; None where none is
    large and right enough.

    confidence: float32 (N,) of the pool, answered items included, as `places` counts them. may_be_asked: bool (N,),
    those a round may be about. Whatever this chooses, and by whatever answers, the promise holds.
    """
    found = None
    free, ascending = np.sort(confidence[may_be_asked]), np.sort(confidence)
    for part in [each for each in gate.LADDER if each <= WIDEST] if len(free) else []:
        threshold = float(free[-max(1, round(part * len(free)))])
        rows = np.flatnonzero(may_be_asked & (confidence >= threshold))
        stages = plan(len(rows), target, delta)
        if not stages:
            continue
        # What lies above was let through already.
        surest = float(free[-max(1, round(0.05 * len(rows)))])
        start, share = _places(np.array([surest, threshold]), ascending)
        inside = [
            each.right[(each.places <= share) & ((each.places >= start) | (start < 0.1))]
            for each in evidence
            if each.reach >= share - 1e-9
        ]
        right = int(sum(each.sum() for each in inside))
        chance, checks = prospects(stages, sum(len(each) for each in inside) - right, right)
        region = Region(rows, threshold, float(share), stages, chance, checks)
        if chance >= FAIR and (found is None or region.gain > found.gain):
            found = region
    return found


def places_of(confidence: Floats, confidence_pool: Floats) -> NDArray[np.float64]:
    """Of each confidence (n,) the share of the pool's (N,) that is at least as large; float64 (n,)."""
    return _places(confidence, np.sort(confidence_pool))


def _places(confidence: NDArray[np.floating[Any]], ascending: Floats) -> NDArray[np.float64]:
    return 1.0 - np.searchsorted(ascending, confidence, side="left") / max(1, len(ascending))
