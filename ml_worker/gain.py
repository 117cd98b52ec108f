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
from ml_worker.heads import resampled

BASELINE_AT_LEAST, CHECKS_AT_LEAST = 20, 30
DRAWS, MEMBERS = 3, 3
LEVEL = 0.95
_WORLDS = 2000
# A random curve is followed so many times its own length, no further.
_REACH = 4

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Gain:
    """n answers each. chosen, first, baseline: accuracies on the checks, 0..1; first: of the first n chosen ones.
    low, high: 95 % interval of chosen - baseline. worth: random answers that would teach as much as the n chosen ones,
    None where the random curve does not say."""

    n: int
    checks: int
    chosen: float
    first: float
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
    """The gain; None while `lack` says why not, or where a part has fewer than two classes. Eleven fits at most.

    Both in the order the answers came; right_of: `forecast.scorer`. The chosen arm is the mean of `DRAWS` heads, each
    from as many chosen answers drawn by lot as there are random ones. The interval is a paired bootstrap: the checks
    weigh otherwise (Rubin 1981), the chosen draws are drawn anew, and the random answers, of which there is one lot
    only, weigh otherwise too (`MEMBERS` refits). A check that only the one arm names rightly and one that only the
    other does are added, with half a weight each, so that arms that agree on every check are not taken for equal for
    certain.
    """
    n = min(len(baseline.rows), len(chosen.rows))
    if lack(len(baseline.rows), len(chosen.rows), n_checks):
        return None
    rng = np.random.default_rng([seed, n, n_checks])
    lots = [np.sort(rng.permutation(len(chosen.rows))[:n]) for _ in range(DRAWS)]
    parts = [_part(baseline, np.arange(n)), _part(chosen, np.arange(n)), *(_part(chosen, lot) for lot in lots)]
    if any(len(np.unique(part.targets)) < 2 for part in parts):
        return None
    random, first, *drawn = (right_of(part.rows, part.targets) for part in parts)
    even = np.ones(n, np.float32)
    members = [right_of(parts[0].rows, parts[0].targets, resampled(even, member)) for member in range(MEMBERS)]
    worlds = _differences(random, np.array(drawn), np.array(members), rng)
    low, high = np.quantile(worlds, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    accuracy = float(np.mean(drawn))
    return Gain(
        n=n,
        checks=n_checks,
        chosen=accuracy,
        first=float(first.mean()),
        baseline=float(random.mean()),
        low=max(-1.0, float(low)),
        high=min(1.0, float(high)),
        worth=_worth(parts[0], random, accuracy, right_of),
    )


def _part(given: Answers, places: NDArray[np.int64]) -> Answers:
    return Answers(given.rows[places], given.targets[places])


def _differences(random: Right, drawn: Right, members: Right, rng: np.random.Generator) -> NDArray[np.float64]:
    """chosen - random in many worlds (W,). random (M,); drawn (D, M); members (E, M)."""
    weight = rng.gamma(1.0, size=(_WORLDS, len(random)))
    only = rng.gamma(0.5, size=(_WORLDS, 2))  # named rightly by the chosen arm alone, by the random one alone
    whole = weight.sum(axis=1) + only.sum(axis=1)
    every = np.arange(_WORLDS)[:, None]
    of_drawn = (weight @ drawn.T) / whole[:, None]
    of_members = (weight @ members.T) / whole[:, None]
    again = rng.integers(len(drawn), size=(_WORLDS, len(drawn)))
    chosen = of_drawn[every, again].mean(axis=1)
    # How far another lot of random answers lies from this one; its mean is no estimate, for weights cost accuracy.
    luck = (of_members - of_members.mean(axis=1, keepdims=True))[every[:, 0], rng.integers(len(members), size=_WORLDS)]
    level = (weight @ random) / whole + luck * np.sqrt(len(members) / (len(members) - 1))
    difference: NDArray[np.float64] = chosen - level + (only[:, 0] - only[:, 1]) / whole
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
