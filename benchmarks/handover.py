"""When the overview of the cold start should end: rules compared, over whole sittings with random checks.

    python benchmarks/handover.py                       # digits, twenty seeds: some five minutes
    python benchmarks/handover.py --images train.zip    # photographs, and --cache, as for benchmarks/acquisition.py

A fifth of the questions are random checks, as in a project; every answer counts. The pool, the test images, the checks
and the first questions are the same for every rule of a seed. Rules: never; after 20 or 80 training answers; `count`,
as soon as the model is right on no fewer checks than the clusters; `beats`, when it surely (95 %) is right on more;
`as built`, what a project does (ml_worker/handover.py). After the hand-over the --acquisition function leads; random
asks by lot throughout.

answers: until the mean accuracy is what random reaches with 200. mean: of the accuracies after each ten answers, and
its difference to the fixed 20 answers with its 95 % interval. handed: answers at the hand-over, median and range.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from acquisition import STEP, Drawn, digits, photographs
from scipy.stats import t as student

from annotator.algorithms import clean_parameters
from ml_worker.fast_loop import Answers, Learned, LoopSettings, NotEnoughLabels, learn, order, phase
from ml_worker.handover import BEATS, Phase, answers_at_least, by_clusters, surely_more

CHANCE, FIXED, BUILT = "random", "20 answers", "as built"
Rights = tuple[np.ndarray, np.ndarray]
Rule = Callable[[int, Rights], bool]
RULES: dict[str, Rule] = {
    "never": lambda answers, rights: False,
    FIXED: lambda answers, rights: True,
    "80 answers": lambda answers, rights: answers >= 80,
    "count": lambda answers, rights: rights[0].sum() >= rights[1].sum(),
    "beats": lambda answers, rights: _beats(*rights),
}


def _beats(model_right: np.ndarray, clusters_right: np.ndarray) -> bool:
    wins, losses = model_right & ~clusters_right, clusters_right & ~model_right
    return surely_more(int(wins.sum()), int(losses.sum())) >= BEATS


class Sittings:
    """All rules on one pool. What follows from the same answers is found once."""

    def __init__(self, given: Drawn, acquisition: str, seed: int) -> None:
        self.given, self.acquisition, self.seed = given, acquisition, seed
        rng = np.random.default_rng([seed, 3])
        self.audit = np.zeros(len(given.targets), bool)
        self.audit[rng.choice(given.rows, max(50, len(given.rows) // 20), replace=False)] = True
        self._asked: dict[Any, np.ndarray] = {}
        self._learned: dict[bytes, Learned | None] = {}

    def answers(self, answered: np.ndarray) -> Answers:
        rows = np.flatnonzero(answered)
        return Answers(rows, self.given.targets[rows])

    def ask(self, answered: np.ndarray, now: Phase | None, settings: LoopSettings, step: int) -> np.ndarray:
        leads = None if now is None else (now.is_overview, now.is_seeking)
        key = (answered.tobytes(), leads, settings.acquisition)
        if key not in self._asked:
            left = self.given.pool.indexed & ~answered
            entries = order(
                self.given.pool,
                self._learned.get(answered.tobytes()),
                np.flatnonzero(left & ~self.audit),
                np.flatnonzero(left & self.audit),
                np.flatnonzero(answered & ~self.audit),
                settings,
                np.random.default_rng([self.seed, step]),
                self.answers(answered & ~self.audit),
                now,
            )
            self._asked[key] = np.array([entry.row for entry in entries[:STEP]])
        return self._asked[key]

    def learn(self, answered: np.ndarray, settings: LoopSettings) -> Learned | None:
        key = answered.tobytes()
        if key not in self._learned:
            train, audit = self.answers(answered & ~self.audit), self.answers(answered & self.audit)
            try:
                self._learned[key] = learn(self.given.pool, train, audit, self.given.n_classes, settings)
            except NotEnoughLabels:
                self._learned[key] = None
        return self._learned[key]

    def run(self, rule: str, budget: int) -> tuple[list[float], int | None]:
        """Accuracy after each ten answers, and the answers at the hand-over; None where there was none."""
        settings = LoopSettings(
            "label_spreading",
            clean_parameters("head", "label_spreading", {}),
            "random_sampling" if rule == CHANCE else self.acquisition,
            queue_length=2 * STEP,
            n_classes=self.given.n_classes,
        )
        answered, now, found = np.zeros(len(self.given.targets), bool), None, []
        for step in range(budget // STEP):
            answered[self.ask(answered, now, settings, step)] = True
            learned = self.learn(answered, settings)
            now = self.follow(rule, answered, learned, now)
            found.append(0.0 if learned is None else self.given.accuracy(learned.probs))
        return found, None if now is None else now.since

    def follow(self, rule: str, answered: np.ndarray, learned: Learned | None, now: Phase | None) -> Phase | None:
        train, audit = self.answers(answered & ~self.audit), self.answers(answered & self.audit)
        n_classes = self.given.n_classes
        if rule in (CHANCE, BUILT):
            return phase(self.given.pool, learned, train, audit, n_classes, now)
        if now is not None and not now.is_overview:
            return now
        if learned is None or len(train.rows) < answers_at_least(n_classes):
            return Phase()
        said = by_clusters(self.given.pool.embeddings, train.rows, train.targets, audit.rows, n_classes)
        rights = learned.probs[audit.rows].argmax(axis=1) == audit.targets, said == audit.targets
        return Phase(since=int(answered.sum()) if RULES[rule](len(train.rows), rights) else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--acquisition", default="margin")
    parser.add_argument("--images", type=Path, help="a zip of class folders; by default the digits")
    parser.add_argument("--sample", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=5.0, help="for the self-supervised encoder, once")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "winnow-acquisition")
    asked = parser.parse_args()
    if asked.budget < 200 or asked.seeds < 2:
        parser.error("the table speaks of 200 answers, and of what differs between seeds: at least 200 and 2")
    source = photographs(asked.images, asked.cache, asked.minutes, asked.sample) if asked.images else digits
    names = (CHANCE, *RULES, BUILT)
    curves: dict[str, list[list[float]]] = {name: [] for name in names}
    handed: dict[str, list[int | None]] = {name: [] for name in names}
    for seed in range(asked.seeds):
        sittings = Sittings(source(seed), asked.acquisition, seed)
        for name in names:
            accuracies, since = sittings.run(name, asked.budget)
            curves[name].append(accuracies)
            handed[name].append(since)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    table({name: np.array(found) for name, found in curves.items()}, handed)


def table(curves: dict[str, np.ndarray], handed: dict[str, list[int | None]]) -> None:
    target = curves[CHANCE][:, 200 // STEP - 1].mean()
    seeds = len(curves[CHANCE])
    half = student.ppf(0.975, seeds - 1) / np.sqrt(seeds)
    print(f"{seeds} seeds; random reaches {target:.3f} with 200 answers")
    print(f"{'':12}{'answers':>8}{'at 50':>8}{'at 100':>8}{'at 200':>8}{'worst':>8}{'mean':>8}{'':18}  handed")
    for name, accuracy in curves.items():
        reached = np.flatnonzero(accuracy.mean(axis=0) >= target)
        at = [accuracy[:, n // STEP - 1] for n in (50, 100, 200)]
        gain = accuracy.mean(axis=1) - curves[FIXED].mean(axis=1)
        since = [each for each in handed[name] if each is not None and name != CHANCE]
        told = f"{np.median(since):.0f} ({min(since)}-{max(since)}), {len(since)} of {seeds}" if since else "-"
        print(
            f"{name:12}{STEP * (reached[0] + 1) if len(reached) else '>':>8}"
            + "".join(f"{each.mean():8.3f}" for each in (*at,))
            + f"{at[-1].min():8.3f}{accuracy.mean():8.4f}  {gain.mean():+.4f} ± {half * gain.std(ddof=1):.4f}  {told}"
        )


if __name__ == "__main__":
    main()
