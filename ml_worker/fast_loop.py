"""The fast loop: answers in, a scored pool and a new queue out, in seconds. Pure functions over arrays.

The worker's jobs and the back-test both run these functions, so that what a back-test shows is what a project
gets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ml_worker import acquisition, handover, heads
from ml_worker.calibrate import softmax, temperatures
from ml_worker.evaluate import accuracy_report
from ml_worker.handover import Phase
from ml_worker.pool import Floats, Pool, Rows

_REASONS = {
    "badge": "unsure",
    "bald": "disputed",
    "coreset": "unlike",
    "disagreement": "disputed",
    "entropy": "unsure",
    "least_confidence": "unsure",
    "probcover": "typical",
    "random_sampling": "random",
    "rare_class": "scarce",
    "typiclust": "typical",
}
_SEED_CHUNK = 20  # how many of a cold start's items are chosen to complement each other at first
_LOOK_AHEAD = 50
_AT_MOST = 50_000


class NotEnoughLabels(ValueError):
    """There are fewer than two labelled classes: nothing to tell apart yet."""


@dataclass(frozen=True)
class LoopSettings:
    """What drives the loop. head, acquisition: catalogue names; head_parameters: cleaned by the catalogue.

    cold_start: the acquisition function until the model knows more than the clusters do, see `handover.decide`;
    random_sampling does without a cold start.
    audit_share: part of the queue that is random audit items, 0..1, while there are any. n_classes: of the project,
    for a cold start that counts on as many clusters; by default as the model has, or 2.
    """

    head: str
    head_parameters: Mapping[str, Any]
    acquisition: str
    cold_start: str = "typiclust"
    queue_length: int = 200
    audit_share: float = 0.2
    seed: int = 0
    n_classes: int | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """Answered items: rows int64 (L,) of the pool and their class columns, targets int64 (L,).

    strangers: int64 (S,), other rows, answered "none of these"; only an acquisition function learns from them.
    """

    rows: Rows
    targets: Rows
    strangers: Rows = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.rows.shape != self.targets.shape:
            raise ValueError(f"{self.rows.shape} rows do not fit {self.targets.shape} targets")


@dataclass(frozen=True, eq=False)
class Learned:
    """A scored pool. logits: float32 (N, C). probs: float32 (N, C), calibrated when temperature is not None.

    class_temperatures: column -> temperature of the predicted classes that have their own; None where every item is
    meant to have the common one.

    audit: `evaluate.accuracy_report` over the audit answers, None without any. seconds: fit and score, and
    members where there are any. member_probs: float32 (E, N, C), what an ensemble says, for an acquisition
    function that asks for it.
    """

    probs: Floats
    logits: Floats
    temperature: float | None
    audit: dict[str, Any] | None
    seconds: dict[str, float]
    member_probs: Floats | None = None
    class_temperatures: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Entry:
    """One place in the queue: rank from 0, why it is there, and what the reason's sentence needs.

    reason_code: audit, typical, close_call or unsure (reason_data: classes [a, b] as columns, probs [p_a, p_b]),
    disputed, unlike, scarce (reason_data: class as column) or random.
    """

    row: int
    rank: int
    utility: float
    reason_code: str
    reason_data: dict[str, Any] = field(default_factory=dict)


def cold_start_answers(n_classes: int) -> int:
    """Training answers to collect by the cold-start order, at least, before the model's own doubt leads."""
    return handover.answers_at_least(n_classes)


def phase(
    pool: Pool,
    learned: Learned | None,
    train: Answers,
    audit: Answers,
    n_classes: int,
    previous: Phase | None = None,
) -> Phase:
    """Who leads the queue that `order` makes of these: the cold start, or the acquisition function; see `handover`.

    previous: what this gave for the queue before, None at first.
    """
    clusters_right = np.zeros(len(audit.rows), bool)
    if len(train.rows):
        said = handover.by_clusters(pool.embeddings, train.rows, train.targets, audit.rows, n_classes)
        clusters_right = said == audit.targets
    return handover.decide(
        previous,
        answers=len(train.rows) + len(train.strangers),
        met=len(np.unique(train.targets)),
        n_classes=n_classes,
        model_right=None if learned is None else learned.probs[audit.rows].argmax(axis=1) == audit.targets,
        clusters_right=clusters_right,
    )


def learn(pool: Pool, train: Answers, audit: Answers, n_classes: int, settings: LoopSettings) -> Learned:
    """Fit the head on the training answers and score every row; the audit answers measure and calibrate only.

    Raises NotEnoughLabels when fewer than two classes are labelled.
    """
    labelled_classes = len(np.unique(train.targets))
    if labelled_classes < 2:
        raise NotEnoughLabels(f"answers cover {labelled_classes} of {n_classes} classes; label at least 2")
    started = time.perf_counter()
    head = heads.load(settings.head)(n_classes, **settings.head_parameters)
    head.fit(pool, train.rows, train.targets, np.ones(len(train.rows), np.float32))
    fitted = time.perf_counter()
    logits: Floats = head.logits(pool)
    degrees = temperatures(logits[audit.rows], audit.targets)
    probs = degrees.probs(logits)
    report = accuracy_report(probs[audit.rows], audit.targets) if len(audit.rows) else None
    seconds = {"fit": fitted - started, "score": time.perf_counter() - fitted}
    members = None
    if _wants_members(settings.acquisition, train):
        started = time.perf_counter()
        members = _members(pool, train, n_classes, settings, degrees.common)
        seconds["members"] = time.perf_counter() - started
    return Learned(probs, logits, degrees.common, report, seconds, members, degrees.by_class)


def _wants_members(name: str, train: Answers) -> bool:
    return name in acquisition.NEED_MEMBERS and (name not in acquisition.NEED_STRANGERS or len(train.strangers) > 0)


def _members(pool: Pool, train: Answers, n_classes: int, settings: LoopSettings, degrees: float | None) -> Floats:
    """Probabilities float32 (E, N, C) of the same head, fitted once for each redrawing of the answers' weights.

    For a function that asks about strangers (E, N, C + 1): the last class is that of the strangers.
    """
    rows, targets = train.rows, train.targets
    if settings.acquisition in acquisition.NEED_STRANGERS:
        rows = np.concatenate([rows, train.strangers])
        targets = np.concatenate([targets, np.full(len(train.strangers), n_classes)])
        n_classes += 1
    probs = np.empty((heads.MEMBERS, len(pool), n_classes), np.float32)
    for member in range(heads.MEMBERS):
        head = heads.load(settings.head)(n_classes, **settings.head_parameters)
        head.fit(pool, rows, targets, heads.resampled(np.ones(len(rows), np.float32), seed=member))
        probs[member] = softmax(head.logits(pool), degrees)
    return probs


def order(
    pool: Pool,
    learned: Learned | None,
    candidates: Rows,
    audit_rows: Rows,
    train_rows: Rows,
    settings: LoopSettings,
    rng: np.random.Generator,
    train: Answers | None = None,
    phase: Phase | None = None,
) -> list[Entry]:
    """The queue, best first: at most queue_length entries, audit items strewn in at audit_share.

    candidates: open rows that are not audit items; audit_rows: open audit items; train_rows: rows already
    answered (skipped ones too). train: what was answered, for acquisition functions that ask for it. phase: who leads,
    as the function of this name has it; without it the cold start leads for `cold_start_answers`.
    """
    length = min(settings.queue_length, len(candidates) + len(audit_rows))
    places = _audit_places(length, len(candidates), len(audit_rows), settings.audit_share, rng)
    audits = [Entry(int(r), 0, 0.0, "audit") for r in rng.permutation(audit_rows)[: len(places)]]
    chosen = _chosen(pool, learned, candidates, train_rows, length - len(places), settings, rng, train, phase)
    audits.reverse()
    chosen.reverse()
    strewn = [audits.pop() if rank in places else chosen.pop() for rank in range(length)]
    return [Entry(e.row, rank, e.utility, e.reason_code, e.reason_data) for rank, e in enumerate(strewn)]


def _audit_places(length: int, others: int, audits: int, share: float, rng: np.random.Generator) -> set[int]:
    """Ranks that audit items take: one at a random place in each stretch of 1 / share, until they run out;
    more at the end when there is nothing else left to ask."""
    places: list[int] = []
    if share > 0:
        stretches = int(length * share) + 1
        drawn = ((np.arange(stretches) + rng.random(stretches)) / share).astype(int)
        places = [int(p) for p in dict.fromkeys(drawn) if p < length][:audits]
    missing = length - others - len(places)
    free = [p for p in range(length - 1, -1, -1) if p not in set(places)]
    return set(places) | set(free[: max(missing, 0)])


def _chosen(
    pool: Pool,
    learned: Learned | None,
    candidates: Rows,
    train_rows: Rows,
    budget: int,
    settings: LoopSettings,
    rng: np.random.Generator,
    train: Answers | None,
    phase: Phase | None = None,
) -> list[Entry]:
    """The entries the acquisition function asks for, best first; every fourth one the cold start's where it looks for
    classes without an answer."""
    if budget <= 0:
        return []
    columns = (settings.n_classes or 2) if learned is None else learned.probs.shape[1]
    if phase is None:
        phase = Phase(since=len(train_rows) if len(train_rows) >= cold_start_answers(columns) else None)
    is_cold = learned is None or phase.is_overview
    # Candidates arrive in any order; sorted, the result does not depend on it.
    rows = np.sort(candidates)
    sought: list[Entry] = []
    n_sought = round(handover.SEEKING * budget) if phase.is_seeking and not is_cold else 0
    if n_sought and settings.acquisition not in acquisition.STARTERS:
        opening = _function(settings, is_cold=True)
        sought = _asked_for(opening, pool, learned, rows, train_rows, n_sought, rng, train, columns)
        rows = np.setdiff1d(rows, [entry.row for entry in sought])
    name = _function(settings, is_cold)
    found = _asked_for(name, pool, learned, rows, train_rows, budget - len(sought), rng, train, columns)
    if not sought:
        return found
    for turn, entry in enumerate(sought, start=1):
        found.insert(round(turn / handover.SEEKING) - 1, entry)
    points = acquisition.Picked(pool.embeddings, np.asarray([entry.row for entry in found]))
    radius = acquisition.near_copy_radius(acquisition.Picked(pool.embeddings, rows))
    return [found[place] for place in _keep_apart(points[:], radius)]


def _asked_for(
    name: str,
    pool: Pool,
    learned: Learned | None,
    rows: Rows,
    train_rows: Rows,
    budget: int,
    rng: np.random.Generator,
    train: Answers | None,
    columns: int,
) -> list[Entry]:
    """What one function asks for of these rows, best first.

    Embeddings are read where they are looked at, and never all copied: a million of 384 take 1.5 GB. A function that
    looks at all of them again and again gets a random 50,000 where there are more.
    """
    if name in acquisition.SAMPLED and len(rows) > _AT_MOST:
        rows = np.sort(rng.choice(rows, max(_AT_MOST, budget), replace=False))
    asked = _asked(pool, learned, rows, train_rows, columns, train)
    ranked, utility = _rank_in_chunks(name, asked, budget, rng)
    apart = _keep_apart(asked.embeddings[ranked], acquisition.near_copy_radius(asked.embeddings))
    scarcest = acquisition.scarcest(asked.labeled_targets)
    return [
        Entry(int(rows[ranked[i]]), 0, float(utility[i]), *_reason(name, utility[i], asked.probs[ranked[i]], scarcest))
        for i in apart
    ]


def _function(settings: LoopSettings, is_cold: bool) -> str:
    """The acquisition function that leads now. One that needs a model that knows something never leads before."""
    # Random sampling is a yardstick only if it is random from the first answer.
    if not is_cold or settings.acquisition == "random_sampling":
        return settings.acquisition
    return settings.cold_start if settings.cold_start in acquisition.STARTERS else "typiclust"


def _asked(
    pool: Pool, learned: Learned | None, rows: Rows, train_rows: Rows, columns: int, train: Answers | None
) -> acquisition.Candidates:
    """These rows with what is known of them."""
    members = None if learned is None or learned.member_probs is None else learned.member_probs[:, rows]
    targets = np.full(len(pool), -1, np.int64)
    if train is not None:
        targets[train.rows] = train.targets
    return acquisition.Candidates(
        acquisition.Picked(pool.embeddings, rows),
        np.full((len(rows), columns), 1.0 / columns, np.float32) if learned is None else learned.probs[rows],
        np.asarray(pool.embeddings[train_rows]),
        members,
        labeled_targets=targets[train_rows],
        spacing=pool.distances[rows].mean(axis=1) if pool.distances.shape[1] else None,
    )


def _rank_in_chunks(
    name: str, asked: acquisition.Candidates, budget: int, rng: np.random.Generator
) -> tuple[Rows, Floats]:
    """A ranking whose head does not depend on how long the queue is.

    typiclust makes as many clusters as items are asked for: asked for a whole queue at once, its first items
    would be typical of tiny clusters and the person would meet one class many times. So it is asked for a
    few, then, with those taken as labelled, for twice as many, and so on.
    """
    rank = acquisition.load(name)
    if name != "typiclust":
        return rank(asked, budget, rng)
    embeddings, labeled = np.asarray(asked.embeddings), asked.labeled_embeddings
    left = np.arange(len(embeddings))
    rows: list[Rows] = []
    utilities: list[Floats] = []
    chunk, taken = _SEED_CHUNK, 0
    while taken < budget:
        known = np.concatenate([labeled, *(embeddings[r] for r in rows)])
        part, utility = rank(
            acquisition.Candidates(embeddings[left], asked.probs[left], known), min(chunk, budget - taken), rng
        )
        rows.append(left[part])
        utilities.append(utility)
        left = np.delete(left, part)
        taken, chunk = taken + len(part), chunk * 2
    return np.concatenate(rows), np.concatenate(utilities)


def _keep_apart(points: Floats, radius: float) -> list[int]:
    """Places of these ranked points (B, D), in order; one that nearly copies the one just before it waits a turn."""
    waiting = list(range(len(points)))
    placed: list[int] = []
    while waiting:
        pick = 0
        if placed:
            # Only so far ahead: a long run of copies is rare, and a queue of thousands must stay cheap.
            away = np.linalg.norm(points[waiting[:_LOOK_AHEAD]] - points[placed[-1]], axis=1) > radius
            pick = int(away.argmax())  # the first far enough; the first of all when none is
        placed.append(waiting.pop(pick))
    return placed


def _reason(name: str, utility: float, probs: Floats, scarcest: int | None) -> tuple[str, dict[str, Any]]:
    """Why this function asks about an item: the code, and what its sentence needs."""
    reason = _REASONS.get(name, "close_call")
    if reason == "disputed" and utility <= 0.0:  # what nobody disputes comes by its gap
        reason = "close_call"
    if reason == "scarce":
        return ("unlike", {}) if scarcest is None else (reason, {"class": scarcest})
    if reason not in ("close_call", "unsure"):
        return reason, {}
    best = np.argsort(-probs, kind="stable")[:2]
    return reason, {"classes": [int(c) for c in best], "probs": [round(float(probs[c]), 4) for c in best]}
