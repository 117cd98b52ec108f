"""The gate of a back-test: planned looks, certificates that end, as ml_worker/certifying.py has them for a project.

What would be accepted is only noted and goes on being asked, so that several gates are judged by the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_worker import gate
from ml_worker.calibrate import softmax
from ml_worker.fast_loop import Learned
from ml_worker.pool import Floats, Rows
from ml_worker.simulated_project import Mask, Scene


@dataclass(frozen=True)
class Terms:
    """What is promised: with this confidence at least `target` of what is accepted unseen is right; both within
    (0, 1). per_class: of each class by itself."""

    target: float
    confidence: float = 0.95
    per_class: bool = False


@dataclass(frozen=True)
class Passed:
    """What stands accepted unseen: its part of the images to label, 0..1, and of `checked` images of it whose truth is
    known `right`. Of a labelled source those are all; of past answers, the held out random checks in the region."""

    share: float
    right: int
    checked: int

    @property
    def precision(self) -> float | None:
        return self.right / self.checked if self.checked else None


@dataclass(frozen=True, eq=False)
class _Standing:
    """A certificate with the predictions it speaks of. rows, guesses: int64, what would be accepted, and as what;
    checks, check_guesses: every random check in the region, answered or not."""

    given: gate.Certificate
    rows: Rows
    guesses: Rows
    checks: Rows
    check_guesses: Rows
    tests: Rows
    test_guesses: Rows


class SimulatedGate:
    """One gate over one sitting."""

    def __init__(self, scene: Scene, terms: Terms) -> None:
        self.scene, self.terms = scene, terms
        self.looks: list[gate.Taken] = []
        self._standing: list[_Standing] = []

    def take_stock(self, learned: Learned | None, answered: Mask, leaks: int = 0) -> Passed:
        """After a model: hold the certificates against the answers, look where a look is due; what stands then.

        answered: bool (N,). leaks: how often the random checks decided between two models.
        """
        if learned is not None:
            self._standing = [each for each in self._standing if self._holds(each, answered)]
            self._look_if_due(learned, answered, leaks)
        return self._passed()

    def _holds(self, each: _Standing, answered: Mask) -> bool:
        seen = answered[each.checks]
        right = self.scene.targets[each.checks[seen]] == each.check_guesses[seen]
        given = each.given
        bound = gate.open_bound(int(right.sum()), len(right), given.rest, given.answered, given.delta)
        return bound >= given.target

    def _look_if_due(self, learned: Learned, answered: Mask, leaks: int) -> None:
        scene, terms = self.scene, self.terms
        n_answers, n_pool = int((answered & scene.is_audit).sum()), int(scene.is_pool.sum())
        given = int((answered & scene.is_pool).sum())
        if given == n_pool:
            return  # nothing is open
        look, is_due = gate.next_look(
            n_answers, self.looks, terms.target, terms.confidence, leaks=leaks, share_answered=given / n_pool
        )
        if look is None or not is_due:
            return
        spent = look.delta * 2**leaks
        self.looks.append(gate.Taken(look.number, n_answers, terms.target, terms.confidence, spent))
        # A later look that certifies anything takes the place of all before it.
        self._standing = self._certified(learned, answered, look.delta) or self._standing

    def _certified(self, learned: Learned, answered: Mask, delta: float) -> list[_Standing]:
        scene, target = self.scene, self.terms.target
        open_rows, checks = np.flatnonzero(scene.is_pool & ~answered), np.flatnonzero(scene.is_audit & answered)
        # Before any temperature: that was fitted on the very answers the certificate rests on.
        probs_open, probs_checks = softmax(learned.logits[open_rows]), softmax(learned.logits[checks])
        probs_answered = softmax(learned.logits[scene.is_pool & answered])
        targets = scene.targets[checks]
        if self.terms.per_class:
            found = gate.certify_classes(probs_open, probs_checks, targets, target, delta, probs_answered)
        else:
            found = [
                gate.certify(
                    _top(probs_open),
                    _top(probs_checks),
                    probs_checks.argmax(axis=1) == targets,
                    target,
                    delta,
                    _top(probs_answered),
                )
            ]
        return [self._frozen(each, learned, open_rows, probs_open) for each in found if each]

    def _frozen(self, given: gate.Certificate, learned: Learned, open_rows: Rows, probs_open: Floats) -> _Standing:
        parts = [_inside(given, open_rows, probs_open)]
        for mask in (self.scene.is_audit, self.scene.is_test):
            rows = np.flatnonzero(mask)
            parts.append(_inside(given, rows, softmax(learned.logits[rows])))
        return _Standing(given, *(array for part in parts for array in part))

    def _passed(self) -> Passed:
        """Of all certificates of the look that counts; their regions do not overlap."""
        accepted = right = checked = 0
        for each in self._standing:
            accepted += len(each.rows)
            if self.scene.knows_all:
                judged: tuple[Rows, Rows] = each.rows, each.guesses
            else:
                judged = each.tests, each.test_guesses
            right += int((self.scene.targets[judged[0]] == judged[1]).sum())
            checked += len(judged[0])
        return Passed(accepted / self.scene.size, right, checked)


def _top(probs: Floats) -> Floats:
    return np.asarray(probs.max(axis=1, initial=0.0))


def _inside(given: gate.Certificate, rows: Rows, probs: Floats) -> tuple[Rows, Rows]:
    """The rows of these in the region, and what is guessed of them."""
    guesses = probs.argmax(axis=1).astype(np.int64)
    inside: NDArray[np.bool_] = _top(probs) >= given.threshold
    if given.column is not None:
        inside = inside & (guesses == given.column)
    return rows[inside], guesses[inside]
