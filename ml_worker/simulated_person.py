"""Somebody who answers what the queue asks, then decides what is proposed, and what the models make of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ml_worker.backtest_plan import AS_IT_HAPPENED, RANDOM_CHECKS, SCREENFUL, Plan, Unit
from ml_worker.evaluate import wilson
from ml_worker.fast_loop import Answers, Entry, Learned, LoopSettings, NotEnoughLabels, learn, order, phase
from ml_worker.handover import Phase
from ml_worker.pool import Rows
from ml_worker.simulated_gate import Passed, SimulatedGate
from ml_worker.simulated_project import STRANGER, Mask, Scene

# Called with each point of a curve: the run it belongs to, and the part of the sitting that is done, 0..1.
Point = dict[str, Any]
Heard = Callable[[str, Point, float], None]


def runs(scene: Scene, plan: Plan, unit: Unit, heard: Heard) -> list[dict[str, Any]]:
    """The runs of one sitting: that of the fast loop, then one for each trainer, on the same answers."""
    sitting = _Sitting(scene, plan, unit)
    made = {name: _Run(scene, plan) for name in ("none", *plan.trainers)}
    due = {min(answers, sitting.most) for answers in plan.train_at or [plan.budget]}
    for seconds in sitting.turns():
        made["none"].add(sitting, sitting.learned, seconds)
        heard("none", made["none"].curve[-1], sitting.done)
        reached = {answers for answers in due if answers <= sitting.answered.sum()}
        due -= reached
        for name in plan.trainers if reached else ():
            started = time.perf_counter()
            network = sitting.train(name)
            made[name].add(sitting, network, time.perf_counter() - started)
            heard(name, made[name].curve[-1], sitting.done)
    return [
        {
            "acquisition": unit.acquisition,
            "head": unit.head,
            "trainer": name,
            "encoder": plan.encoder,
            "seed": unit.seed,
            "curve": run.curve,
            "gates": run.gates,
        }
        for name, run in made.items()
    ]


class _Run:
    """One curve, and what each gate would have let through beside it."""

    def __init__(self, scene: Scene, plan: Plan) -> None:
        self.curve: list[Point] = []
        self._gates = [SimulatedGate(scene, terms) for terms in plan.terms]
        self._passed: list[list[tuple[int, Passed]]] = [[] for _ in self._gates]
        self._networks = 0

    def add(self, sitting: _Sitting, learned: Learned | None, seconds: float) -> None:
        """The point where this model stands at these answers."""
        # The random checks decide of each network whether it takes the place of the head.
        self._networks += learned is not sitting.learned
        stands = [each.take_stock(learned, sitting.answered, self._networks) for each in self._gates]
        answers = int(sitting.answered.sum())
        for passed, now in zip(self._passed, stands, strict=True):
            passed.append((answers, now))
        self.curve.append(_point(sitting.scene, learned, sitting.answered, stands[0]) | {"seconds": seconds})

    @property
    def gates(self) -> list[dict[str, Any]]:
        return [
            {
                "target_precision": each.terms.target,
                "confidence": each.terms.confidence,
                "threshold_per_class": each.terms.per_class,
                "looks": len(each.looks),
                "curve": [
                    {
                        "labels": answers,
                        "auto_accepted": now.share,
                        "auto_accepted_precision": now.precision,
                        "right": now.right,
                        "checked": now.checked,
                    }
                    for answers, now in passed
                ],
            }
            for each, passed in zip(self._gates, self._passed, strict=True)
        ]


class _Sitting:
    """answered: bool (N,)."""

    def __init__(self, scene: Scene, plan: Plan, unit: Unit) -> None:
        self.scene, self.plan, self.unit = scene, plan, unit
        leads = "random_sampling" if unit.acquisition in (AS_IT_HAPPENED, RANDOM_CHECKS) else unit.acquisition
        self.settings = LoopSettings(
            unit.head,
            plan.head_parameters[unit.head],
            leads,
            cold_start=plan.cold_start,
            queue_length=plan.queue_length,
            audit_share=plan.audit_share,
            seed=unit.seed,
            n_classes=scene.n_classes,
        )
        self.answered = np.zeros(len(scene.targets), bool)
        self.learned: Learned | None = None
        self.phase: Phase | None = None
        self.most = int(((scene.is_pool | scene.is_audit) & scene.is_known).sum())
        self._rng = np.random.default_rng([unit.seed, 1])
        self._reviewed_class = 0

    def _open(self, mask: Mask) -> Rows:
        return np.flatnonzero(mask & ~self.answered & self.scene.is_known)

    @property
    def done(self) -> float:
        """The part of the budget that is spent; a review comes after it and is not counted."""
        return min(1.0, float(self.answered.sum()) / min(self.plan.budget, self.most))

    @property
    def train_answers(self) -> Answers:
        return self._answers(self.answered & self.scene.is_pool)

    @property
    def audit_answers(self) -> Answers:
        return self._answers(self.answered & self.scene.is_audit)

    def _answers(self, chosen: Mask) -> Answers:
        rows = np.flatnonzero(chosen)
        targets = self.scene.targets[rows]
        named = targets != STRANGER
        return Answers(rows[named], targets[named], strangers=rows[~named])

    def turns(self) -> Iterator[float]:
        """Batches of answers until the budget is spent, then screenfuls of the review; seconds each took, with the
        refit after it."""
        while self.answered.sum() < min(self.plan.budget, self.most):
            yield self._turn(self._asked)
        for _ in range(self.plan.review):
            if not len(self._proposed()):
                return
            yield self._turn(self._proposed)

    def _turn(self, choose: Callable[[], Rows]) -> float:
        started = time.perf_counter()
        self.answered[choose()] = True
        try:
            self.learned = learn(
                self.scene.pool, self.train_answers, self.audit_answers, self.scene.n_classes, self.settings
            )
        except NotEnoughLabels:
            self.learned = None
        self.phase = phase(
            self.scene.pool,
            self.learned,
            self.train_answers,
            self.audit_answers,
            self.scene.n_classes,
            self.phase,
        )
        return time.perf_counter() - started

    def _asked(self) -> Rows:
        """The head of the queue, a batch of it."""
        batch = min(self.plan.batch, self.plan.budget - int(self.answered.sum()))
        if self.unit.acquisition == AS_IT_HAPPENED:
            assert self.scene.order is not None
            return self.scene.order[~self.answered[self.scene.order]][:batch]
        if self.scene.knows_all:
            return _rows(self._queue(self._open(self.scene.is_pool), self.settings)[:batch])
        preferred = self._preferred(batch)
        strewn = self._queue(preferred, replace(self.settings, acquisition="random_sampling", queue_length=batch))
        checks = _rows([entry for entry in strewn[:batch] if entry.reason_code == "audit"])
        return np.concatenate([checks, preferred[: batch - len(checks)]])

    def _preferred(self, count: int) -> Rows:
        """Images that can be answered, as the function prefers them: the first in its order of the whole open pool.

        What is typical or unlike the rest depends on all images there are, also on those that nobody answered. So
        many are ranked as should hold the wanted ones twice over; where that is too few, what can be answered is
        ranked by itself for the others.
        """
        known, whole = self._open(self.scene.is_pool), np.flatnonzero(self.scene.is_pool & ~self.answered)
        length = min(len(whole), 2 * count * math.ceil(len(whole) / max(1, len(known))))
        alone = replace(self.settings, audit_share=0.0, queue_length=length)
        ranked = _rows(self._queue(whole, alone, with_checks=False))
        first = ranked[self.scene.is_known[ranked]][:count]
        others = np.setdiff1d(known, first)
        if len(first) == count or not len(others):
            return first
        return np.concatenate([first, _rows(self._queue(others, alone, with_checks=False))[: count - len(first)]])

    def _queue(self, candidates: Rows, settings: LoopSettings, with_checks: bool = True) -> list[Entry]:
        scene = self.scene
        return order(
            scene.pool,
            self.learned,
            candidates,
            self._open(scene.is_audit) if with_checks else np.zeros(0, np.int64),
            np.flatnonzero(self.answered & scene.is_pool),
            settings,
            self._rng,
            self.train_answers,
            self.phase,
        )

    def _proposed(self) -> Rows:
        """A screenful of the review page: proposals of one class, the most doubtful first; random checks are never
        proposed. The page stays with a class until nothing of it waits, then shows the first that has something."""
        if self.learned is None:
            return np.zeros(0, np.int64)
        rows = self._open(self.scene.is_pool)
        probs = self.learned.probs[rows]
        classes, confidence = probs.argmax(axis=1), probs.max(axis=1)
        surest = np.argsort(-confidence, kind="stable")
        waiting = surest[confidence[surest] >= self.plan.propose_above][: self.plan.proposals_at_most]
        if len(waiting) and self._reviewed_class not in classes[waiting]:
            self._reviewed_class = int(classes[waiting].min())
        shown = waiting[classes[waiting] == self._reviewed_class]
        return rows[shown[np.lexsort((shown, confidence[shown]))][:SCREENFUL]]

    def train(self, trainer: str) -> Learned | None:
        """A network that learnt from the answers so far, and what it says of every row; None while one class or none
        is labelled."""
        from ml_worker import simulated_training  # torch takes seconds to import, and most back-tests need none

        train, scene = self.train_answers, self.scene
        if len(np.unique(train.targets)) < 2:
            return None
        assert scene.images is not None
        return simulated_training.train(
            scene.images,
            np.flatnonzero(scene.is_pool | scene.is_audit),
            train,
            self.audit_answers,
            drawn_for_audit=np.flatnonzero(scene.is_audit),
            n_classes=scene.n_classes,
            trainer=trainer,
            trainer_parameters=self.plan.trainer_parameters,
            minutes=self.plan.minutes,
            seed=self.unit.seed,
        )


def _rows(entries: Sequence[Entry]) -> Rows:
    return np.asarray([entry.row for entry in entries], np.int64)


def _point(scene: Scene, learned: Learned | None, answered: Mask, passed: Passed) -> Point:
    """One point of a curve. `labels` counts every answer given, audit answers too; accuracies are None while there is
    no model, and that of the pseudo-labels also where the open images are not all known: of past answers only such
    are left as somebody chose to ask."""
    point: Point = {
        "labels": int(answered.sum()),
        "test_accuracy": None,
        "test_accuracy_low": None,
        "test_accuracy_high": None,
        "pseudo_label_accuracy": None,
        "auto_accepted": passed.share,
        "auto_accepted_precision": passed.precision,
    }
    if learned is None:
        return point
    right = learned.probs.argmax(axis=1) == scene.targets
    test = scene.is_test & (scene.targets != STRANGER)
    if test.any():
        low, high = wilson(int(right[test].sum()), int(test.sum()))
        point |= {
            "test_accuracy": float(right[test].mean()),
            "test_accuracy_low": low,
            "test_accuracy_high": high,
        }
    still_open = (scene.is_pool | scene.is_audit) & ~answered
    if scene.knows_all and still_open.any():
        point["pseudo_label_accuracy"] = float(right[still_open].mean())
    return point
