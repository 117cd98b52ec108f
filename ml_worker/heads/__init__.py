"""Heads: a few answers in, logits for the whole pool out. One file each; the file's name is the head's name.

A head is a class `Head(n_classes, **parameters)` with `fit(pool, rows int64 (L,), targets int64 (L,), weights
float32 (L,))` and `logits(pool) -> float32 (N, C)`. It is given the Pool, not bare features, so that the
neighbour graph is built once per embedding, not per refit.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ml_worker.pool import Floats, Pool, Rows

MEMBERS = 5
BLOCK = 65536  # rows scored at once, where a head needs more memory than its result
_ABSENT = 10.0  # how far below the row's lowest logit a class without any label lies


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the indexed items lie. mean: float32 (D,). scale: root mean square of all dimensions about it, above 0.

    One scale for all dimensions: dividing each by its own deviation would undo the encoder's choice of whitening
    (digits, 40 answers, logistic regression: 0.76 so, 0.85 with one number).
    """

    mean: Floats
    scale: float


_origins: WeakKeyDictionary[Pool, Origin] = WeakKeyDictionary()
_lock = threading.Lock()


def load(name: str) -> Any:
    """The Head class in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    return import_module(f"{__name__}.{name}").Head


def origin(pool: Pool) -> Origin:
    """The origin of a pool, worked out once, in blocks, and kept while the pool lives."""
    with _lock:
        if pool not in _origins:
            _origins[pool] = _measure(pool)
        return _origins[pool]


def with_absent(seen: Floats, present: Rows, n_classes: int) -> Floats:
    """Logits (N, C) of logits (N, P) of the classes that have answers, whose columns are `present` int64 (P,).

    The others get a logit 10 below the lowest of the row: finite, so that a later temperature keeps it finite.
    """
    logits = np.repeat(seen.min(axis=1, keepdims=True) - np.float32(_ABSENT), n_classes, axis=1)
    logits[:, present] = seen
    return np.asarray(logits, np.float32)


def resampled(weights: Floats, seed: int) -> Floats:
    """Weights float32 (L,) for one member of an ensemble: each drawn anew about its own value.

    Rubin 1981, the Bayesian bootstrap: every answer weighs an exponential variate instead of 0, 1, 2, ..., so
    that no class loses its only answer, which with one answer a class the plain bootstrap does in every draw.
    """
    drawn = np.random.default_rng(seed).exponential(size=len(weights))
    return np.asarray(weights * drawn / max(float(drawn.mean()), 1e-12), np.float32)


def _measure(pool: Pool) -> Origin:
    rows = np.flatnonzero(pool.indexed) if np.any(pool.indexed) else np.arange(len(pool))
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    sums = [np.asarray(pool.embeddings[block]).sum(axis=0, dtype=np.float64) for block in blocks]
    mean = (np.sum(sums, axis=0) / max(len(rows), 1)).astype(np.float32)
    squares = [float(np.square(pool.embeddings[block] - mean).sum(dtype=np.float64)) for block in blocks]
    return Origin(mean, max(float(np.sqrt(sum(squares) / max(len(rows) * len(mean), 1))), 1e-6))
