"""Does the gate keep its promise, and does it ever let anything through? Many simulated projects.

    python benchmarks/gate.py [--projects 1000] [--target 0.99] [--delta 0.05] [--processes 2]

A project has a pool of 2,000 to 20,000 images and somebody who answers 500 to 4,000 random checks at most. Its model
is made anew after every tenth answer: how right it is drifts, which images it is unsure about changes. Projects differ
in accuracy, in how well confidence tells right from wrong (from not at all to well), in how overconfident it is, in
how steep the shares of the classes are, and in how many of the images belong to a rare class on which the model is
worse and as sure as ever. There are two kinds, as many of each:

    near        the confident part lies just below the target in most projects, where a promise is broken most easily
                and nothing should be let through
    good        the confident half errs 2 to 30 % as often as the target allows, and confidence tells something

Rules:

    looks       planned looks at the audit sample (ml_worker.gate), all of the error theirs, one threshold
    classes     the same with a threshold for each class
    rounds      what the product does: looks with a quarter of the error, and beside them certification rounds
                (ml_worker.rounds) with the rest. Rounds begin after the first 100 audit answers, in the region
                proposed; another follows whenever one fails, for the answers that are left; ends at the first
                certificate
    adversary   rounds of somebody who knows every true label and wants the promise broken: each of 12 in a row is
                about the most confident images down to where their precision has just fallen below the target, and
                during it up to 30 % of the region, right ones alone, are answered otherwise; ends at the first
                certificate
    rechecked   after every audit answer the usual lower bound (Clopper-Pearson at 1 - delta) for each region; the
                widest region that passes, as soon as one does
    cut         every prediction with a confidence of at least 0.95, after the first 50 answers

broken: the share of the projects in which what a rule accepted was, in truth, less right than the target at any time,
with its 95 % interval (Clopper-Pearson); delta is promised. certified: projects in which anything was accepted;
accepted: the share of the pool that was, mean over all projects; answers: those given up to there, audit sample and
rounds, for each image accepted, over all projects. possible: the share of the pool in the widest of the regions
(ml_worker.gate.LADDER) that in truth meet the target, mean over all projects.
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

from ml_worker import gate, rounds

REFIT_EVERY = 10
N_CLASSES = 6
KINDS = ("near", "good")
# Audit answers before the first round, rounds of the adversary, and how much of a region that one has answered.
BEFORE_ROUNDS, ADVERSE_ROUNDS, PICKED = 100, 12, 0.3


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

    def __init__(self, seed: int, target: float, kind: str) -> None:
        self.rng = rng = np.random.default_rng([seed, KINDS.index(kind)])
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
        if kind == "good":
            self.error = (1 - target) * rng.uniform(0.02, 0.3)
            self.unsure_error = self.error + rng.choice([0.05, 0.3, 0.6]) * rng.random()
            self.hidden, self.tells = 0.0, rng.choice([0.9, 0.97, 1.0])  # the confident half is the easy one
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


@dataclass(frozen=True)
class Outcome:
    """What came of a rule. broken: whether anything it accepted was less right than the target; share: the largest
    part of the pool it accepted; answers: given up to its last acceptance, or up to the end."""

    broken: bool = False
    share: float = 0.0
    answers: int = 0


def run_round(
    seen: Seen,
    rows: np.ndarray,
    stages: tuple[rounds.Stage, ...],
    target: float,
    rng: np.random.Generator,
    answers_left: int,
    picked: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A round over these rows: what it lets through, empty where nothing, and the rows it checked.

    picked: the part of the region of which right ones are answered otherwise before the first stage is reached.
    """
    right = seen.probs[rows].argmax(axis=1) == seen.truth[rows]
    draw = rng.permutation(len(rows))
    drawn, others = draw[: stages[-1].at], draw[stages[-1].at :]
    is_open = np.ones(len(rows), bool)
    is_open[others[right[others]][: int(picked * len(rows))]] = False
    said = np.full(len(drawn), -1, np.int8)
    # No stage allows for more errors than the last: at the first beyond them nobody is asked on.
    too_many = np.flatnonzero(~right[drawn])[stages[-1].errors + 1 :]
    for stage in stages:
        upto = min(stage.at, answers_left, int(too_many[0]) + 1 if len(too_many) else stage.at)
        said[:upto] = right[drawn[:upto]]
        standing = rounds.standing(stages, said, len(rows), int(is_open[others].sum()), target)
        if standing.is_met:
            is_open[drawn[: stage.at]] = False
            return rows[is_open], rows[drawn[: stage.at]]
        if standing.is_lost or upto < stage.at:
            break
    answered = said >= 0
    return rows[:0], rows[drawn[answered]]


def by_rounds(simulated: Simulated, target: float, delta: float) -> Outcome:
    """Rounds, and looks at the audit answers that came before them."""
    sample = simulated.sample[: max(BEFORE_ROUNDS, simulated.n // 20)]
    given = np.ones(simulated.n, bool)  # what may be asked in a round
    given[sample] = False
    n_audits, n_checks, taken = BEFORE_ROUNDS, 0, 0
    spent: list[float] = []
    evidence: list[rounds.Evidence] = []
    while True:
        seen = Seen(simulated.model(), simulated.truth, sample[:n_audits])
        confidence = seen.probs.max(axis=1)
        if look := gate.look_due(n_audits, taken, target, delta * gate.LOOKS):
            taken = look.number
            if len(accepted := by_looks(seen, look.delta, target)):
                broken = precision(seen, accepted) < target
                return Outcome(broken, len(accepted) / simulated.n, n_audits + n_checks)
        audited = rounds.Evidence(
            rounds.places_of(confidence[seen.audited], confidence),
            seen.probs[seen.audited].argmax(axis=1) == seen.truth[seen.audited],
        )
        part = rounds.error_for(spent, 1.0 - delta)
        region = rounds.propose(confidence, given, [audited, *evidence], target, part) if part else None
        left = simulated.limit - n_audits - n_checks
        if region is None or region.stages[0].at > left:
            if n_audits == len(sample) or left <= 0:
                return Outcome(answers=n_audits + n_checks)
            n_audits = min(n_audits + 5 * REFIT_EVERY, len(sample), n_audits + left)
            continue
        spent.append(part)
        accepted, checked = run_round(seen, region.rows, region.stages, target, simulated.rng, left)
        n_checks += len(checked)
        if len(accepted):
            return Outcome(precision(seen, accepted) < target, len(accepted) / simulated.n, n_audits + n_checks)
        given[checked] = False
        right = seen.probs[checked].argmax(axis=1) == seen.truth[checked]
        evidence.append(rounds.Evidence(rounds.places_of(confidence[checked], confidence), right, region.share))


def by_adversary(simulated: Simulated, target: float, delta: float) -> Outcome:
    """Round after round where the precision has just fallen below the target."""
    given, n_checks = np.ones(simulated.n, bool), 0
    spent: list[float] = []
    for _ in range(ADVERSE_ROUNDS):
        seen = Seen(simulated.model(), simulated.truth, np.zeros(0, np.int64))
        rows = np.flatnonzero(given)
        rows = rows[np.argsort(-seen.probs[rows].max(axis=1), kind="stable")]
        wrong = np.cumsum(seen.probs[rows].argmax(axis=1) != seen.truth[rows])
        below = np.flatnonzero(wrong > (1 - target) * np.arange(1, len(rows) + 1))
        if not len(below):
            break
        # The largest of the regions that miss it by the least.
        size = int(below[np.argmin(wrong[below] / (below + 1) + (below < len(rows) // 4))]) + 1
        part = rounds.error_for(spent, 1.0 - delta)
        stages = rounds.plan(size, target, part) if part else ()
        if not stages:
            continue
        spent.append(part)
        picked = float(simulated.rng.choice([0.0, PICKED]))
        accepted, checked = run_round(seen, rows[:size], stages, target, simulated.rng, size, picked)
        n_checks += len(checked)
        if len(accepted):
            return Outcome(precision(seen, accepted) < target, len(accepted) / simulated.n, n_checks)
        given[checked] = False
    return Outcome(answers=n_checks)


def possible(simulated: Simulated, target: float) -> float:
    """The share of the pool in the widest region of the ladder that in truth meets the target."""
    probs = simulated.model()
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == simulated.truth
    inside = [confidence >= np.quantile(confidence, 1 - share, method="lower") for share in gate.LADDER]
    return max((float(each.mean()) for each in inside if right[each].mean() >= target), default=0.0)


def by_audits(simulated: Simulated, target: float, delta: float) -> dict[str, Outcome]:
    """The rules that go by the audit sample alone."""
    outcome = dict.fromkeys(("looks", "classes", "rechecked", "cut"), Outcome(answers=len(simulated.sample)))
    taken, recheck_over = 0, False

    def note(name: str, seen: Seen, accepted: np.ndarray) -> None:
        if len(accepted):
            before = outcome[name]
            broken = before.broken or precision(seen, accepted) < target
            share = max(before.share, len(accepted) / simulated.n)
            outcome[name] = Outcome(broken, share, len(seen.audited))

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


def project(seed: int, kind: str, target: float, delta: float, only: str = "") -> tuple[dict[str, Outcome], float]:
    """What came of each rule, and the share of the pool that could be accepted."""
    simulated = Simulated(seed, target, kind)
    could = possible(simulated, target)
    others = {
        "rounds": by_rounds(simulated, target, delta),
        "adversary": by_adversary(simulated, target, delta),
    }
    audits = {} if only == "rounds" else by_audits(simulated, target, delta)
    order = ("looks", "classes", "rounds", "adversary", "rechecked", "cut")
    every = audits | others
    return {name: every[name] for name in order if name in every}, could


def interval(k: int, n: int) -> tuple[float, float]:
    """95 %, Clopper-Pearson."""
    return gate.lower_bound(k, n, 0.025), 1.0 - gate.lower_bound(n - k, n, 0.025)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["", "rounds"], default="", help="leave the other rules out")
    asked = parser.parse_args()
    print(
        f"{asked.projects} projects a kind; promised: {asked.target:.0%} right, with {1 - asked.delta:.0%} confidence"
    )
    for kind in KINDS:
        one = partial(project, kind=kind, target=asked.target, delta=asked.delta, only=asked.only)
        with ProcessPoolExecutor(asked.processes) as pool:
            done = list(pool.map(one, range(asked.projects), chunksize=10))
        show(kind, [outcomes for outcomes, _ in done], float(np.mean([could for _, could in done])))


def show(kind: str, outcomes: list[dict[str, Outcome]], could: float) -> None:
    n = len(outcomes)
    print(f"\n{kind}: possible {could:.0%}")
    print(f"{'rule':12}{'broken':>10}{'interval':>18}{'certified':>12}{'accepted':>11}{'answers an image':>18}")
    sizes = [Simulated(seed, 0.99, kind).n for seed in range(n)]
    for name in outcomes[0]:
        each = [outcome[name] for outcome in outcomes]
        broken = sum(one.broken for one in each)
        low, high = interval(broken, n)
        accepted = sum(one.share * size for one, size in zip(each, sizes, strict=True))
        cost = f"{sum(one.answers for one in each) / accepted:.2f}" if accepted else "-"
        certified = np.mean([one.share > 0 for one in each])
        print(
            f"{name:12}{broken / n:>10.1%}{f'{low:.1%} to {high:.1%}':>18}{certified:>12.0%}"
            f"{np.mean([one.share for one in each]):>11.1%}{cost:>18}",
            flush=True,
        )


if __name__ == "__main__":
    main()
