"""What the next answers are worth: a learning curve through a project's own answers, and how far it may be trusted.

The head is fitted again on the first answers, in the order they were given, and measured on all random checks, so that
every point is held against the same images. Pure functions over arrays.

The curve: accuracy(n) = 1 - (a + b n^-c), a floor and a power law (Frey and Fisher 1999; Hestness et al. 2017). Where
we differ: it is fitted in 400 worlds at once rather than in one, and what the worlds say is the band. In each of them

1.  the random checks weigh otherwise (Rubin 1981, the Bayesian bootstrap, with half a check that is always right and
    half a one that is always wrong), so that each point has the posterior Beta(k + 1/2, m - k + 1/2) of k right ones
    in m, and the points move together as far as they name the same images rightly;
2.  every head is a little luckier or less lucky than the curve (`LUCK`), the one to come too;
3.  the exponent is drawn by how well it fits and by what is usual (`_EXPONENT`, `_FLOOR`), a and b follow by least
squares under
    a, b >= 0, and the gain that comes of them is stretched by a factor about 1 (`STRETCH`), for the curve may be
    another.

The constants were chosen on digits. Two came of photographs, where the first ones promised too little: how seldom most
of the errors are a floor (`_FLOOR`, with exponents that reach as low as Hestness et al. report), and the second half
of the rule when to stop. benchmarks/forecast.py reports how often what came lay in the band, and what stopping cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker import heads
from ml_worker.fast_loop import Answers
from ml_worker.pool import Pool, Rows

Doubles = NDArray[np.float64]

# The parts of the answers a head is fitted on: the first so many.
PREFIXES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1)
# From fewer checks, or fewer points, nothing is said.
CHECKS_AT_LEAST, POINTS_AT_LEAST = 30, 4
AHEAD = (50, 100, 500)
LEVEL = 0.9

_WORLDS = 400
_EXPONENTS = np.exp(np.linspace(np.log(0.05), np.log(2.0), 75))
# The share of the errors that no answer takes away is exponential, with this mean: seldom most of them.
_FLOOR = 0.15
# Usual exponents: log-normal about the first, by the second.
_EXPONENT, _EXPONENT_SPREAD = 0.4, 0.9
# Standard deviation of a head about its curve, where half of its answers are right; less where fewer or more are.
LUCK = 0.02
# Standard deviation of the logarithm of the factor.
STRETCH = 0.3
# The share that the newest point has in where the curve stands now, beside the fit through all.
_ANCHOR = 0.5
# Beyond so many times the answers there are, nothing is said of when an accuracy is reached.
REACH_AT_MOST = 20

# Going on is worth it for a point in a hundred answers, or for three in five hundred: on photographs a curve that
# seems flat for a while goes on rising for long, and the chance of that must be small before anybody is told to stop.
ADVISED, WORTH = 100, 0.01
LATER, WORTH_LATER = 500, 0.03
STOP_BELOW, STOP_BELOW_LATER, GO_ON_ABOVE = 0.2, 0.05, 0.5
# An eighth of fewer is a handful, and the curve has no beginning.
ANSWERS_BEFORE_STOP = 60


@dataclass(frozen=True, eq=False)
class Points:
    """A learning curve as measured. sizes: int64 (K,), answers learnt from, ascending. right: bool (K, M), which of
    the M random checks the head then named rightly."""

    sizes: Rows
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Ahead:
    """After so many answers more: accuracy and gain, 0..1, with what lies between low and high at `LEVEL`.

    accuracy: `Forecast.now` and the gain, both the curve's, so that the one is never read against a measured rate."""

    more: int
    accuracy: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class Forecast:
    """answers, checks: learnt from, and measured on. accuracy: as measured; now: what the fitted curve has there,
    between low and high. curve: (answers, accuracy, low, high) of the fitted curve, for drawing. worth: the chance
    that the next `ADVISED` answers (or as many as there are) raise the curve by `WORTH`; worth_later: that the next
    `LATER` raise it by `WORTH_LATER`. reached: answers more until the target, as (likeliest, fewest, most) at `LEVEL`;
    None each where it is not reached within `REACH_AT_MOST` times the answers there are. floor: the accuracy that the
    curve ends at."""

    answers: int
    checks: int
    accuracy: float
    now: float
    low: float
    high: float
    ahead: list[Ahead]
    curve: list[tuple[int, float, float, float]]
    worth: float
    worth_later: float
    advised: int
    target: float
    reached: tuple[int | None, int | None, int | None]
    floor: float

    @property
    def advice(self) -> str:
        """The rule. "stop": that another hundred answers are worth a point is unlikely (`STOP_BELOW`), and that five
        hundred are worth three is more so (`STOP_BELOW_LATER`), from `ANSWERS_BEFORE_STOP` answers on; "go_on": the
        first is likely (`GO_ON_ABOVE`); else "open". With no image left it is always "stop"."""
        is_enough = self.answers >= ANSWERS_BEFORE_STOP or not self.advised
        if is_enough and self.worth < STOP_BELOW and self.worth_later < STOP_BELOW_LATER:
            return "stop"
        return "go_on" if self.worth >= GO_ON_ABOVE else "open"


# --- points ---------------------------------------------------------------------------------------------------------


def scorer(
    pool: Pool, checks: Answers, n_classes: int, head: str, parameters: Mapping[str, Any]
) -> Callable[..., NDArray[np.bool_]]:
    """What fits the head on (rows, targets, weights or all 1) and says which checks it then names rightly, bool
    (M,)."""

    def right(rows: Rows, targets: Rows, weights: Any = None) -> NDArray[np.bool_]:
        fitted = heads.load(head)(n_classes, **parameters)
        order = np.argsort(rows, kind="stable")  # as a refit has them
        given = np.ones(len(rows), np.float32) if weights is None else weights
        fitted.fit(pool, rows[order], targets[order], given[order])
        named: NDArray[np.bool_] = fitted.logits(pool)[checks.rows].argmax(axis=1) == checks.targets
        return named

    return right


def measure(
    given: Answers,
    n_checks: int,
    right_of: Callable[..., NDArray[np.bool_]],
    counts: NDArray[np.bool_] | None = None,
) -> Points:
    """The points of the curve, from at most eight fits. given: in the order the answers came; right_of: see `scorer`.

    counts: bool (L,), which of them are answers to a question; the others, such as accepted proposals, are learnt from
    as they came and are no steps of the curve. Parts with fewer than two classes are left out: there is nothing to
    tell apart. Heads on parts drawn by lot were tried too, for a measure of luck, and left out: halves of chosen
    answers differ three times as much as the models of one project that follow each other.
    """
    steps = np.arange(len(given.rows)) if counts is None else np.flatnonzero(counts)
    n = len(steps)
    found: dict[int, NDArray[np.bool_]] = {}
    for size in sorted({round(part * n) for part in PREFIXES} - {0}):
        end = len(given.rows) if size == n else int(steps[size])
        if len(np.unique(given.targets[:end])) > 1:
            found[size] = right_of(given.rows[:end], given.targets[:end])
    return Points(np.array(list(found), np.int64), np.array(list(found.values()), bool).reshape(len(found), n_checks))


def of_history(sizes: Rows, correct: Rows, n: int) -> Points:
    """Points from what was measured as the models came: correct (K,) of n checks.

    Which checks were right is not known any more; as many of the same are taken for it as can be, so that the band of
    a gain is narrower than it should be.
    """
    return Points(np.asarray(sizes, np.int64), np.arange(n)[None, :] < np.asarray(correct)[:, None])


# --- the forecast ---------------------------------------------------------------------------------------------------


def lack(points: Points) -> str:
    """Why nothing can be told from these points yet, as a sentence; empty if something can."""
    n_checks = points.right.shape[1]
    if n_checks < CHECKS_AT_LEAST:
        return f"{n_checks} of {CHECKS_AT_LEAST} random checks are answered"
    if len(points.sizes) < POINTS_AT_LEAST:
        return "there are too few answers of at least two classes to draw a curve through"
    return ""


def forecast(
    points: Points, *, left: int, target: float, ahead: Sequence[int] = AHEAD, seed: int = 0
) -> Forecast | None:
    """What comes after the points; None when `lack` says why not. left: images there are to ask about; what lies
    beyond is left out. Within 50 ms."""
    if lack(points):
        return None
    rng = np.random.default_rng([seed, *points.right.shape])
    worlds = _worlds(points, rng)
    n = int(points.sizes[-1])
    advised = min(ADVISED, left)
    steps = sorted({more for more in (*ahead, advised) if 0 < more <= left})
    level = (1 - worlds.now)[:, None]
    low, now, high = (float(each) for each in _band(level)[:, 0])
    return Forecast(
        answers=n,
        checks=points.right.shape[1],
        accuracy=float(points.right[-1].mean()),
        now=_tenth(now),
        low=low,
        high=high,
        ahead=[_ahead(worlds, n, more) for more in steps],
        curve=_drawn(worlds, points, n + (steps[-1] if steps else advised)),
        worth=_chance(worlds, n, advised, WORTH),
        worth_later=_chance(worlds, n, min(LATER, left), WORTH_LATER),
        advised=advised,
        target=target,
        reached=_reached(worlds, n, min(left, REACH_AT_MOST * n), target),
        floor=float(np.median(1 - worlds.now + worlds.gain(n * 10**6, n))),
    )


@dataclass(frozen=True, eq=False)
class _Worlds:
    """W curves a + b (m / n)^-c, float64 (W,) each. now: error after n answers; stretch: of the gain; luck: (W, 2), of
    the head there is and of one to come."""

    a: Doubles
    b: Doubles
    c: Doubles
    now: Doubles
    stretch: Doubles
    luck: Doubles

    def gain(self, answers: float, n: int) -> Doubles:
        """Of the curve, from n answers to so many; never more than all errors there are."""
        then = self.a + self.b * (answers / n) ** -self.c
        at_n = np.maximum(self.a + self.b, 1e-9)
        factor = self.stretch if answers > n else 1.0
        return np.clip(self.now * (1 - then / at_n) * factor, -(1 - self.now), self.now)


def _worlds(points: Points, rng: np.random.Generator) -> _Worlds:
    n_checks = points.right.shape[1]
    sizes = points.sizes / points.sizes[-1]
    weight = rng.gamma(1.0, size=(_WORLDS, n_checks))
    always = rng.gamma(0.5, size=(_WORLDS, 2))  # right, wrong
    whole = weight.sum(axis=1) + always.sum(axis=1)
    errors = 1 - (weight @ points.right.T + always[:, :1]) / whole[:, None]
    # The spread of a rate: heads differ least where nearly all is right.
    spread = errors.mean(axis=0) * (1 - errors.mean(axis=0))
    luck = LUCK * np.sqrt(np.maximum(spread, 0.005) / 0.25)
    errors = errors + rng.normal(size=errors.shape) * luck
    # Later points are nearer to what is asked; the sample's error is half shared by all of them.
    exactness = np.sqrt(sizes) / (np.maximum(spread, 0.01) / (2 * n_checks) + luck**2)
    a, b, c = fit(sizes, errors, exactness, rng)
    now = np.clip((1 - _ANCHOR) * (a + b) + _ANCHOR * errors[:, -1], 0.0, 1.0)
    stretch = np.exp(STRETCH * rng.normal(size=_WORLDS))
    return _Worlds(a, b, c, now, stretch, rng.normal(size=(_WORLDS, 2)) * luck[-1])


def fit(sizes: Doubles, errors: Doubles, exactness: Doubles, rng: np.random.Generator | None) -> tuple[Doubles, ...]:
    """a, b, c float64 (W,) of errors (W, K) at sizes (K,), the last of them 1: a + b size^-c with a, b >= 0.

    exactness: (K,), one over each point's variance. For every exponent of a grid a and b follow by weighted least
    squares; of the exponents one is drawn by its posterior (Gumbel's trick), without rng the best is taken.
    """
    x = sizes[:, None] ** -_EXPONENTS
    w = exactness / exactness.sum()
    x_mean, e_mean = w @ x, errors @ w
    across = np.einsum("k,kg->g", w, np.square(x - x_mean))
    b = np.einsum("k,wk,kg->wg", w, errors - e_mean[:, None], x - x_mean) / np.maximum(across, 1e-12)
    b = np.maximum(b, 0.0)
    a = e_mean[:, None] - b * x_mean
    # Through the origin, where the floor would lie below 0.
    alone = np.einsum("k,wk,kg->wg", w, errors, x) / np.einsum("k,kg->g", w, np.square(x))
    b = np.where(a < 0, np.maximum(alone, 0.0), b)
    a = np.maximum(a, 0.0)
    off = np.square(errors[:, :, None] - a[:, None] - b[:, None] * x)
    usual = np.square((np.log(_EXPONENTS) - np.log(_EXPONENT)) / _EXPONENT_SPREAD)
    high_floor = a / np.maximum(e_mean, 1e-9)[:, None] / _FLOOR
    plausible = -(np.einsum("k,wkg->wg", exactness, off) + usual) / 2 - high_floor
    if rng is not None:
        plausible += rng.gumbel(size=plausible.shape)
    best = plausible.argmax(axis=1)
    every = np.arange(len(errors))
    return a[every, best], b[every, best], _EXPONENTS[best]


def _chance(worlds: _Worlds, n: int, more: int, worth: float) -> float:
    """That so many answers more raise the curve by so much."""
    return float((worlds.gain(n + more, n) >= worth).mean()) if more else 0.0


def _band(values: Doubles) -> Doubles:
    """Low, median and high (3, X) of worlds (W, X)."""
    return np.quantile(values, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2], axis=0)


def _ahead(worlds: _Worlds, n: int, more: int) -> Ahead:
    gain = worlds.gain(n + more, n)
    then = np.clip(1 - worlds.now + gain + worlds.luck[:, 1], 0.0, 1.0)
    seen = np.clip(gain + worlds.luck[:, 1] - worlds.luck[:, 0], -1.0, 1.0)
    low, _, high = _band(then[:, None])[:, 0]
    gain_low, _, gain_high = _band(seen[:, None])[:, 0]
    now = _tenth(float(np.median(1 - worlds.now)))
    gained = min(_tenth(float(np.median(gain))), 1 - now)
    return Ahead(more, now + gained, float(low), float(high), gained, float(gain_low), float(gain_high))


def _tenth(rate: float) -> float:
    """To a tenth of a point, as it is shown: what is added up afterwards adds up on the page, too."""
    return round(rate, 3)


def _drawn(worlds: _Worlds, points: Points, last: int, steps: int = 40) -> list[tuple[int, float, float, float]]:
    """The curve from the first point to the last answer ahead, evenly in answers."""
    n = int(points.sizes[-1])
    at = np.unique(np.linspace(points.sizes[0], max(last, n), steps).round().astype(int))
    low, middle, high = _band(np.stack([np.clip(1 - worlds.now + worlds.gain(m, n), 0, 1) for m in at], axis=1))
    return [(int(m), float(y), float(lo), float(hi)) for m, y, lo, hi in zip(at, middle, low, high, strict=True)]


def _reached(worlds: _Worlds, n: int, most: int, target: float) -> tuple[int | None, int | None, int | None]:
    """Answers more until 1 - error is the target: median, and the band's fewest and most."""
    steps = np.unique(np.geomspace(1, max(most, 1), 60).round()).astype(int)
    missing = target - (1 - worlds.now)
    reached = np.stack([worlds.gain(n + more, n) >= missing for more in steps], axis=1)
    when = np.where(reached.any(axis=1), steps[reached.argmax(axis=1)], np.inf)
    when = np.where(missing <= 0, 0, when)
    few, middle, many = np.quantile(when, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2], method="inverted_cdf")
    return tuple(int(each) if np.isfinite(each) else None for each in (middle, few, many))  # type: ignore[return-value]
