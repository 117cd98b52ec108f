"""How good the predictions are, with how sure that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ml_worker.pool import Floats, Rows

_ECE_BINS = 15


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
    answered]. Where the temperature was fitted on the same answers, ece is a little flattering (one fitted
    number).
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
    }
