"""Seconds, memory and recall of the neighbour graph: exact and through the index, on the same points.

    python benchmarks/neighbours.py [--threads 1] [--million]

Clouds on a curved sheet of 16 dimensions with a little noise, as the embeddings of images are. Exact search is timed
on 2,000 of the rows and scaled up to all of them. recall@15: of the 15 true nearest of 500 rows, by distance, the
share found. With --million also 1,000,000 x 384: a quarter of an hour or more on one thread. more MB: what the search
added to the most memory the process ever held, the result included.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def sheet(n: int, dimensions: int) -> "np.ndarray":
    """Points float32 (N, D), made in blocks."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(200, 16))
    directions = rng.normal(size=(16, dimensions)).astype(np.float32) / 4
    points = np.empty((n, dimensions), np.float32)
    for start in range(0, n, 50_000):
        block = points[start : start + 50_000]
        inner = centres[rng.integers(200, size=len(block))] + rng.normal(size=(len(block), 16))
        block[:] = np.tanh(inner.astype(np.float32) @ directions)
        block += 0.05 * rng.standard_normal(block.shape, dtype=np.float32)
    return points


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(n: int, dimensions: int) -> None:
    """Print one line for a pool."""
    points, everyone = sheet(n, dimensions), np.arange(n)
    before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    _, distances = neighbours.nearest(points, np.ones(n, bool))
    index_s, cpu_s, more_mb = time.perf_counter() - started, time.process_time() - cpu, peak_mb() - before
    rows = np.sort(np.random.default_rng(1).choice(n, 2000, replace=False))
    started = time.perf_counter()
    _, true = neighbours._exact(points, rows, everyone, neighbours.K, neighbours._silent)
    exact_s = (time.perf_counter() - started) * n / len(rows)
    recall = (distances[rows[:500], :15] <= true[:500, 14:15] * (1 + 1e-4)).mean()
    print(
        f"{n:>9,} x {dimensions:<4} {exact_s:10.1f} {index_s:10.1f} {cpu_s:10.1f} {recall:10.4f} {more_mb:10,.0f}",
        flush=True,
    )


def main() -> None:
    print(f"{'pool':16} {'exact s':>10} {'index s':>10} {'its CPU s':>10} {'recall@15':>10} {'more MB':>10}")
    for n, dimensions in [(100_000, 64), (100_000, 384)] + [(1_000_000, 384)] * wanted.million:
        measure(n, dimensions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Seconds, memory and recall of the neighbour graph.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--million", action="store_true")
    wanted = parser.parse_args()
    # Before numpy is loaded; the index counts the processors it may run on.
    os.environ |= {name: str(wanted.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: wanted.threads])
    import numpy as np

    from ml_worker import neighbours

    main()
