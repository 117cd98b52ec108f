"""Does the gate keep its promise? Many simulated projects, each watched by somebody who stops when a rule says yes.

    python benchmarks/gate.py [--projects 1000] [--target 0.99] [--delta 0.05] [--processes 2]

A project has a pool of 2,000 to 20,000 images and a random sample of it whose answers come in one after another, up to
a limit of 500 to 4,000. Its model is made anew after every tenth answer: how right it is drifts, which images it is
unsure about changes. Projects differ in accuracy, in how well confidence tells right from wrong (from not at all to
well), in how overconfident it is, in how many of the images belong to a rare class on which the model is worse and as
sure as ever, and in how close to the target their confident part is: most are made to lie just below it, where a
promise is broken most easily.

Rules:

    looks       planned looks with their own levels (ml_worker.gate), one threshold for all classes
    classes     the same with a threshold for each class
    rechecked   after every answer the usual lower bound (Clopper-Pearson at 1 - delta) for each region; the widest
                region that passes, as soon as one does
    cut         every prediction with a confidence of at least 0.95, after the first 50 answers

broken: the share of the projects in which what a rule accepted was, in truth, less right than the target at any time,
with its 95 % interval (Clopper-Pearson); delta is promised. certified: projects in which anything was accepted;
accepted: the share of the pool that was, mean over all projects.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.stats import beta

from ml_worker import gate

REFIT_EVERY = 10
N_CLASSES = 6


@dataclass(frozen=True, eq=False)
class Seen:
    """A model and what there is to judge it by. probs: float32 (N, C); audited: int64 (n,) rows in the order they were
    answered; the others may be accepted."""

    probs: np.ndarray
    truth: np.ndarray
    audited: np.ndarray

    @property
    def rest(self) -> np.ndarray:
        is_rest = np.ones(len(self.truth), bool)
        is_rest[self.audited] = False
        return np.flatnonzero(is_rest)


class Simulated:
    """A pool and a model that is retrained again and again."""

    def __init__(self, seed: int, target: float) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.n = int(np.exp(rng.uniform(np.log(2000), np.log(20000))))
        self.limit = int(rng.choice([500, 1000, 2000, 4000]))
        # Class shares from even to steep; the last class may be one the model knows badly.
        shares = np.sort(rng.dirichlet(np.full(N_CLASSES, rng.choice([0.5, 2.0, 20.0]))))[::-1]
        self.truth = rng.choice(N_CLASSES, self.n, p=shares)
        self.sample = rng.permutation(self.n)[: min(self.limit, self.n // 2)]
        self.difficulty = rng.random(self.n)
        # Error of the confident half: most projects just miss the target.
        self.error = (1 - target) * (rng.uniform(1.0, 1.6) if rng.random() < 0.7 else rng.uniform(0.1, 4.0))
        self.unsure_error = self.error + rng.choice([0.0, 0.05, 0.3]) * rng.random()
        self.hidden = rng.choice([0.0, 0.0, 0.3])  # more errors on the rarest class, which confidence does not show
        self.tells = rng.choice([0.0, 0.5, 0.95])  # how much of confidence is about difficulty
        self.overconfidence = rng.choice([1.0, 3.0, 10.0])

    def model(self) -> np.ndarray:
        """Probabilities float32 (N, C) of the model after one more refit."""
        rng = self.rng
        drift = np.exp(0.2 * rng.standard_normal())
        error = np.where(self.difficulty < 0.5, self.error, self.error + self.unsure_error * self.difficulty)
        error = error * drift + self.hidden * (self.truth == N_CLASSES - 1)
        wrong = rng.random(self.n) < np.minimum(error, 1.0)
        guesses = np.where(wrong, (self.truth + rng.integers(1, N_CLASSES, self.n)) % N_CLASSES, self.truth)
        doubt = self.tells * self.difficulty + (1 - self.tells) * rng.random(self.n)
        confidence = 1.0 - doubt ** (1.0 + self.overconfidence) * (1 - 1 / N_CLASSES) * 0.9
        probs = np.repeat(((1 - confidence) / (N_CLASSES - 1))[:, None], N_CLASSES, axis=1)
        probs[np.arange(self.n), guesses] = confidence
        return probs.astype(np.float32)


def precision(seen: Seen, accepted: np.ndarray) -> float:
    """Of what was accepted, the share that is right."""
    return float((seen.probs[accepted].argmax(axis=1) == seen.truth[accepted]).mean())


def by_looks(seen: Seen, delta: float, target: float) -> np.ndarray:
    confidence, rest, audited = seen.probs.max(axis=1), seen.rest, seen.audited
    right = seen.probs[audited].argmax(axis=1) == seen.truth[audited]
    given = gate.certify(confidence[rest], confidence[audited], right, target, delta)
    return rest[confidence[rest] >= given.threshold] if given else rest[:0]


def by_class(seen: Seen, delta: float, target: float) -> np.ndarray:
    rest, audited = seen.rest, seen.audited
    found = gate.certify_classes(seen.probs[rest], seen.probs[audited], seen.truth[audited], target, delta)
    thresholds = np.array([given.threshold if given else np.inf for given in found])
    return rest[seen.probs[rest].max(axis=1) >= thresholds[seen.probs[rest].argmax(axis=1)]]


def by_rechecking(seen: Seen, n_before: int, delta: float, target: float) -> np.ndarray:
    """What is accepted after the first of the answers behind n_before that lets anything pass; empty if none does."""
    confidence, rest, audited = seen.probs.max(axis=1), seen.rest, seen.audited
    right = seen.probs[audited].argmax(axis=1) == seen.truth[audited]
    thresholds = np.quantile(confidence[rest], [1 - share for share in gate.LADDER], method="lower")
    inside = confidence[audited] >= thresholds[:, None]
    n, k = inside.cumsum(axis=1)[:, n_before:], (inside & right).cumsum(axis=1)[:, n_before:]
    bounds = np.where(k > 0, beta.ppf(delta, np.maximum(k, 1), n - k + 1), 0.0)
    answers = np.flatnonzero((bounds >= target).any(axis=0))
    if not len(answers):
        return rest[:0]
    widest = np.flatnonzero(bounds[:, answers[0]] >= target)[-1]
    return rest[confidence[rest] >= thresholds[widest]]


def by_cut(seen: Seen) -> np.ndarray:
    rest = seen.rest
    return rest[seen.probs[rest].max(axis=1) >= 0.95]


def project(seed: int, target: float, delta: float) -> dict[str, tuple[bool, float]]:
    """By rule: whether what it accepted was ever less right than the target, and the largest share it accepted."""
    simulated = Simulated(seed, target)
    outcome = dict.fromkeys(("looks", "classes", "rechecked", "cut"), (False, 0.0))
    taken, recheck_over = 0, False

    def note(name: str, seen: Seen, accepted: np.ndarray) -> None:
        if len(accepted):
            broken, share = outcome[name]
            outcome[name] = (
                broken or precision(seen, accepted) < target,
                max(share, len(accepted) / simulated.n),
            )

    for before in range(0, len(simulated.sample), REFIT_EVERY):
        n_answers = min(before + REFIT_EVERY, len(simulated.sample))
        seen = Seen(simulated.model(), simulated.truth, simulated.sample[:n_answers])
        if n_answers == 50:
            note("cut", seen, by_cut(seen))
        if look := gate.look_due(n_answers, taken, target, delta):
            taken = look.number
            note("looks", seen, by_looks(seen, look.delta, target))
            note("classes", seen, by_class(seen, look.delta, target))
        if not recheck_over and n_answers >= gate.audits_needed(target, delta):
            accepted = by_rechecking(seen, before, delta, target)
            note("rechecked", seen, accepted)
            recheck_over = len(accepted) > 0  # nobody looks further once they have what they wanted
    return outcome


def interval(k: int, n: int) -> tuple[float, float]:
    """95 %, Clopper-Pearson."""
    return gate.lower_bound(k, n, 0.025), 1.0 - gate.lower_bound(n - k, n, 0.025)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    one = partial(project, target=asked.target, delta=asked.delta)
    with ProcessPoolExecutor(asked.processes) as pool:
        outcomes = list(pool.map(one, range(asked.projects), chunksize=10))
    print(f"{asked.projects} projects; promised: {asked.target:.0%} right, with {1 - asked.delta:.0%} confidence\n")
    print(f"{'rule':12}{'broken':>10}{'interval':>18}{'certified':>12}{'accepted':>11}")
    for name in outcomes[0]:
        broken = sum(outcome[name][0] for outcome in outcomes)
        shares = [outcome[name][1] for outcome in outcomes]
        low, high = interval(broken, asked.projects)
        print(
            f"{name:12}{broken / asked.projects:>10.1%}{f'{low:.1%} to {high:.1%}':>18}"
            f"{np.mean([share > 0 for share in shares]):>12.0%}{np.mean(shares):>11.0%}"
        )


if __name__ == "__main__":
    main()
