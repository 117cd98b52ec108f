"""Seconds from a new answer to a re-ranked queue: fit, score and rank, beside scikit-learn's own label spreading.

    python -m benchmarks.fast_loop

The baseline, in the same run on the same embeddings: scikit-learn's LabelSpreading(kernel="knn") refitted on all
items, then one minus the gap between the two best classes over everything.
"""

import statistics
import time
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.semi_supervised import LabelSpreading

from annotator.algorithms import clean_parameters
from ml_worker.encoders.pca_pixels import Encoder
from ml_worker.fast_loop import Answers, LoopSettings, learn, order
from ml_worker.neighbours import nearest
from ml_worker.pool import Pool, Rows

REPEATS = 5
ANSWERS = 100
AIM_S = 2.0


def measure_compute(pool: Pool, train: Answers, audit: Answers, n_classes: int) -> dict[str, float]:
    """Median seconds of fit, score and rank over a few rounds, and of the first round, which builds the graph."""
    settings = LoopSettings("label_spreading", clean_parameters("head", "label_spreading", {}), "margin")
    answered = np.zeros(len(pool), bool)
    answered[train.rows] = answered[audit.rows] = True
    open_rows = np.flatnonzero(~answered)
    rounds = []
    for turn in range(REPEATS + 1):
        started = time.perf_counter()
        learned = learn(pool, train, audit, n_classes, settings)
        ranking = time.perf_counter()
        order(pool, learned, open_rows[50:], open_rows[:50], train.rows, settings, np.random.default_rng(turn))
        ended = time.perf_counter()
        rounds.append(learned.seconds | {"rank": ended - ranking, "total": ended - started})
    seconds = {name: statistics.median(r[name] for r in rounds[1:]) for name in rounds[0]}
    return seconds | {"first": rounds[0]["total"]}


def measure_baseline(pool: Pool, train: Answers) -> float:
    """Median seconds of scikit-learn's label spreading from scratch and a margin over every item."""
    targets = np.full(len(pool), -1)
    targets[train.rows] = train.targets
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LabelSpreading(kernel="knn", n_neighbors=10, alpha=0.95, max_iter=50, n_jobs=1)
            model.fit(pool.embeddings, targets)
        best = np.partition(model.label_distributions_, -2, axis=1)[:, -2:]
        np.argsort(best[:, 1] - best[:, 0])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def digits() -> tuple[Pool, Rows]:
    """The bundled digits, 1,797 items, embedded as the demo embeds them."""
    bundled = load_digits()
    grey = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    encoder = Encoder(seed=0, **clean_parameters("encoder", "pca_pixels", {}))
    encoder.fit(images)
    return pool_of(encoder.embed(images)), bundled.target.astype(np.int64)


def synthetic(n: int, dimensions: int, n_classes: int) -> tuple[Pool, Rows]:
    """Overlapping Gaussian clouds, several to a class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5 * n_classes, dimensions))
    cloud = rng.integers(len(centres), size=n)
    points = centres[cloud] + rng.normal(size=(n, dimensions))
    return pool_of(points.astype(np.float32)), (cloud % n_classes).astype(np.int64)


def pool_of(embeddings: np.ndarray) -> Pool:
    """A pool with every item indexed."""
    indexed = np.ones(len(embeddings), bool)
    return Pool(embeddings, *nearest(embeddings, indexed), indexed)


def answers(targets: Rows) -> tuple[Answers, Answers]:
    """Training and audit answers on random rows, four to one, as the queue mixes them."""
    rows = np.random.default_rng(1).permutation(len(targets))
    train, audit = rows[:ANSWERS], rows[ANSWERS : ANSWERS + ANSWERS // 4]
    return Answers(train, targets[train]), Answers(audit, targets[audit])


def main() -> None:
    print(f"{'pool':22} {'fit':>7} {'score':>7} {'rank':>7} {'total':>7} {'first':>7} {'baseline':>9} {'ratio':>7}")
    for name, (pool, targets) in (
        ("digits, 1,797", digits()),
        ("synthetic, 10,000 x 64", synthetic(10_000, 64, 10)),
    ):
        train, audit = answers(targets)
        s = measure_compute(pool, train, audit, 10)
        baseline = measure_baseline(pool, train)
        parts = " ".join(f"{s[part]:7.3f}" for part in ("fit", "score", "rank", "total", "first"))
        print(f"{name:22} {parts} {baseline:9.3f} {baseline / s['total']:6.1f}x")
        if s["total"] > AIM_S:
            print(f"  slower than the aim of {AIM_S:.0f} s")
    print("Seconds; median of 5 rounds. first: with the graph still to build. baseline: scikit-learn's LabelSpreading")
    print("(knn) and a margin over all items. ratio: baseline / total, larger is better.")


if __name__ == "__main__":
    main()
