"""Short lists that keep their promise, and confidence before and after calibration: on held-out images.

    python benchmarks/conformal.py                                            # digits: a minute on one core
    python benchmarks/conformal.py --images train.zip --cache FOLDER          # photographs, a zip of class folders

Each seed draws the answers to learn from and the random checks anew; all images that are neither stand for the pool.
Everything runs the product's own code: the head, the temperatures, the lists.
  1  Coverage of the lists by 9 in 10 and 19 in 20, by class (the product's) and pooled (one threshold for all): the
     mean over the seeds with its 95 % interval, the share of seeds inside the binomial interval of the promise (Beta
     law and counting of the held-out images together), and the class that is worst off. Size: mean length of a list;
     beside it the fewest likeliest classes, the same number for every image, that hold the right one as often.
  2  Calibration error on the held-out images: as the head says it, by the common temperature, by temperatures of
     predicted classes; the same error measured on the random checks as the page shows it; and the difference between
     the two kinds of temperature over paired seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from acquisition import Drawn, digits, photographs
from scipy.stats import betabinom
from scipy.stats import t as student

from annotator.algorithms import clean_parameters
from ml_worker import calibrate, conformal, heads
from ml_worker.evaluate import calibration_report, expected_calibration_error


@dataclass(frozen=True, eq=False)
class Said:
    """What a head says of the random checks and of held-out images, and what they are."""

    checks: np.ndarray
    truth_checks: np.ndarray
    held: np.ndarray
    truth: np.ndarray


def said(source: Callable[[int], Drawn], head: str, answers: int, checks: int, seed: int) -> Said:
    given = source(seed)
    rows = np.random.default_rng([seed, 7]).permutation(len(given.targets))
    learnt = np.sort(rows[:answers])
    model = heads.load(head)(given.n_classes, **clean_parameters("head", head, {}))
    model.fit(given.pool, learnt, given.targets[learnt], np.ones(answers, np.float32))
    logits = model.logits(given.pool)
    audit, held = rows[answers : answers + checks], rows[answers + checks :]
    return Said(logits[audit], given.targets[audit], logits[held], given.targets[held])


# --- lists


@dataclass(frozen=True)
class Lists:
    """coverage: of all held-out images; worst: of the class worst off; law: whether coverage lies within the binomial
    interval of the promise; classes: of every class with a threshold of its own, whether it does. top: classes for
    each image that cover as much."""

    coverage: float
    worst: float
    law: bool
    classes: list[bool]
    size: float
    empty: float
    top: int


def by_class(said: Said, promise: float) -> Lists:
    made = conformal.fit(said.checks, said.truth_checks, promise)
    assert made is not None
    return _measured(said, made, promise)


def pooled(said: Said, promise: float) -> Lists:
    made = conformal.fit(said.checks, said.truth_checks, promise)
    assert made is not None
    truth = np.sort(conformal.scores(said.checks)[np.arange(len(said.checks)), said.truth_checks])
    highest = np.full_like(made.highest, truth[conformal.place(len(truth), promise) - 1])
    return _measured(said, conformal.ShortLists(promise, highest, made.answers, np.zeros_like(made.own)), promise)


def _measured(said: Said, made: conformal.ShortLists, promise: float) -> Lists:
    listed = made.of(said.held)
    inside = listed[np.arange(len(listed)), said.truth]
    rates = [inside[said.truth == column].mean() for column in range(listed.shape[1])]
    classes = [
        _is_lawful(inside[said.truth == column], int(made.answers[column]), promise)
        for column in np.flatnonzero(made.own)
    ]
    if made.own.any():
        # All classes together: as many draws of the law of each, the classes as common as they are.
        law = _is_lawful_together(inside, said, made, promise)
    else:
        law = _is_lawful(inside, len(said.checks), promise)
    rank = np.argsort(np.argsort(-said.held, axis=1, kind="stable"), axis=1)[np.arange(len(listed)), said.truth]
    top = next(k for k in range(1, listed.shape[1] + 1) if (rank < k).mean() >= inside.mean())
    sizes = listed.sum(axis=1)
    return Lists(float(inside.mean()), min(rates), law, classes, float(sizes.mean()), float((sizes == 0).mean()), top)


def _is_lawful(inside: np.ndarray, answers: int, promise: float) -> bool:
    """Within 95 % of the beta-binomial law: what a threshold from so many answers covers of so many images."""
    k = conformal.place(answers, promise)
    low, high = betabinom.ppf([0.025, 0.975], len(inside), k, answers + 1 - k)
    return bool(low <= inside.sum() <= high)


def _is_lawful_together(inside: np.ndarray, said: Said, made: conformal.ShortLists, promise: float) -> bool:
    """As `_is_lawful`, over all classes with a threshold of their own."""
    rng, drawn, seen = np.random.default_rng(0), np.zeros(4000), 0
    for column in np.flatnonzero(made.own):
        mine, n = said.truth == column, int(made.answers[column])
        k = conformal.place(n, promise)
        drawn += betabinom.rvs(int(mine.sum()), k, n + 1 - k, size=4000, random_state=rng)
        seen += int(inside[mine].sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low <= seen <= high)


def table_of_lists(every: list[Said], promises: tuple[float, ...]) -> None:
    accuracy = np.mean([(each.held.argmax(axis=1) == each.truth).mean() for each in every])
    print(f"\n1  Short lists; the likeliest class alone is right in {accuracy:.1%}")
    print(
        f"{'promise':>8}  {'lists':10}{'coverage':>16}{'lawful':>9}{'by class':>11}{'worst class':>13}"
        f"{'size':>7}{'empty':>8}{'top-k as good':>15}"
    )
    for promise in promises:
        for name, make in (("by class", by_class), ("pooled", pooled)):
            found = [make(each, promise) for each in every]
            coverage, half = _interval([each.coverage for each in found])
            classes = [each for one in found for each in one.classes]
            print(
                f"{promise:8.0%}  {name:10}{coverage:9.1%} ± {half:.1%}"
                f"{sum(each.law for each in found):5} / {len(found):<3}"
                f"{f'{sum(classes)} / {len(classes)}' if classes else '-':>11}"
                f"{np.mean([each.worst for each in found]):13.1%}{np.mean([each.size for each in found]):7.2f}"
                f"{np.mean([each.empty for each in found]):8.1%}{np.mean([each.top for each in found]):15.2f}",
                flush=True,
            )


# --- calibration


def table_of_errors(every: list[Said]) -> None:
    raw, common, own, shown, chance, kept = [], [], [], [], [], []
    for each in every:
        found = calibrate.temperatures(each.checks, each.truth_checks)
        raw.append(_error(calibrate.softmax(each.held), each))
        common.append(_error(calibrate.softmax(each.held, found.common), each))
        own.append(_error(found.probs(each.held), each))
        report = calibration_report(
            calibrate.cross_fitted(each.checks, each.truth_checks, by_class=True), each.truth_checks
        )
        shown.append(report["ece"])
        chance.append(report["chance"])
        kept.append(len(found.by_class))
    print("\n2  Calibration error on held-out images, mean ± 95 % interval over the seeds")
    for name, errors in (("as the head says", raw), ("common temperature", common), ("and by class", own)):
        mean, half = _interval(errors)
        print(f"{name:20}{mean:8.2%} ± {half:.2%}")
    mean, half = _interval(np.subtract(own, common))
    verdict = "no better" if mean + half >= 0 else "better"
    print(f"{'by class - common':20}{mean:+8.2%} ± {half:.2%}  {verdict}; {np.mean(kept):.1f} classes have their own")
    print(f"{'as the page shows it':20}{np.mean(shown):8.2%}, of which chance makes {np.mean(chance):.2%}")


def _error(probs: np.ndarray, said: Said) -> float:
    return expected_calibration_error(probs.max(axis=1), probs.argmax(axis=1) == said.truth)


def _interval(values: list[float] | np.ndarray) -> tuple[float, float]:
    n = len(values)
    return float(np.mean(values)), float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--heads", default="label_spreading,logistic_regression")
    parser.add_argument("--answers", type=int, default=200, help="to learn from")
    parser.add_argument("--checks", default="100,300", help="random checks, comma between")
    parser.add_argument("--images", type=Path, help="a zip of class folders; by default the digits")
    parser.add_argument("--sample", type=int, default=5000, help="so many of the images")
    parser.add_argument("--minutes", type=float, default=5.0, help="for the self-supervised encoder, once")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "winnow-acquisition")
    asked = parser.parse_args()
    source = photographs(asked.images, asked.cache, asked.minutes, asked.sample) if asked.images else digits
    for head in asked.heads.split(","):
        for checks in map(int, asked.checks.split(",")):
            every = [said(source, head, asked.answers, checks, seed) for seed in range(asked.seeds)]
            print(f"\n=== {head}, {asked.answers} answers, {checks} random checks, {asked.seeds} seeds")
            table_of_lists(every, (0.9, 0.95))
            table_of_errors(every)


if __name__ == "__main__":
    main()
