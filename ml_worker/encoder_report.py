"""Which encoder suits a project, judged by the answers given so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ml_worker.pool import Floats, Rows

Mask = NDArray[np.bool_]

FOLDS, NEIGHBOURS = 5, 5
FEWEST = 10  # labels below which nothing can be said
_DRAWS = 2000
_Z = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """A rate and its 95 % Wilson interval, all in 0..1."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One encoder: out-of-fold accuracy of its nearest neighbours and of a straight boundary on it."""

    name: str
    knn: Accuracy
    probe: Accuracy

    @property
    def score(self) -> float:
        return (self.knn.rate + self.probe.rate) / 2


@dataclass(frozen=True)
class Report:
    """Encoders, the best first; the recommended one, "" where none can be told from others; why, in a sentence."""

    lines: tuple[Line, ...]
    recommended: str
    why: str


def rank(
    embeddings: Mapping[str, Floats], targets: Rows, *, seed: int, judged: Mask | None = None, what: str = "answers"
) -> Report:
    """Compares encoders on the same labelled items.

    embeddings: by encoder, float32 (L + M, D), D its own: the L labelled items, then any others, which only say where
    the middle of the pool is. targets: int64 (L,). judged: bool (L,), the items that count; the others only teach.
    None: all count. what: the word for those that count. The same five folds for all; every item is predicted by what
    the other folds taught. Encoders are ordered by the mean of the two accuracies, since the fast heads are of both
    kinds. One is recommended when its lead over every other is above 0 in 97.5 of 100 bootstrap draws of the items and
    one imagined against it: a difference on the same items is known far better than two accuracies whose intervals are
    held side by side. Raises ValueError if the lengths differ or there is no encoder.
    """
    if not embeddings:
        raise ValueError("there is no encoder to compare; embed the project first")
    counting = np.ones(len(targets), bool) if judged is None else judged
    lengths = {name: len(given) for name, given in embeddings.items()}
    if len(set(lengths.values())) > 1 or min(lengths.values()) < len(targets) or len(counting) != len(targets):
        raise ValueError(f"these are not the same items: {lengths | {'targets': len(targets)}}")
    n, n_classes = int(counting.sum()), len(np.unique(targets))
    if n < FEWEST or n_classes < 2:
        nothing = Accuracy(0.0, 0.0, 1.0)
        lines = tuple(Line(name, nothing, nothing) for name in embeddings)
        return Report(lines, "", f"Cannot tell yet: {n} {what} in {n_classes} classes; {FEWEST} in two are needed.")
    folds = _folds(targets, np.random.default_rng(seed))
    right = {name: _right(given, targets, folds)[:, counting] for name, given in embeddings.items()}
    unsorted = [Line(name, *(accuracy(int(hits.sum()), len(hits)) for hits in pair)) for name, pair in right.items()]
    lines = tuple(sorted(unsorted, key=lambda line: -line.score))
    return _judged(lines, right, f"{n:,} {what}", seed)


def _judged(lines: tuple[Line, ...], right: dict[str, np.ndarray], what: str, seed: int) -> Report:
    best = lines[0]
    if len(lines) == 1:
        return Report(lines, "", f"Only {best.name} took part: right on {_percent(best.score)} of {what}.")
    n = right[best.name].shape[1]
    drawn = np.random.default_rng(seed).integers(n + 1, size=(_DRAWS, n + 1))
    for other in lines[1:]:
        # One item more, on which the other wins: where few items differ, and all in one direction, no draw of them
        # holds what may yet come, and 4 of 36 would have been proof.
        lead = np.append((right[best.name] - right[other.name]).mean(axis=0), -1.0)
        low, high = np.quantile(lead[drawn].mean(axis=1), [0.025, 0.975])
        if low <= 0:
            ahead = best.score - other.score
            found = f"leads {other.name} by {_percent(ahead)}" if ahead >= 0.005 else f"is level with {other.name}"
            return Report(
                lines,
                "",
                f"Cannot tell yet: after {what} {best.name} {found}, and a lead from"
                f" {_percent(low)} to {_percent(high)} fits.",
            )
    return Report(
        lines,
        best.name,
        f"{best.name} is right on {_percent(best.score)} of {what} it had not seen, {lines[1].name}, the next,"
        f" on {_percent(lines[1].score)}, the mean of both ways.",
    )


def _folds(targets: Rows, rng: np.random.Generator) -> Rows:
    """A fold for every item, int64 (L,): each class dealt out in turn, so that none is missing where it can be had."""
    order = rng.permutation(len(targets))
    folds = np.zeros(len(targets), np.int64)
    folds[order[np.argsort(targets[order], kind="stable")]] = np.arange(len(targets)) % FOLDS
    return folds


def _right(embeddings: Floats, targets: Rows, folds: Rows) -> np.ndarray:
    """float64 (2, L), 1 where the neighbours, then where the boundary, named an item's class without its answer.

    The first L embeddings are those of the targets.
    """
    right = np.zeros((2, len(targets)))
    # A pool item is brought to distance 1 from the mean, so that one penalty means the same to every encoder.
    points = np.asarray(embeddings, np.float64) - embeddings.mean(axis=0)
    points /= max(float(np.sqrt(np.square(points).sum(axis=1).mean())), 1e-12)
    for fold in range(FOLDS):
        taught, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(np.unique(targets[taught])) < 2:
            right[:, held] = targets[held] == targets[taught[0]]
            continue
        knn = KNeighborsClassifier(min(NEIGHBOURS, len(taught)), weights="distance")
        for row, model in enumerate((knn, LogisticRegression(C=10.0, max_iter=500))):
            right[row, held] = model.fit(points[taught], targets[taught]).predict(points[held]) == targets[held]
    return right


def accuracy(hits: int, n: int) -> Accuracy:
    """hits of n with its interval. Wilson 1927; sound for few items and for none or all right."""
    rate = hits / n
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    return Accuracy(rate, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"
