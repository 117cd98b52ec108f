"""What choosing the questions gains on this project itself: chosen answers against as many drawn at random.

Pure functions over arrays. A part of the queue is plain random images of the pool, answered in turn like all others;
they are what a project without an acquisition function would have learnt from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_worker import forecast
from ml_worker.fast_loop import Answers

BASELINE_AT_LEAST, CHECKS_AT_LEAST = 20, 30
HALVES = 5
LEVEL = 0.95
_WORLDS = 2000
# A random curve is followed so many times its own length, no further.
_REACH = 4

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Gain:
    """n answers each. chosen, baseline: accuracies on the checks, 0..1. low, high: 95 % interval of their difference.
    worth: random answers that would teach as much as the n chosen ones, None where the random curve does not say."""

    n: int
    checks: int
    chosen: float
    baseline: float
    low: float
    high: float
    worth: int | None

    @property
    def difference(self) -> float:
        return self.chosen - self.baseline


def lack(n_baseline: int, n_chosen: int, n_checks: int) -> str:
    """Why nothing can be compared yet, as a sentence; empty if something can."""
    if n_baseline < BASELINE_AT_LEAST:
        return f"{n_baseline} of {BASELINE_AT_LEAST} answers to images drawn at random are given"
    if n_chosen < BASELINE_AT_LEAST:
        return f"{n_chosen} of {BASELINE_AT_LEAST} answers to chosen images are given"
    if n_checks < CHECKS_AT_LEAST:
        return f"{n_checks} of {CHECKS_AT_LEAST} random checks are answered"
    return ""


def compare(
    baseline: Answers, chosen: Answers, n_checks: int, right_of: Callable[..., Right], seed: int = 0
) -> Gain | None:
    """The gain; None while `lack` says why not, or where a part has fewer than two classes. Ten fits at most.

    Both in the order the answers came, and of both the first n; right_of: `forecast.scorer`. Chosen answers drawn by
    lot would be no comparison: late ones make up for what the early ones left open, and say little without them
    (digits: 21 of 280 by lot taught 0.52, the first 21 0.94, 21 at random 0.85).

    The interval is a paired bootstrap over the checks (Rubin 1981), with the luck of the lot: there is one lot of
    random answers only, and how far another would lie from it is taken from heads on halves of it (the jackknife that
    deletes half; Shao and Wu 1989), whose spread is that of the whole. With few answers that is most of the doubt: on
    digits 20 at random teach anything from 0.6 to 0.9. Of the chosen answers it is asked what these ones taught. A
    check that only the one arm names rightly and one that only the other does are added, with half a weight each, so
    that arms that agree on every check are not taken for equal for certain.
    """
    if lack(len(baseline.rows), len(chosen.rows), n_checks):
        return None
    rng = np.random.default_rng([seed, len(baseline.rows), n_checks])
    n = min(len(baseline.rows), len(chosen.rows))
    arms = [Answers(each.rows[:n], each.targets[:n]) for each in (chosen, baseline)]
    if any(len(np.unique(arm.targets)) < 2 for arm in arms):
        return None
    right = [right_of(arm.rows, arm.targets) for arm in arms]
    lots = [rng.permutation(n)[: n // 2] for _ in range(HALVES)]
    halves = [right_of(arms[1].rows[lot], arms[1].targets[lot]) for lot in lots]
    worlds = _differences(right[0], right[1], np.array(halves), rng)
    low, high = np.quantile(worlds, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    accuracy = float(right[0].mean())
    return Gain(
        n=n,
        checks=n_checks,
        chosen=accuracy,
        baseline=float(right[1].mean()),
        low=max(-1.0, float(low)),
        high=min(1.0, float(high)),
        worth=_worth(arms[1], right[1], accuracy, right_of),
    )


def _differences(chosen: Right, random: Right, halves: Right, rng: np.random.Generator) -> NDArray[np.float64]:
    """Chosen less random in many worlds, float64 (W,). chosen, random: (M,); halves: (H, M)."""
    weight = rng.gamma(1.0, size=(_WORLDS, len(random)))
    only = rng.gamma(0.5, size=(_WORLDS, 2))  # named rightly by the chosen arm alone, by the random one alone
    whole = weight.sum(axis=1) + only.sum(axis=1)
    luck = halves.mean(axis=1).std(ddof=1) * rng.normal(size=_WORLDS)
    apart = weight @ (chosen.astype(float) - random) + only[:, 0] - only[:, 1]
    difference: NDArray[np.float64] = apart / whole + luck
    return difference


def _worth(baseline: Answers, right: Right, accuracy: float, right_of: Callable[..., Right]) -> int | None:
    """How many random answers the fitted curve takes to this accuracy; None beyond `_REACH` times those there are."""
    n = len(baseline.rows)
    sizes = [size for size in (n // 4, n // 2, 3 * n // 4) if len(np.unique(baseline.targets[:size])) > 1]
    errors = [1 - right_of(baseline.rows[:size], baseline.targets[:size]).mean() for size in sizes]
    at = np.array([*sizes, n], np.float64)
    found = np.array([[*errors, 1 - right.mean()]])
    a, b, c = forecast.fit(at / n, found, np.full(len(at), len(right) / 0.25), None)
    # Through the newest point: what is compared is this one.
    error = 1 - accuracy + float(a[0] + b[0]) - float(found[0, -1])
    if b[0] <= 0 or error <= a[0]:
        return None
    answers = n * ((error - a[0]) / b[0]) ** (-1 / c[0])
    return round(float(answers)) if 1 <= answers <= _REACH * n else None
