"""Turning logits into probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from ml_worker.pool import Floats, Rows

MIN_AUDIT = 30  # with fewer audit answers a confidence is shown as uncalibrated
_FULL_TRUST = 50


def softmax(logits: Floats, temperature: float | None = None) -> Floats:
    """Probabilities float32 (N, C) of logits (N, C) divided by a temperature; None means 1."""
    scaled = np.asarray(logits, np.float32) / np.float32(temperature or 1.0)
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def temperature(logits: Floats, targets: Rows) -> float | None:
    """The temperature that makes audit answers likeliest, or None with fewer than MIN_AUDIT of them.

    logits: (n, C) of audited items the model was not trained on; targets: int (n,). Searches log T in [-2, 3]
    for the least negative log likelihood. Below 50 answers log T is shrunk towards 0 with weight n / (n +
    50). Source: Guo et al. 2017; the shrinkage is ours, because a few answers that all agree would drive T to
    the edge.
    """
    n = len(targets)
    if n < MIN_AUDIT:
        return None
    logits64 = np.asarray(logits, np.float64)
    truth = np.arange(n), np.asarray(targets)

    def loss(log_t: float) -> float:
        scaled = logits64 / np.exp(log_t)
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float(np.mean(log_sum - scaled[truth]))

    log_t = float(minimize_scalar(loss, bounds=(-2.0, 3.0), method="bounded").x)
    return float(np.exp(log_t * (n / (n + _FULL_TRUST) if n < _FULL_TRUST else 1.0)))
