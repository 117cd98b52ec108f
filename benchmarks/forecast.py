"""The forecast of a project's accuracy, and its advice to stop, against what came.

    python benchmarks/forecast.py                                    # digits, twenty seeds: about two minutes
    python benchmarks/forecast.py --images train.zip --cache FOLDER  # photographs; see acquisition.py

Of each seed's images a fifth are set aside to measure on and 100 as random checks; both lie in the pool's graph and
are never asked. One function leads 700 questions. After 60, 100 and 200 answers the forecast of the product (the same
code) is made from the answers so far and the first 50 or all 100 of the checks, and held against the accuracy on the
images set aside after 50, 100 and 500 answers more.

  1  How often the accuracy that came lay in the 90 % band, with its 95 % interval, and how often the gain did; the
     mean absolute error of the forecast, of "it stays as it is", and of a line through the curve's last two points.
  2  The advice, taken after every twenty answers from 40 on: when a project first stops, what it gives up against 500
     answers more, and how that compares with stopping at the same answers whatever the project.
  3  What choosing gains, as a project would measure it from 20 and 50 answers of either kind on the checks: how often
     the truth (the images set aside; random answers drawn twenty times) lay in the 95 % interval.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from acquisition import STEP, Drawn, digits, drawn, photographs, sitting

from ml_worker import forecast, gain
from ml_worker.evaluate import wilson
from ml_worker.fast_loop import Answers

AT, AHEAD, LAST = (60, 100, 200), (50, 100, 500), 700
CHECKS = (50, 100)
ADVISED_FROM = 40
GAIN_AT, LOTS = (20, 50), 20


@dataclass(frozen=True, eq=False)
class SetAside(Drawn):
    """A pool of which some rows are never asked. checks, test: int64 rows."""

    checks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    test: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def rows(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.targets)), np.concatenate([self.checks, self.test]))

    def accuracy(self, probs: np.ndarray, of: np.ndarray | None = None) -> float:
        return float((probs.argmax(axis=1) == self.targets)[self.test].mean())


def set_aside(given: Drawn, seed: int) -> SetAside:
    """All rows in one graph: what is measured on are images of the pool, as in a project."""
    test = np.flatnonzero(~given.pool.indexed)
    checks = np.random.default_rng([seed, 7]).permutation(given.rows)[: max(CHECKS)]
    whole = drawn(given.pool.embeddings, given.targets, np.ones(len(given.targets), bool))
    return SetAside(whole.pool, whole.targets, whole.n_classes, checks, test)


@dataclass(frozen=True, eq=False)
class Project:
    """What one seed went through. accuracy: by answers given; points: the measured curve, by answers given."""

    accuracy: dict[int, float]
    points: dict[int, forecast.Points]
    left: int
    gains: list[tuple[int, gain.Gain | None, float]]


def live(given: SetAside, name: str, seed: int, points_at: list[int]) -> Project:
    from annotator.algorithms import clean_parameters

    head = clean_parameters("head", "label_spreading", {})
    checks = Answers(given.checks, given.targets[given.checks])
    right_of = forecast.scorer(given.pool, checks, given.n_classes, "label_spreading", head)
    accuracy, asked = {}, np.zeros(0, np.int64)
    for asked, learned in sitting(given, name, seed, LAST):
        accuracy[len(asked)] = 0.0 if learned is None else given.accuracy(learned.probs)
    points = {}
    for n in points_at:
        answers = Answers(asked[:n], given.targets[asked[:n]])
        points[n] = forecast.measure(answers, len(checks.rows), right_of)
    return Project(accuracy, points, len(given.rows), [_gain(given, asked, n, seed) for n in GAIN_AT])


def _gain(given: SetAside, asked: np.ndarray, n: int, seed: int) -> tuple[int, gain.Gain | None, float]:
    """As measured on the checks from one lot of random answers, and in truth."""
    from annotator.algorithms import clean_parameters

    head = clean_parameters("head", "label_spreading", {})
    rng = np.random.default_rng([seed, 11])

    def on(rows: np.ndarray) -> Any:
        return forecast.scorer(
            given.pool, Answers(rows, given.targets[rows]), given.n_classes, "label_spreading", head
        )

    lots = [rng.permutation(given.rows)[:n] for _ in range(LOTS)]
    baseline, chosen = (Answers(rows, given.targets[rows]) for rows in (lots[0], asked[:n]))
    found = gain.compare(baseline, chosen, len(given.checks), on(given.checks), seed=seed)
    test = on(given.test)
    at_random = np.mean([test(lot, given.targets[lot]).mean() for lot in lots])
    return n, found, float(test(chosen.rows, chosen.targets).mean() - at_random)


def told(project: Project, n: int, n_checks: int, seed: int) -> forecast.Forecast:
    points = project.points[n]
    seen = forecast.Points(points.sizes, points.right[:, :n_checks])
    said = forecast.forecast(seen, left=project.left - n, target=0.99, seed=seed)
    if said is None:
        raise SystemExit(f"nothing is told of {n} answers: {forecast.lack(seen)}")
    return said


def line_through(points: forecast.Points, n_checks: int, more: int) -> float:
    """The straight line through the last two points, within what is possible."""
    before, last = points.right[-2:, :n_checks].mean(axis=1)
    slope = (last - before) / (points.sizes[-1] - points.sizes[-2])
    return float(np.clip(last + slope * more, 0.0, 1.0))


def table_of_bands(projects: list[Project], n_checks: int) -> None:
    print(f"\n1  {n_checks} random checks: share of {len(projects)} projects in the band, mean absolute error")
    heads = ("accuracy in band", "gain", "width", "forecast", "stays", "line", "gain came", "told")
    print(f"{'answers':>8}{'ahead':>6}{heads[0]:>22}{heads[1]:>7}" + "".join(f"{each:>10}" for each in heads[2:]))
    every = []
    for n in AT:
        for more in AHEAD:
            cells = np.array([_held(project, n, more, n_checks, seed) for seed, project in enumerate(projects)])
            every.append(cells)
            _row(f"{n:8}{more:6}", cells)
    # Of one project all lie in their bands together or not at all: the interval is over projects.
    whole = np.mean(every, axis=0)
    _row(f"{'all':>14}", whole, by_project=True)


def _held(project: Project, n: int, more: int, n_checks: int, seed: int) -> list[float]:
    said = told(project, n, n_checks, seed)
    step = next(each for each in said.ahead if each.more == more)
    before, came = project.accuracy[n], project.accuracy[n + more]
    return [
        step.low <= came <= step.high,
        step.gain_low <= came - before <= step.gain_high,
        step.high - step.low,
        abs(step.accuracy - came),
        abs(said.accuracy - came),
        abs(line_through(project.points[n], n_checks, more) - came),
        came - before,
        step.gain,
    ]


def _row(start: str, cells: np.ndarray, *, by_project: bool = False) -> None:
    n = len(cells)
    if by_project:
        from scipy.stats import t as student

        half = student.ppf(0.975, n - 1) * cells[:, 0].std(ddof=1) / np.sqrt(n)
        low, high = max(0.0, cells[:, 0].mean() - half), min(1.0, cells[:, 0].mean() + half)
    else:
        low, high = wilson(int(cells[:, 0].sum()), n)
    mean = cells.mean(axis=0)
    cover = f"{mean[0]:.0%} ({low:.0%} to {high:.0%})"
    print(f"{start}{cover:>22}{mean[1]:7.0%}" + "".join(f"{each:10.3f}" for each in mean[2:]))


def table_of_advice(projects: list[Project], n_checks: int) -> None:
    print(f"\n2  Advice from {n_checks} random checks: stop where 100 more are hardly worth a point, 500 hardly three")
    stops, given_up, next_hundred, never = [], [], [], 0
    for seed, project in enumerate(projects):
        told_to = [n for n in sorted(project.points) if told(project, n, n_checks, seed).advice == "stop"]
        if not told_to:
            never += 1
            continue
        stop = told_to[0]
        stops.append(stop)
        given_up.append(project.accuracy[stop + 500] - project.accuracy[stop])
        next_hundred.append(project.accuracy[stop + 100] - project.accuracy[stop])
    if not stops:
        print(f"   No project was told to stop before {max(projects[0].points)} answers.")
    else:
        at = round(float(np.median(stops)) / STEP) * STEP
        fixed = [project.accuracy[at + 500] - project.accuracy[at] for project in projects]
        print(
            f"   {len(stops)} of {len(projects)} projects are told to stop, at {min(stops)} to {max(stops)} answers"
            f" (median {np.median(stops):.0f}); {never} never before {max(projects[0].points)}.\n"
            f"   Given up against 500 more: {_points(given_up)}; against 100 more: {_points(next_hundred)}.\n"
            f"   All stopped at {at} answers instead: {_points(fixed)} against 500 more."
        )
    going = [
        (project.accuracy[n + 100] - project.accuracy[n], told(project, n, n_checks, seed).advice)
        for seed, project in enumerate(projects)
        for n in project.points
    ]
    for advice in ("go_on", "open", "stop"):
        gains = [gain for gain, said in going if said == advice]
        share = f"{len(gains) / len(going):4.0%} of all times"
        print(f"   {advice:6} {share}" + (f": the next 100 were worth {_points(gains)}" if gains else ""))


def table_of_gains(projects: list[Project]) -> None:
    print(f"\n3  What choosing gains, measured on {max(CHECKS)} random checks: points, and the 95 % interval")
    for n in GAIN_AT:
        both = [(found, truth) for project in projects for at, found, truth in project.gains if at == n and found]
        held = [found.low <= truth <= found.high for found, truth in both]
        low, high = wilson(sum(held), len(held))
        means = [100 * np.mean([getattr(found, name) for found, _ in both]) for name in ("difference", "low", "high")]
        print(
            f"   {n} answers each: told {means[0]:+.1f} ({means[1]:+.1f} to {means[2]:+.1f}), in truth"
            f" {100 * np.mean([truth for _, truth in both]):+.1f}; the interval holds it in {np.mean(held):.0%}"
            f" ({low:.0%} to {high:.0%}) of {len(held)} projects"
        )


def _points(rates: list[float]) -> str:
    return f"{100 * np.mean(rates):.1f} points on average, {100 * max(rates):.1f} at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--acquisition", default="margin,random_sampling", help="which function leads; comma between")
    parser.add_argument("--images", type=Path, help="a zip of class folders; by default the digits")
    parser.add_argument("--sample", type=int, default=5000, help="so many of the images, a fifth of them to test on")
    parser.add_argument("--minutes", type=float, default=5.0, help="for the self-supervised encoder, once")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "winnow-acquisition")
    asked = parser.parse_args()
    source: Callable[[int], Any] = digits
    if asked.images:
        source = photographs(asked.images, asked.cache, asked.minutes, asked.sample)
    points_at = list(range(ADVISED_FROM, max(AT) + 1, 2 * STEP))
    for name in asked.acquisition.split(","):
        projects = []
        for seed in range(asked.seeds):
            projects.append(live(set_aside(source(seed), seed), name, seed, points_at))
            print(f"{name}: seed {seed} done", file=sys.stderr, flush=True)
        print(f"\n{'Photographs' if asked.images else 'Digits'}, questions led by {name}")
        for n_checks in CHECKS:
            table_of_bands(projects, n_checks)
            table_of_advice(projects, n_checks)
        table_of_gains(projects)


if __name__ == "__main__":
    main()
