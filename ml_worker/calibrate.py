"""Turning logits into probabilities that mean what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml_worker.pool import Floats, Rows

MIN_AUDIT = 30  # with fewer audit answers a confidence is shown as uncalibrated
_FULL_TRUST = 50
_FOLDS = 5
_LOG_T = (-2.0, 3.0)
_FAR = 1e4  # a logit so far below the best has no probability at any temperature allowed

_Gaps = NDArray[np.float64]


@dataclass(frozen=True)
class Temperatures:
    """common: None with fewer than MIN_AUDIT audit answers. by_class: column -> its own, for items predicted as that
    class; every other item has the common one."""

    common: float | None
    by_class: Mapping[int, float] = field(default_factory=dict)

    def probs(self, logits: Floats) -> Floats:
        """Probabilities float32 (N, C). No temperature changes which class of an item is the likeliest."""
        if not self.by_class:
            return softmax(logits, self.common)
        degrees = np.full(logits.shape[1], self.common or 1.0, np.float32)
        degrees[list(self.by_class)] = list(self.by_class.values())
        return softmax(logits, degrees[np.argmax(logits, axis=1)])


def softmax(logits: Floats, temperature: float | Floats | None = None) -> Floats:
    """Probabilities float32 (N, C) of logits (N, C) divided by a temperature, or one an item, (N,); None means 1."""
    degrees = np.asarray(1.0 if temperature is None else temperature, np.float32)
    scaled = np.asarray(logits, np.float32) / (degrees[:, None] if degrees.ndim else degrees)
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def temperature(logits: Floats, targets: Rows) -> float | None:
    """The temperature that makes audit answers likeliest, or None with fewer than MIN_AUDIT of them.

    logits: (n, C) of audited items the model was not trained on; targets: int (n,). Log T lies in [-2, 3] and has
    the least negative log likelihood. Below 50 answers log T is shrunk towards 0 with weight n / (n +
    50). Source: Guo et al. 2017; the shrinkage is ours, because a few answers that all agree would drive T to
    the edge.
    """
    if len(targets) < MIN_AUDIT:
        return None
    return math.exp(_common(*_gaps(logits, targets)))


def temperatures(logits: Floats, targets: Rows) -> Temperatures:
    """The common temperature, and one of its own for each predicted class for which it pays.

    A class needs MIN_AUDIT audit answers predicted as it. Its log T is fitted on those and shrunk towards the common
    one with weight n / (n + 50). It is kept only where it makes the class's answers likelier than the common one does,
    by more than a standard error, both fitted without the fifth of the answers they are held against. Source: Frenkel
    and Goldberger 2021, "Network calibration by class-based temperature scaling", who search for the least calibration
    error instead; that jumps from answer to answer, which the likelihood of so few does not.
    """
    common = temperature(logits, targets)
    return Temperatures(common, {} if common is None else _own(logits, targets, math.log(common)))


def cross_fitted(logits: Floats, targets: Rows, *, by_class: bool) -> Floats:
    """Probabilities float32 (n, C) of audit answers, each by temperatures fitted without the fifth it is in.

    What is measured on them is not flattered by the fit. by_class: as `temperatures` does it, or a common one alone.
    """
    fold = _folds(len(targets))
    probs = np.zeros(logits.shape, np.float32)
    for each in range(_FOLDS):
        out, kept = fold == each, fold != each
        if not out.any():
            continue
        log_t = _common(*_gaps(logits[kept], targets[kept])) if kept.any() else 0.0
        own = _own(logits[kept], targets[kept], log_t) if by_class else {}
        probs[out] = Temperatures(math.exp(log_t), own).probs(logits[out])
    return probs


def doubt(member_probs: Floats) -> tuple[Floats, Floats]:
    """The two parts of an item's doubt, each float32 (n,) in nats: (aleatoric, epistemic); their sum is the whole.

    member_probs: (E, n, C), what each member of an ensemble says. The whole is the entropy of their mean. Aleatoric is
    the mean of their entropies: each of them finds the item ambiguous. Epistemic is the rest, the mutual information
    between the class and the member: they contradict each other, which more answers would settle. Source: Depeweg et
    al. 2018, "Decomposition of uncertainty"; Houlsby et al. 2011 for the name of the difference.
    """
    each = _entropy(np.asarray(member_probs, np.float64)).mean(axis=0)
    whole = _entropy(np.asarray(member_probs, np.float64).mean(axis=0))
    return each.astype(np.float32), np.maximum(whole - each, 0.0).astype(np.float32)


def _entropy(probs: _Gaps) -> _Gaps:
    return np.asarray(-(probs * np.log(np.maximum(probs, 1e-300))).sum(axis=-1))


def _folds(n: int) -> Rows:
    return np.arange(n) % _FOLDS


def _gaps(logits: Floats, targets: Rows) -> tuple[_Gaps, _Gaps]:
    """Logits (n, C) less the largest of their row, and those of the targets (n,); finite."""
    gaps = np.asarray(logits, np.float64)
    gaps = np.maximum(gaps - gaps.max(axis=1, keepdims=True), -_FAR)
    return gaps, gaps[np.arange(len(targets)), targets]


def _common(gaps: _Gaps, truth: _Gaps) -> float:
    """Log T of all answers, shrunk while they are few."""
    n = len(truth)
    return _fitted(gaps, truth) * (n / (n + _FULL_TRUST) if n < _FULL_TRUST else 1.0)


def _fitted(gaps: _Gaps, truth: _Gaps) -> float:
    """Log T of least negative log likelihood.

    In 1 / T that is convex: Newton's steps, and a bisection where one would leave what is still possible.
    """
    low, high = math.exp(-_LOG_T[1]), math.exp(-_LOG_T[0])
    inverse = 1.0
    for _ in range(60):
        probs = np.exp(inverse * gaps)
        probs /= probs.sum(axis=1, keepdims=True)
        mean = (probs * gaps).sum(axis=1)
        slope = float(mean.mean() - truth.mean())
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        curvature = float(((probs * gaps * gaps).sum(axis=1) - mean * mean).mean())
        better = inverse - slope / curvature if curvature > 1e-12 else 0.0
        better = better if low < better < high else math.sqrt(low * high)
        if abs(better / inverse - 1.0) < 1e-6:
            break
        inverse = better
    return -math.log(inverse)


def _own(logits: Floats, targets: Rows, common: float) -> dict[int, float]:
    """Column -> temperature of the predicted classes that have enough answers and gain by their own."""
    guesses = np.argmax(logits, axis=1)
    counts = np.bincount(guesses, minlength=logits.shape[1])
    columns = np.flatnonzero(counts >= MIN_AUDIT)
    if not len(columns):
        return {}
    gaps, truth = _gaps(logits, targets)
    fold = _folds(len(targets))
    without = [_common(gaps[fold != each], truth[fold != each]) for each in range(_FOLDS)]
    found = {}
    for column in columns.tolist():
        mine = np.flatnonzero(guesses == column)
        if _pays(gaps[mine], truth[mine], fold[mine], without):
            found[column] = math.exp(_shrunk(gaps[mine], truth[mine], common))
    return found


def _shrunk(gaps: _Gaps, truth: _Gaps, common: float) -> float:
    n = len(truth)
    return common + (_fitted(gaps, truth) - common) * n / (n + _FULL_TRUST)


def _pays(gaps: _Gaps, truth: _Gaps, fold: Rows, without: list[float]) -> bool:
    """Whether a class's own temperature makes its held-out answers likelier, by more than a standard error.

    By any gain at all, of ten classes that need no temperature of their own up to six got one (1,000 answers); so, one
    in twenty does.
    """
    gains = np.zeros(len(truth))
    for each, common in enumerate(without):
        out = fold == each
        if out.any() and not out.all():
            own = _shrunk(gaps[~out], truth[~out], common)
            gains[out] = _log_likelihood(gaps[out], truth[out], own) - _log_likelihood(gaps[out], truth[out], common)
    return float(gains.sum()) > float(gains.std()) * math.sqrt(len(gains))


def _log_likelihood(gaps: _Gaps, truth: _Gaps, log_t: float) -> _Gaps:
    inverse = math.exp(-log_t)
    return np.asarray(inverse * truth - np.log(np.exp(inverse * gaps).sum(axis=1)))
