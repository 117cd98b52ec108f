"""K-means on unit vectors, for what must know where the pool is dense before anybody has answered. Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_SAMPLE = 20_000
_STEPS = 20
_BLOCK = 8192


def unit_rows(points: Floats) -> Floats:
    """Rows (N, D) of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.maximum(lengths, 1e-12), np.float32)


def kmeans(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Centres float32 (K, D), K <= k: k-means++ seeding, then Lloyd's steps. Empty clusters are dropped.

    Of more than 20,000 points a sample of so many is clustered.
    """
    sample = points
    if len(points) > _SAMPLE:
        sample = points[rng.choice(len(points), _SAMPLE, replace=False)]
    centres = _seed_centres(sample, k, rng)
    previous = np.full(len(sample), -1)
    for _ in range(_STEPS):
        cluster = assign(sample, centres)
        if np.array_equal(cluster, previous):
            break
        previous = cluster
        counts = np.bincount(cluster, minlength=len(centres))
        sums = np.zeros((len(centres), sample.shape[1]))
        order = np.argsort(cluster, kind="stable")
        held = np.flatnonzero(counts)
        firsts = (np.cumsum(counts) - counts)[held]
        sums[held] = np.add.reduceat(sample[order], firsts, axis=0, dtype=np.float64)
        centres = (sums[held] / counts[held, None]).astype(np.float32)
        if len(held) < len(counts):
            previous = np.full(len(sample), -1)
    return centres


def assign(points: Floats, centres: Floats) -> NDArray[np.int64]:
    """Nearest centre of each point, int64 (N,), in blocks."""
    cluster = np.zeros(len(points), np.int64)
    offset = np.square(centres).sum(axis=1)
    for start in range(0, len(points), _BLOCK):
        partial = points[start : start + _BLOCK] @ (-2.0 * centres.T) + offset
        cluster[start : start + _BLOCK] = partial.argmin(axis=1)
    return cluster


def _seed_centres(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii 2007): centres drawn by squared distance to the nearest one."""
    chosen = [int(rng.integers(len(points)))]
    squares = np.square(points).sum(axis=1)
    nearest = np.full(len(points), np.inf)
    while len(chosen) < k:
        last = points[chosen[-1]]
        away = squares + squares[chosen[-1]] - 2.0 * (points @ last)
        nearest = np.minimum(nearest, np.where(away < 1e-6, 0.0, away))
        total = nearest.sum()
        if total <= 0:  # only copies of the centres are left
            break
        chosen.append(int(np.searchsorted(np.cumsum(nearest), rng.random() * total, side="right")))
        chosen[-1] = min(chosen[-1], len(points) - 1)
    return points[chosen]
