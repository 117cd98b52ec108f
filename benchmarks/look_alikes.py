"""How pure groups of look-alikes are: Ward's against k-means, HDBSCAN and groups at random, on the digits.

    python benchmarks/look_alikes.py              # the digits by six ways, in seconds
    python benchmarks/look_alikes.py speed        # time and memory for 2,000 to 1,000,000 vectors of 64 numbers

Purity: of the images in groups of 4 to 100, the share that is of its group's commonest class. Covered: the share of
all images that is in such a group. Vectors: 32 principal components of the pixels, which is the encoder that every
project begins with.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from ml_worker import look_alikes

Clustering = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def ours(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """-1 for the leftovers."""
    cluster = np.full(len(points), -1)
    for number, group in enumerate(look_alikes.groups(points, np.arange(len(points)), rng)):
        cluster[group.rows] = number if group.coherence else -1
    return cluster


def n_groups(points: np.ndarray) -> int:
    """As many as ours are."""
    return max(1, round(len(points) / look_alikes.size_wanted(len(points))))


def kmeans(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    seed = int(rng.integers(2**31))
    return KMeans(n_groups(points), n_init=3, random_state=seed).fit_predict(points)


def hdbscan(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return HDBSCAN(
        min_cluster_size=min(10, len(points) // 8), min_samples=3, max_cluster_size=100, copy=True
    ).fit_predict(points)


def at_random(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(len(points)) % n_groups(points)


def purity(cluster: np.ndarray, targets: np.ndarray) -> tuple[float, float, int, float]:
    """Purity, share covered, number of groups, median size."""
    right, sizes = 0, []
    for each in np.unique(cluster[cluster >= 0]):
        inside = targets[cluster == each]
        if look_alikes.AT_LEAST <= len(inside) <= look_alikes.AT_MOST:
            right += int(np.bincount(inside).max())
            sizes.append(len(inside))
    covered = sum(sizes)
    return right / max(1, covered), covered / len(targets), len(sizes), float(np.median(sizes or [0]))


def compare() -> None:
    digits = load_digits()
    points = PCA(32, random_state=0).fit_transform(digits.data / 16).astype(np.float32)
    ways: dict[str, Clustering] = {"Ward (ours)": ours, "k-means": kmeans, "HDBSCAN": hdbscan, "at random": at_random}
    print(f"{'pool':>6} {'':12} purity  worst  covered  groups  size  seconds")
    for n in (1_797, 400, 40):
        for name, way in ways.items():
            rows, began = [], time.perf_counter()
            for seed in range(10):
                rng = np.random.default_rng(seed)
                chosen = rng.choice(len(points), n, replace=False)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    rows.append(purity(way(points[chosen], rng), digits.target[chosen]))
            took = (time.perf_counter() - began) / 10
            mean = np.mean(rows, axis=0)
            worst = min(row[0] for row in rows)
            print(
                f"{n:6,} {name:12} {mean[0]:.3f}   {worst:.3f}   {mean[1]:.2f}     {mean[2]:4.0f}   {mean[3]:4.0f}"
                f"   {took:.2f}"
            )


def speed() -> None:
    rng = np.random.default_rng(0)
    for n in (2_000, 6_000, 100_000, 1_000_000):
        points = rng.normal(size=(n, 64)).astype(np.float32)
        began = time.perf_counter()
        found = look_alikes.groups(points, np.arange(n), rng)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{n:9,} images: {time.perf_counter() - began:5.1f} s, {len(found)} groups, peak {peak:.2f} GB in all")


if __name__ == "__main__":
    speed() if sys.argv[1:] == ["speed"] else compare()
