"""How good the predictions are, with how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ml_worker.pool import Floats, Rows

_ECE_BINS = 15
# Of a reliability diagram: fewer, so that each holds enough answers for an interval that says something.
_BINS_SHOWN, _IN_A_BIN = 10, 10
_DRAWS = 400


def wilson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a rate seen k times in n; (0, 1) when n is 0. Source: Wilson 1927, uncorrected."""
    if n == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    rate, z2 = k / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 bins of equal mass; 0 with no items."""
    if len(confidence) == 0:
        return 0.0
    order = np.argsort(confidence, kind="stable")
    gaps = [
        len(rows) * abs(float(np.mean(confidence[rows])) - float(np.mean(correct[rows])))
        for rows in np.array_split(order, min(_ECE_BINS, len(order)))
    ]
    return float(sum(gaps) / len(confidence))


def accuracy_report(probs: Floats, targets: Rows) -> dict[str, Any]:
    """Accuracy of probs (n, C) against targets (n,) with its 95 % Wilson interval.

    Returns n, correct, accuracy (None when n is 0), low, high, ece, and recall: per class [correct,
    answered]; confused: [class, what was said instead, how often], most frequent first. Where the temperature was
    fitted on the same answers, ece is a little flattering (one fitted number): `calibration_report` of cross-fitted
    probabilities is not.
    """
    n, n_classes = len(targets), probs.shape[1]
    hit = probs.argmax(axis=1) == targets if n else np.zeros(0, bool)
    low, high = wilson(int(hit.sum()), n)
    answered = np.bincount(targets, minlength=n_classes)
    right = np.bincount(targets[hit], minlength=n_classes)
    return {
        "n": n,
        "correct": int(hit.sum()),
        "accuracy": float(hit.mean()) if n else None,
        "low": low,
        "high": high,
        "ece": expected_calibration_error(probs.max(axis=1), hit) if n else 0.0,
        "recall": [[int(a), int(b)] for a, b in zip(right, answered, strict=True)],
        "confused": confusions(probs, targets),
    }


def confusions(probs: Floats, targets: Rows) -> list[list[int]]:
    """What probs (n, C) say wrongly of targets (n,): [class, class said instead, how often], most frequent first."""
    if not len(targets):
        return []
    said = probs.argmax(axis=1)
    wrong = said != targets
    cells, counts = np.unique(targets[wrong] * probs.shape[1] + said[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        [int(cell) // probs.shape[1], int(cell) % probs.shape[1], int(n)]
        for cell, n in zip(cells[order], counts[order], strict=True)
    ]


def calibration_report(probs: Floats, targets: Rows) -> dict[str, Any]:
    """Whether confidence (the largest of probs (n, C), n > 0) is how often it is right: targets int64 (n,).

    probs: of a temperature that these answers had no part in. Returns
    ece, ece_low, ece_high: as `expected_calibration_error`, with a 95 % bootstrap interval. A resample repeats answers
    and so shows more error than the sample; the interval is moved down by that much.
    chance, chance_high: the mean, and what 19 of 20 stay below, of the same error for a model of these confidences
    that is perfectly calibrated. It is not 0: in a bin of a few answers, accuracy is never quite the confidence.
    brier: the mean over answers of the squared distance from probs to the truth, 0..2 (Brier 1950).
    confidence, accuracy: their means. bins: from the least confident, of equal size, [answers, mean confidence,
    right, low, high] with the Wilson interval of its accuracy.
    """
    n = len(targets)
    confidence = np.asarray(probs.max(axis=1), np.float64)
    order = np.argsort(confidence, kind="stable")
    hit = (probs.argmax(axis=1) == targets)[order]
    confidence = confidence[order]
    ece = float(_errors(confidence[None], hit[None])[0])
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.integers(0, n, (_DRAWS, n)), axis=1)  # ascending places keep the confidences in order
    again = _errors(confidence[drawn], hit[drawn])
    low, high = np.quantile(again, [0.025, 0.975]) - (again.mean() - ece)
    perfect = _errors(np.broadcast_to(confidence, (_DRAWS, n)), rng.random((_DRAWS, n)) < confidence)
    truth = np.asarray(probs, np.float64).copy()
    truth[np.arange(n), targets] -= 1.0
    return {
        "n": n,
        "ece": ece,
        "ece_low": max(0.0, float(low)),
        "ece_high": min(1.0, float(high)),
        "chance": float(perfect.mean()),
        "chance_high": float(np.quantile(perfect, 0.95)),
        "brier": float(np.square(truth).sum(axis=1).mean()),
        "confidence": float(confidence.mean()),
        "accuracy": float(hit.mean()),
        "bins": _bins(confidence, hit),
    }


def _errors(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The expected calibration error of each draw (B,), of (B, n) ascending confidences and whether each was right."""
    n = hit.shape[1]
    starts = [int(rows[0]) for rows in np.array_split(np.arange(n), min(_ECE_BINS, n))]
    return np.asarray(np.abs(np.add.reduceat(confidence - hit, starts, axis=1)).sum(axis=1) / n)


def _bins(confidence: NDArray[np.float64], hit: NDArray[np.bool_]) -> list[list[float]]:
    found = []
    for rows in np.array_split(np.arange(len(hit)), max(1, min(_BINS_SHOWN, len(hit) // _IN_A_BIN))):
        n, right = len(rows), int(hit[rows].sum())
        low, high = wilson(right, n)
        found.append([n, float(confidence[rows].mean()), right, round(low, 9), round(high, 9)])
    return found
