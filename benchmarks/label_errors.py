"""Suspected labels: against cleanlab on the same probabilities, and against re-checking labels at random.

    python benchmarks/label_errors.py                                    # digits, ten seeds: some five minutes
    python benchmarks/label_errors.py --images train.zip --cache FOLDER  # class folders, a self-supervised encoder

Labels of a random part of the pool (--labels) are made wrong: a tenth or a fifth of them, to any other class or to the
class they are most easily taken for. Five tables over paired seeds, each with 95 % intervals (Student's t).

  1  The first n suspects, n = how many labels were made wrong: the share of them that is wrong (precision and recall
     are then the same number), and the average precision of the whole order. "same": from one set of out-of-sample
     probabilities (label spreading, five folds) that cleanlab is given too, where it is installed; it is no part of
     the product's environment. "own": as a project gets it, from the better of two heads and three sharings of folds.
  2  Who is suspected at all, against find_label_issues.
  3  Accuracy on held-out images (an audit of that many answers) before, after an oracle answered 100 suspects, and
     after it answered 100 labels drawn at random; for a head that sees through wrong labels, and one that does not.
  4  Nothing made wrong: how many labels are suspected, and how many answers it takes the product to stop.
  5  A tenth of the labels on strangers (two classes are taken out and their images labelled as one of the others) and
     a tenth made wrong: what becomes of accuracy and of the clean labels when every suspect is dropped, or relabelled,
     or the foreign are dropped and the others relabelled, without anybody looking; and when an oracle answers 100.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from acquisition import Drawn, digits, photographs
from scipy.stats import t as student
from sklearn.metrics import average_precision_score

from annotator.algorithms import clean_parameters
from ml_worker.evaluate import wilson
from ml_worker.fast_loop import Answers, LoopSettings, learn
from ml_worker.quality import label_errors, suspicion

ANSWERED = 100
SHOWN = 20  # answers "none of these", where there are any
NOBODY = np.zeros(0, np.int64)
HEADS = tuple((name, clean_parameters("head", name, {})) for name in ("label_spreading", "logistic_regression"))
# Who says of each label whether it is suspected.
SUSPECTING = ("ours, same", "ours, own", "cleanlab, its list first")
KINDS = (("any class", 0.1), ("any class", 0.2), ("look-alike", 0.1), ("look-alike", 0.2))


@dataclass(frozen=True, eq=False)
class Case:
    """Labels with their truth. rows: int64 (L,); given, truth: int64 (L,), truth -1 for a stranger."""

    drawn: Drawn
    rows: np.ndarray
    given: np.ndarray
    truth: np.ndarray
    n_classes: int

    @property
    def wrong(self) -> np.ndarray:
        return self.given != self.truth


def case(drawn: Drawn, n: int, kind: str, rate: float, rng: np.random.Generator) -> Case:
    rows = np.sort(rng.permutation(drawn.rows)[:n])
    truth = drawn.targets[rows]
    return Case(drawn, rows, flipped(drawn, truth, kind, rate, rng), truth, drawn.n_classes)


def flipped(drawn: Drawn, truth: np.ndarray, kind: str, rate: float, rng: np.random.Generator) -> np.ndarray:
    given, chosen = truth.copy(), rng.permutation(len(truth))[: round(rate * len(truth))]
    classes = drawn.n_classes
    to = (truth[chosen] + rng.integers(1, classes, len(chosen))) % classes
    given[chosen] = look_alikes(drawn)[truth[chosen]] if kind == "look-alike" else to
    return given


def look_alikes(drawn: Drawn) -> np.ndarray:
    """The class that each class is most easily taken for: of the nearest neighbours with another truth, the most."""
    neighbours = np.asarray(drawn.pool.neighbours)[drawn.rows]
    taken = np.zeros((drawn.n_classes, drawn.n_classes), np.int64)
    np.add.at(taken, (drawn.targets[drawn.rows][:, None], drawn.targets[neighbours]), 1)
    np.fill_diagonal(taken, -1)
    return np.asarray(taken.argmax(axis=1))


def doubted(given: Case, strangers: np.ndarray = NOBODY) -> suspicion.Doubts:
    return suspicion.doubts(
        given.drawn.pool, given.rows, given.given, given.n_classes, HEADS, strangers=strangers, seed=0
    )


def worst_first(score: np.ndarray) -> np.ndarray:
    return np.argsort(-score, kind="stable")


def accuracy(given: Case, labels: np.ndarray, head: int = 0) -> float:
    """On the held-out images of known classes, learnt from these labels; -1: left out. head: which of HEADS."""
    kept = labels >= 0
    settings = LoopSettings(*HEADS[head], "random_sampling")
    train = Answers(given.rows[kept], labels[kept])
    probs = learn(given.drawn.pool, train, Answers(NOBODY, NOBODY), given.n_classes, settings).probs
    return given.drawn.accuracy(probs, given.drawn.targets >= 0)


# --- who is suspected


def orders(given: Case) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Who is suspected, bool (L,), and the order, by whom."""
    probs = label_errors.out_of_sample(given.drawn.pool, given.rows, given.given, given.n_classes, *HEADS[0])
    guesses = label_errors.confident_guesses(probs, given.given)
    joint = label_errors.joint(given.given, guesses, given.n_classes)
    flagged = label_errors.prune_by_noise_rate(probs, given.given, joint)
    own = doubted(given)
    found = {"ours, same": (flagged, worst_first(label_errors.doubt(probs, given.given)))}
    found |= theirs(probs, given.given)
    return found | {"ours, own": (own.suspected, worst_first(own.score))}


def theirs(probs: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """cleanlab's scores, the first its default, and its default list; nothing where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    flagged = np.asarray(find_label_issues(labels, probs, n_jobs=1))
    found = {}
    for score in ("self_confidence", "normalized_margin"):
        quality = get_label_quality_scores(labels, probs, method=score)
        found[f"cleanlab, {score.replace('_', ' ')}"] = (flagged, worst_first(-quality))
    listed = find_label_issues(labels, probs, n_jobs=1, return_indices_ranked_by="self_confidence")
    ranked = found["cleanlab, self confidence"][1]
    return found | {"cleanlab, its list first": (flagged, np.concatenate([listed, ranked[~np.isin(ranked, listed)]]))}


def table_of_orders(cases: Callable[[str, float], list[Case]]) -> None:
    found: dict[str, list[tuple[float, ...]]] = {}
    for kind, rate in KINDS:
        for given in cases(kind, rate):
            n = int(given.wrong.sum())
            for name, (flagged, ranked) in orders(given).items():
                hit = given.wrong[ranked]
                precision = hit[: int(flagged.sum())].mean() if flagged.any() else 1.0
                recall = given.wrong[flagged].sum() / n
                average = average_precision_score(hit, -np.arange(len(hit)))
                row = (hit[:n].mean(), average, flagged.mean(), precision, recall)
                found.setdefault(f"{kind}, {rate:.0%}|{name}", []).append(row)
    print(f"\n1  The first n of n wrong labels\n{'':18}{'by':42}{'right':>16}{'average precision':>20}", end="")
    print(f"{'less ours, same':>18}")
    for key, rows in found.items():
        made, name = key.split("|")
        ours = np.array(found[f"{made}|ours, same"])[:, 0]
        hits = np.array(rows)
        less = "" if name.startswith("ours") else interval(hits[:, 0] - ours, True)
        print(f"{made:18}{name:42}{interval(hits[:, 0]):>16}{interval(hits[:, 1]):>20}{less:>18}")
    print(f"\n2  Who is suspected\n{'':18}{'by':42}{'share':>16}{'precision':>16}{'recall':>16}")
    for key, rows in found.items():
        made, name = key.split("|")
        if name in SUSPECTING:
            columns = "".join(f"{interval(column):>16}" for column in np.array(rows)[:, 2:].T)
            print(f"{made:18}{name.removesuffix(', its list first'):42}{columns}")


def interval(values: np.ndarray, is_signed: bool = False) -> str:
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{values.mean():{'+' if is_signed else ''}.3f} ± {half:.3f}"


# --- what it is worth


def table_of_repairs(cases: Callable[[str, float], list[Case]]) -> None:
    print("\n3  Accuracy on held-out images")
    for head, (name, _) in enumerate(HEADS):
        print(f"{name:20}{'before':>16}{'100 suspects':>16}{'at random':>16}", end="")
        print(f"{'suspects':>18}{'at random':>18}{'difference':>18}  wrong labels met")
        for kind, rate in KINDS:
            rows, met = [], []
            for seed, given in enumerate(cases(kind, rate)):
                own, lot = doubted(given), np.random.default_rng([seed, 11]).permutation(len(given.rows))
                asked = (worst_first(own.score)[:ANSWERED], lot[:ANSWERED])
                labels = (given.given, *(answered(given, each) for each in asked))
                rows.append([accuracy(given, each, head) for each in labels])
                met.append([int(given.wrong[each].sum()) for each in asked])
            before, after, lot = np.array(rows).T
            by_doubt, by_lot = np.mean(met, axis=0)
            columns = (interval(each) for each in (before, after, lot))
            changes = (interval(each, True) for each in (after - before, lot - before, after - lot))
            print(f"{f'{kind}, {rate:.0%}':20}" + "".join(f"{each:>16}" for each in columns), end="")
            print("".join(f"{each:>18}" for each in changes) + f"  {by_doubt:.0f} against {by_lot:.0f}", flush=True)


def answered(given: Case, asked: np.ndarray) -> np.ndarray:
    """The labels after an oracle answered these; a stranger is then no label at all."""
    labels = given.given.copy()
    labels[asked] = given.truth[asked]
    return labels


def table_of_clean(cases: Callable[[str, float], list[Case]], at_least: int, below: float) -> None:
    """below, at_least: when the product stops, see ml_worker/suspecting.py."""
    shares: dict[str, list[float]] = {}
    for given in cases("any class", 0.0):
        for name, (flagged, _) in orders(given).items():
            shares.setdefault(name, []).append(float(flagged.mean()))
    stop = next(n for n in range(at_least, 1000) if wilson(0, n)[1] < below)
    print("\n4  Nothing made wrong: share of labels that is suspected")
    for name, found in shares.items():
        if name in SUSPECTING:
            print(f"{name.removesuffix(', its list first'):24}{interval(np.array(found))}")
    print(f"If none of them is wrong, the product stops asking after {stop} answers.")


# --- strangers


def table_of_strangers(source: Callable[[int], Drawn], seeds: int, n: int) -> None:
    found: dict[str, list[tuple[float, ...]]] = {}
    told: list[list[float]] = []
    for seed in range(seeds):
        given, shown = strange(source(seed), n, np.random.default_rng([seed, 13]))
        truly = given.truth < 0
        for said, rows in (("", NOBODY), (f", {SHOWN} shown", shown)):
            own = doubted(given, rows)
            asked = worst_first(own.score)[:ANSWERED]
            apart = np.where(own.suspected & ~own.foreign, own.instead, given.given)
            ways = {
                "dropped": np.where(own.suspected, -1, given.given),
                "relabelled": np.where(own.suspected, own.instead, given.given),
                "foreign dropped, others relabelled": np.where(own.suspected & own.foreign, -1, apart),
                f"an oracle answers {ANSWERED}": answered(given, asked),
            }
            if not said:
                ways = {"left as they are": given.given} | ways | {"all right": given.truth}
            for name, labels in ways.items():
                found.setdefault(name + said, []).append(judged(given, labels))
            caught = own.suspected & given.wrong
            told.append([float((own.foreign == truly)[caught].mean()), float(own.suspected[truly].mean())])
    print(f"\n5  A tenth strangers, a tenth wrong\n{'suspects':46}{'accuracy':>16}", end="")
    print(f"{'clean labels kept':>19}{'strangers gone':>17}{'wrong made right':>18}")
    for name, rows in found.items():
        columns = zip(np.array(rows).T, (16, 19, 17, 18), strict=True)
        print(f"{name:46}" + "".join(f"{interval(each):>{width}}" for each, width in columns))
    right, caught = np.array(told).reshape(seeds, 2, 2).transpose(2, 1, 0)
    for said, kinds, share in (("nothing shown", right[0], caught[0]), (f"{SHOWN} shown", right[1], caught[1])):
        print(
            f"{said}: of strangers {interval(share)} suspected; of wrong suspects {interval(kinds)} rightly told apart"
        )


def strange(drawn: Drawn, n: int, rng: np.random.Generator) -> tuple[Case, np.ndarray]:
    """Two classes by lot are none; a tenth of the labels lies on their images, half of them on the class that looks
    nearest, as a hurried person would say, half by lot. And rows of other strangers, called none of these."""
    taken = rng.permutation(drawn.n_classes)[:2]
    columns = np.full(drawn.n_classes, -1)
    columns[np.setdiff1d(np.arange(drawn.n_classes), taken)] = np.arange(drawn.n_classes - 2)
    targets, n_classes = columns[drawn.targets], drawn.n_classes - 2
    of_pool = targets[drawn.rows]
    known, foreign = rng.permutation(drawn.rows[of_pool >= 0]), rng.permutation(drawn.rows[of_pool < 0])
    rows = np.sort(np.concatenate([known[: n - n // 10], foreign[: n // 10]]))
    truth = targets[rows]
    here = Drawn(drawn.pool, targets, n_classes)
    points = np.asarray(drawn.pool.embeddings)
    centres = np.stack([points[known[targets[known] == column]].mean(axis=0) for column in range(n_classes)])
    nearest = np.square(points[rows][:, None] - centres).sum(axis=2).argmin(axis=1)
    hurried = np.where(rng.random(len(rows)) < 0.5, nearest, rng.integers(n_classes, size=len(rows)))
    given = np.where(truth < 0, hurried, truth)
    chosen = rng.permutation(np.flatnonzero(truth >= 0))[: n // 10]
    given[chosen] = (truth[chosen] + rng.integers(1, n_classes, len(chosen))) % n_classes
    return Case(here, rows, given, truth, n_classes), np.sort(foreign[n // 10 : n // 10 + SHOWN])


def judged(given: Case, labels: np.ndarray) -> tuple[float, ...]:
    """Accuracy; of the labels that were right, how many still stand; of strangers, how many have none; of the labels
    made wrong, how many are right now."""
    strangers, clean = given.truth < 0, ~given.wrong
    made_wrong = given.wrong & ~strangers
    right = labels == given.truth
    gone = (labels < 0)[strangers].mean()
    return accuracy(given, labels), right[clean].mean(), gone, right[made_wrong].mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--images", type=Path, help="a zip of class folders; by default the digits")
    parser.add_argument("--sample", type=int, default=8000, help="so many of the images, a fifth of them to test on")
    parser.add_argument("--minutes", type=float, default=8.0, help="for the self-supervised encoder, once")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "winnow-acquisition")
    asked = parser.parse_args()
    try:
        import cleanlab

        print(f"cleanlab {cleanlab.__version__}, numpy {np.__version__}")
    except ImportError:
        print("cleanlab is not installed (pip install 'cleanlab>=2.8'): our own figures alone")
    source: Any = digits
    if asked.images:
        source = photographs(asked.images, asked.cache, asked.minutes, asked.sample)
    drawn = [source(seed) for seed in range(asked.seeds)]
    held_out = int((~drawn[0].pool.indexed).sum())
    print(f"{asked.labels} labels, {drawn[0].n_classes} classes, {held_out:,} held-out images, {asked.seeds} seeds")

    def cases(kind: str, rate: float) -> list[Case]:
        return [
            case(each, asked.labels, kind, rate, np.random.default_rng([seed, 7])) for seed, each in enumerate(drawn)
        ]

    table_of_orders(cases)
    table_of_repairs(cases)
    table_of_clean(cases, at_least=20, below=0.15)
    table_of_strangers(lambda seed: drawn[seed], asked.seeds, asked.labels)


if __name__ == "__main__":
    main()
