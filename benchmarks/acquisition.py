"""Acquisition functions: against scikit-activeml, and against answers at random.

    python benchmarks/acquisition.py speed                      # seconds, memory; needs numpy only
    python benchmarks/acquisition.py labels                     # digits, ten seeds: about ten minutes on one core
    python benchmarks/acquisition.py labels --images train.zip --cache FOLDER

speed: where `scikit-activeml` is installed (it is no part of the product's environment), the same question is put to
it: the picks are compared, or what the method minimises or covers; without it, our own figures are printed. Ratio: its
seconds by ours. Peak: the most memory a call takes beyond its input.

labels: three tables over paired seeds (the same pool, test images and first batch for every function).
  1  Answers until the mean accuracy is what answers at random reach with 200, and the difference to random at 50, 100
     and 200 answers with its 95 % interval; a function whose interval at 100 and 200 reaches down to 0 is marked "no
     better".
  2  The first batch of 10 and of 50, before any model: accuracy (mean, worst seed) and classes covered.
  3  Digits only: how many of 45 rare ones in 1,500 are found in 100 questions; and, where half of the classes are
     strangers, what share of 100 answers went to known classes, and the accuracy on those.
The head is label spreading on principal components, on photographs (a zip of class folders) on a self-supervised
encoder that is taught once, for --minutes, and kept in --cache; each seed then draws 80 % of the pool.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from ml_worker.acquisition import STARTERS, Candidates, load
from ml_worker.acquisition.probcover import purest
from ml_worker.clustering import unit_rows

NAMES = (
    "margin",
    "least_confidence",
    "entropy",
    "density_margin",
    "bald",
    "disagreement",
    "badge",
    "coreset",
    "typiclust",
    "probcover",
    "rare_class",
)
BUDGET, STEP = 200, 10
CLASSES, KINDS, LABELED, BATCH = 10, 1000, 100, 50


# --- speed


def clouds(n: int, dimensions: int, seed: int = 0) -> Candidates:
    """Many clouds, some larger than others, a hundred items answered, and probabilities drawn by lot."""
    rng = np.random.default_rng(seed)
    kind = (KINDS * rng.random(n + LABELED) ** 2).astype(np.int64)
    points = rng.normal(size=(KINDS, dimensions))[kind] + 0.7 * rng.normal(size=(n + LABELED, dimensions))
    points = points.astype(np.float32)
    probs = rng.dirichlet(np.ones(CLASSES), n).astype(np.float32)
    members = rng.dirichlet(np.ones(CLASSES), (5, n)).astype(np.float32)
    spacing = rng.uniform(1, 2, n).astype(np.float32)
    return Candidates(points[LABELED:], probs, points[:LABELED], members, kind[:LABELED] % CLASSES, spacing)


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds: the median of five where one takes less than a fifth."""
    started = time.perf_counter()
    found = act()
    spent = [time.perf_counter() - started]
    while spent[0] < 0.2 and len(spent) < 5:
        started = time.perf_counter()
        act()
        spent.append(time.perf_counter() - started)
    return found, statistics.median(spent)


def peak_mb(act: Callable[[], Any]) -> float:
    tracemalloc.start()
    act()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def ours(name: str, pool: Candidates, seed: int = 0) -> Any:
    return load(name)(pool, BATCH, np.random.default_rng(seed))[0]


def theirs(pool: Candidates) -> dict[str, Callable[[], Any]]:
    """scikit-activeml's own way with the same question, by the name of our function; empty where it is missing."""
    try:
        from skactiveml.base import SkactivemlClassifier
        from skactiveml.pool import Badge, CoreSet, ProbCover, TypiClust, UncertaintySampling
    except ImportError:
        return {}

    class Told(SkactivemlClassifier):
        """A model that says what it is told to say."""

        def __init__(self, classes: Any = None, missing_label: Any = np.nan, cost_matrix: Any = None, seed: int = 0):
            super().__init__(classes, missing_label, cost_matrix, seed)
            self.seed = seed

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return self

        def predict_proba(self, X: Any) -> Any:
            return pool.probs.astype(np.float64)

    told = Told(classes=list(range(CLASSES)))
    told.classes_ = np.arange(CLASSES)
    everything = np.concatenate([np.asarray(pool.embeddings), pool.labeled_embeddings])
    known = np.full(len(everything), np.nan)
    known[len(pool.embeddings) :] = pool.labeled_targets
    cosine = purest(unit_rows(np.asarray(pool.embeddings)), CLASSES, np.random.default_rng(0))
    radius = float(np.sqrt(2 - 2 * cosine))
    asked = {"batch_size": BATCH}

    def doubt(method: str) -> Callable[[], Any]:
        return lambda: UncertaintySampling(method, random_state=0).query(
            everything, known, told, fit_clf=False, **asked
        )

    return {
        "margin": doubt("margin_sampling"),
        "least_confidence": doubt("least_confident"),
        "entropy": doubt("entropy"),
        "coreset": lambda: CoreSet(random_state=0).query(everything, known, **asked),
        "badge": lambda: Badge(random_state=0).query(everything, known, told, fit_clf=False, **asked),
        "typiclust": lambda: TypiClust(random_state=0, k=20).query(unit_rows(everything), known, **asked),
        "probcover": lambda: ProbCover(n_classes=CLASSES, deltas=[radius], random_state=0).query(
            unit_rows(everything), known, **asked
        ),
    }


def objective(name: str, pool: Candidates, rows: Any) -> float:
    """What the method is after, of this batch: for coreset and badge less is better, for the others more."""
    points = np.asarray(pool.embeddings)
    unit = unit_rows(points)
    if name == "coreset":
        return max(_nearest(points, np.concatenate([pool.labeled_embeddings, points[rows]])))
    if name == "badge":
        slopes = pool.probs - np.eye(CLASSES, dtype=np.float32)[pool.probs.argmax(axis=1)]
        squares = np.square(slopes).sum(axis=1) * np.square(points).sum(axis=1)
        inner = (slopes @ slopes[rows].T) * (points @ points[rows].T)
        return float((squares[:, None] + squares[rows] - 2 * inner).min(axis=1).mean())
    if name == "probcover":
        cosine = purest(unit, CLASSES, np.random.default_rng(0))
        covering = np.concatenate([unit_rows(pool.labeled_embeddings), unit[rows]])
        return float((unit @ covering.T > cosine).any(axis=1).mean())
    away = np.sort(np.sqrt(np.maximum(2 - 2 * unit[rows] @ unit.T, 0)), axis=1)[:, 1:21]
    return float((1 / away.mean(axis=1)).mean())


def _nearest(points: Any, others: Any) -> Any:
    squared = np.square(others).sum(axis=1) - 2 * points @ others.T
    return np.sqrt(np.maximum(squared.min(axis=1) + np.square(points).sum(axis=1), 0))


def speed(n: int, dimensions: int, quadratic_at_most: int) -> None:
    print(f"\n{n:,} x {dimensions}, {LABELED} answered, a batch of {BATCH}")
    print(f"{'':18}{'seconds':>9}{'peak MB':>9}{'theirs s':>10}{'ratio':>7}  same question, same answer?")
    pool = clouds(n, dimensions)
    rival = theirs(pool)
    for name in (*NAMES, "inlier_margin", "random_sampling"):
        rows, seconds = timed(lambda name=name: ours(name, pool))  # type: ignore[misc]
        peak = peak_mb(lambda name=name: ours(name, pool))  # type: ignore[misc]
        line = f"{name:18}{seconds:9.3f}{peak:9.0f}"
        if name == "probcover" and n > quadratic_at_most:
            line += f"{'-':>10}{'-':>7}  not asked: its n x n distances would take {8 * n**2 / 2**30:.0f} GB"
        elif name in rival:
            picked, other = timed(rival[name])
            line += f"{other:10.3f}{other / seconds:7.1f}  {agreement(name, pool, rows, np.asarray(picked))}"
        print(line, flush=True)


def agreement(name: str, pool: Candidates, rows: Any, picked: Any) -> str:
    if rows.tolist() == picked.tolist():
        return "identical, in the same order"
    if set(rows.tolist()) == set(picked.tolist()):
        return "the same batch in another order"
    found, other = objective(name, pool, rows), objective(name, pool, picked)
    what = {"coreset": "radius", "badge": "mean squared distance", "probcover": "covered"}.get(name, "typicality")
    return f"{what} {found:.4g}, theirs {other:.4g}; {len(set(rows) & set(picked))} of {BATCH} shared"


# --- labels


@dataclass(frozen=True, eq=False)
class Drawn:
    """A pool with its truth; test rows are those that are not indexed."""

    pool: Any
    targets: np.ndarray
    n_classes: int

    @property
    def rows(self) -> np.ndarray:
        return np.flatnonzero(self.pool.indexed)

    def accuracy(self, probs: np.ndarray, of: np.ndarray | None = None) -> float:
        test = ~self.pool.indexed if of is None else ~self.pool.indexed & of
        return float((probs.argmax(axis=1) == self.targets)[test].mean())


def digits(seed: int) -> Drawn:
    from sklearn.datasets import load_digits

    from annotator.algorithms import clean_parameters
    from ml_worker import encoders

    found = load_digits()
    images = np.repeat(np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3)
    indexed = np.ones(len(images), bool)
    indexed[np.random.default_rng(seed).permutation(len(images))[:400]] = False
    encoder = encoders.load("pca_pixels")(seed=seed, **clean_parameters("encoder", "pca_pixels", {}))
    encoder.fit(images[indexed])
    return drawn(encoder.embed(images), found.target.astype(np.int64), indexed)


def drawn(embeddings: np.ndarray, targets: np.ndarray, indexed: np.ndarray) -> Drawn:
    from ml_worker.neighbours import nearest
    from ml_worker.pool import Pool

    return Drawn(Pool(embeddings, *nearest(embeddings, indexed), indexed), targets, int(targets.max()) + 1)


def photographs(path: Path, cache: Path, minutes: float, n: int) -> Callable[[int], Drawn]:
    """What draws a pool of a seed: 80 % of four fifths of n images; the last fifth is tested on."""
    from annotator.algorithms import clean_parameters
    from ml_worker import encoders
    from ml_worker.labelled import load_source

    kept = cache / f"{path.stem}-{n}-{minutes:g}.npz"
    if not kept.exists():
        source = load_source(str(path))
        chosen = np.random.default_rng(0).permutation(len(source.targets))[:n]
        given = {"minutes": minutes, "epochs": 10_000, "flip": "yes"}
        encoder = encoders.load("self_supervised")(seed=0, **clean_parameters("encoder", "self_supervised", given))
        encoder.fit(source.images[chosen[: n * 4 // 5]])
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(kept, embeddings=encoder.embed(source.images[chosen]), targets=source.targets[chosen])
    found = np.load(kept)
    embeddings, targets = found["embeddings"], found["targets"]

    def of_seed(seed: int) -> Drawn:
        n_pool = len(targets) * 4 // 5
        chosen = np.sort(np.random.default_rng(seed).permutation(n_pool)[: n_pool * 4 // 5])
        rows = np.concatenate([chosen, np.arange(n_pool, len(targets))])
        return drawn(embeddings[rows], targets[rows], np.arange(len(rows)) < len(chosen))

    return of_seed


def sitting(given: Drawn, name: str, seed: int, budget: int, strangers: np.ndarray | None = None) -> Iterator[Any]:
    """(answers, what was learnt from them) after each ten, led by one function after the usual start. strangers: bool
    (N,), items that belong to no class."""
    from annotator.algorithms import clean_parameters
    from ml_worker.fast_loop import Answers, LoopSettings, NotEnoughLabels, learn, order

    settings = LoopSettings(
        "label_spreading",
        clean_parameters("head", "label_spreading", {}),
        name,
        audit_share=0.0,
        n_classes=given.n_classes,
        queue_length=STEP,
    )
    rng = np.random.default_rng([seed, 1])
    nobody = Answers(np.zeros(0, np.int64), np.zeros(0, np.int64))
    foreign = np.zeros(len(given.targets), bool) if strangers is None else strangers
    asked, learned = np.zeros(0, np.int64), None
    train = nobody
    while len(asked) < budget:
        left = np.setdiff1d(given.rows, asked)
        entries = order(given.pool, learned, left, nobody.rows, asked, settings, rng, train)
        asked = np.concatenate([asked, [entry.row for entry in entries]])
        named = np.sort(asked[~foreign[asked]])
        train = Answers(named, given.targets[named], strangers=np.sort(asked[foreign[asked]]))
        try:
            learned = learn(given.pool, train, nobody, given.n_classes, settings)
        except NotEnoughLabels:
            learned = None
        yield asked, learned


def curves(source: Callable[[int], Drawn], seeds: int) -> dict[str, np.ndarray]:
    """Accuracy (seeds, BUDGET / STEP) of each function."""
    found: dict[str, list[list[float]]] = {name: [] for name in ("random_sampling", *NAMES)}
    for seed in range(seeds):
        given = source(seed)
        for name, rows in found.items():
            rows.append(
                [0.0 if said is None else given.accuracy(said.probs) for _, said in sitting(given, name, seed, BUDGET)]
            )
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    return {name: np.array(rows) for name, rows in found.items()}


def table_of_answers(found: dict[str, np.ndarray]) -> None:
    from scipy.stats import t as student

    chance = found["random_sampling"]
    target, seeds = chance[:, -1].mean(), len(chance)
    half = student.ppf(0.975, seeds - 1) / np.sqrt(seeds)
    print(f"\n1  Answers until the mean accuracy is {target:.3f}, as at random with {BUDGET}; difference to random")
    print(f"{'':18}{'answers':>8}" + "".join(f"{f'at {n}':>16}" for n in (50, 100, 200)))
    for name, accuracy in found.items():
        reached = np.flatnonzero(accuracy.mean(axis=0) >= target)
        answers = f"{STEP * (reached[0] + 1)}" if len(reached) else f"> {BUDGET}"
        cells, lows = [], []
        for n in (50, 100, 200):
            gain = accuracy[:, n // STEP - 1] - chance[:, n // STEP - 1]
            width = half * gain.std(ddof=1)
            lows.append(gain.mean() - width)
            cells.append(f"{gain.mean():+.3f} ± {width:.3f}")
        verdict = "  no better" if max(lows[1:]) <= 0 and name != "random_sampling" else ""
        print(f"{name:18}{answers:>8}" + "".join(f"{cell:>16}" for cell in cells) + verdict)


def table_of_starts(source: Callable[[int], Drawn], seeds: int) -> None:
    from annotator.algorithms import clean_parameters
    from ml_worker.fast_loop import Answers, LoopSettings, learn, order

    head = clean_parameters("head", "label_spreading", {})
    none = np.zeros(0, np.int64)
    print(f"\n2  The first batch\n{'':18}{'batch':>6}{'mean':>8}{'worst':>8}{'classes':>9}{'fewest':>8}")
    for name in sorted(STARTERS):
        for batch in (10, 50):
            found, covered = [], []
            for seed in range(seeds):
                given = source(seed)
                usual = "random_sampling" if name == "random_sampling" else "margin"
                settings = LoopSettings("label_spreading", head, usual, name, batch, 0.0, n_classes=given.n_classes)
                rng = np.random.default_rng([seed, 2])
                rows = np.sort([e.row for e in order(given.pool, None, given.rows, none, none, settings, rng)])
                covered.append(len(np.unique(given.targets[rows])))
                train = Answers(rows, given.targets[rows])
                probs = learn(given.pool, train, Answers(none, none), given.n_classes, settings).probs
                found.append(given.accuracy(probs))
            print(
                f"{name:18}{batch:>6}{np.mean(found):8.3f}{min(found):8.3f}{np.mean(covered):9.1f}{min(covered):8}",
                flush=True,
            )


# --- rare ones, and strangers


def rare_digits(seeds: int) -> None:
    """One answer of the rare class and ten others, then 100 questions in tens; each digit is the rare one in turn."""
    given = digits(0)
    points, everything = given.pool.embeddings, np.arange(len(given.targets))
    found: dict[str, list[int]] = {"rare_class": [], "nearest to any found": [], "nearest to the first": [], "lot": []}
    for rare in range(10):
        for seed in range(max(seeds // 5, 1)):
            rng = np.random.default_rng([seed, rare])
            is_rare = given.targets == rare
            pool = rng.permutation(
                np.concatenate(
                    [rng.permutation(everything[is_rare])[:45], rng.permutation(everything[~is_rare])[:1455]]
                )
            )
            start = [pool[is_rare[pool]][0], *pool[~is_rare[pool]][:10]]
            for way, hits in found.items():
                asked = np.array(start)
                for _ in range(10):
                    left = np.setdiff1d(pool, asked)
                    asked = np.concatenate([asked, left[_ten(way, points, left, asked, is_rare, rng)]])
                hits.append(int(is_rare[asked].sum()) - 1)
    print("\n3  Of 44 rare ones in 1,500 digits, found in 100 questions: mean (worst)")
    for way, hits in found.items():
        print(f"{way:22}{np.mean(hits):6.1f} ({min(hits)})")


def _ten(way: str, points: Any, left: Any, asked: Any, is_rare: Any, rng: np.random.Generator) -> Any:
    if way == "lot":
        return rng.permutation(len(left))[:STEP]
    if way == "rare_class":
        level = np.full((len(left), 2), 0.5, np.float32)
        said = np.where(is_rare[asked], 0, -1)
        return load(way)(Candidates(points[left], level, points[asked], labeled_targets=said), STEP, rng)[0]
    liked = asked[is_rare[asked]] if way == "nearest to any found" else asked[:1]
    return np.argsort(_nearest(points[left], points[liked]), kind="stable")[:STEP]


def strange_digits(seeds: int) -> None:
    """The digits 5 to 9 belong to no class: what 100 answers were spent on, and what they taught of the others."""
    print(f"\n   Digits 5 to 9 are strangers, 100 answers\n{'':18}{'known':>8}{'accuracy':>10}{'worst':>8}")
    for name in ("random_sampling", "margin", "entropy", "inlier_margin"):
        known, accuracy = [], []
        for seed in range(seeds):
            given = digits(seed)
            strangers = given.targets >= 5
            half = Drawn(given.pool, given.targets, 5)
            asked, learned = list(sitting(half, name, seed, 100, strangers))[-1]
            known.append(float((~strangers[asked]).mean()))
            accuracy.append(half.accuracy(learned.probs, ~strangers))
        print(f"{name:18}{np.mean(known):8.0%}{np.mean(accuracy):10.3f}{min(accuracy):8.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "labels"))
    parser.add_argument("--items", default="3000,50000", help="speed: pools of so many, comma between")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--quadratic-at-most", type=int, default=10_000, help="items for a rival that allocates n x n")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=Path, help="labels: a zip of class folders; by default the digits")
    parser.add_argument("--sample", type=int, default=5000, help="so many of the images, a fifth of them to test on")
    parser.add_argument("--minutes", type=float, default=5.0, help="for the self-supervised encoder, once")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "winnow-acquisition")
    asked = parser.parse_args()
    if asked.what == "speed":
        try:
            import skactiveml

            print(f"scikit-activeml {skactiveml.__version__}, numpy {np.__version__}")
        except ImportError:
            print("scikit-activeml is not installed (pip install scikit-activeml): our own figures alone")
        for n in map(int, asked.items.split(",")):
            speed(n, asked.dimensions, asked.quadratic_at_most)
        return
    source = photographs(asked.images, asked.cache, asked.minutes, asked.sample) if asked.images else digits
    source = functools.cache(source)  # the graph of a pool takes long
    table_of_starts(source, asked.seeds)
    table_of_answers(curves(source, asked.seeds))
    if not asked.images:
        rare_digits(asked.seeds)
        strange_digits(asked.seeds)


if __name__ == "__main__":
    main()
