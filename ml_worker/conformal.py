"""Short lists that hold the right class as often as promised: split-conformal prediction sets.

Nothing is assumed of the model, only that the audit answers are a random sample of what the lists are made for, and
that the model and its scores do not depend on them. The promise is about images that belong to one of the classes.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ml_worker.pool import Floats, Rows

# In nine of ten cases. 0.95 needs 19 answers of each class instead of 9 and makes lists a quarter to a half longer.
PROMISE = 0.9

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShortLists:
    """highest: float64 (C,), the score up to which each class is listed. answers: int64 (C,), audit answers of each;
    own: bool (C,), whether they sufficed for a threshold of its own."""

    promise: float
    highest: Scores
    answers: Rows
    own: NDArray[np.bool_]

    def of(self, logits: Floats) -> NDArray[np.bool_]:
        """bool (N, C): which classes are listed for each row; none for an image unlike every class."""
        return np.asarray(scores(logits) <= self.highest)


@dataclass(frozen=True, eq=False)
class InTurn:
    """Each audit answer against the lists that the answers before it make; the first few find none and are left out.

    inside, own: bool (m,), whether its class was listed, and by a threshold of that class; sizes, targets: int64 (m,).
    """

    inside: NDArray[np.bool_]
    own: NDArray[np.bool_]
    sizes: Rows
    targets: Rows


def scores(logits: Floats) -> Scores:
    """How badly each class fits each row, float64 (N, C): minus the logarithm of its softmax.

    The same lists as by 1 - softmax (LAC: Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers"),
    because only the order counts; but a model that is sure of itself leaves 1 - softmax no digits to differ in. Before
    any temperature: that was fitted on the very answers the promise rests on.
    """
    wide = np.asarray(logits, np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(wide).sum(axis=1, keepdims=True)) - wide)


def place(n: int, promise: float) -> int:
    """Which of n scores, counted from 1 at the smallest, is the threshold: ceil((n + 1) * promise); n + 1 means none.

    In whole numbers: (n + 1) * 0.9 in floating point may end a hair above an integer and cost a place.
    """
    share = Fraction(promise).limit_denominator(10_000)
    return math.ceil((n + 1) * share)


def answers_needed(promise: float) -> int:
    """The fewest answers that make a threshold: ceil(1 / alpha) - 1, which is 9 for nine in ten."""
    return math.ceil(1 / (1 - Fraction(promise).limit_denominator(10_000))) - 1


def coverage_law(n: int, promise: float, level: float = 0.95) -> tuple[float, float]:
    """Between what rates a threshold from n answers really covers, in this share of all samples of n. n as needed.

    The promise holds on average over samples. One sample's coverage is drawn from Beta(k, n + 1 - k) where scores do
    not tie, k the `place`: with 100 answers, nine in ten means 84 % to 95 %. Source: Vovk 2012, "Conditional validity
    of inductive conformal predictors".
    """
    k = place(n, promise)
    if k > n:
        raise ValueError(f"{n} answers make no threshold for {promise}; wanted {answers_needed(promise)}")
    tail = (1 - level) / 2
    return float(beta.ppf(tail, k, n + 1 - k)), float(beta.ppf(1 - tail, k, n + 1 - k))


def fit(logits: Floats, targets: Rows, promise: float = PROMISE) -> ShortLists | None:
    """What the audit answers make of this promise; None where all of them together are too few.

    logits: (n, C) of audited items, before any temperature; targets: int64 (n,). Each class has a threshold from the
    answers that said it, so the promise holds for the images of every class (Mondrian, by the true class: Vovk,
    Lindsay, Nouretdinov and Gammerman 2003). A class with fewer than `answers_needed` has the threshold of all answers
    together, as the null cluster of Ding et al. 2023, "Class-conditional conformal prediction with many classes":
    for its images alone nothing is promised.
    """
    n, n_classes = logits.shape
    needed = answers_needed(promise)
    if n < needed:
        return None
    truth = scores(logits)[np.arange(n), targets]
    answers = np.bincount(targets, minlength=n_classes)
    highest = np.full(n_classes, _threshold(np.sort(truth), promise))
    own = answers >= needed
    for column in np.flatnonzero(own):
        highest[column] = _threshold(np.sort(truth[targets == column]), promise)
    return ShortLists(promise, highest, answers, own)


def _threshold(ascending: Scores, promise: float) -> float:
    return float(ascending[place(len(ascending), promise) - 1])


def in_turn(logits: Floats, targets: Rows, promise: float = PROMISE) -> InTurn:
    """How the promise was kept along the answers, in the order they are given in (the oldest first).

    Leaving each answer out in turn would show nothing: by arithmetic alone k of n are then inside, whatever the data.
    Against the answers before it, each is outside with a probability of at most 1 - promise and independently of the
    others (Vovk 2002, "On-line confidence machines are well-calibrated"), so that their number has a binomial
    interval, and it shows when later images are of another kind than the first.
    """
    n_classes, needed = logits.shape[1], answers_needed(promise)
    everyone: list[float] = []
    of_class: list[list[float]] = [[] for _ in range(n_classes)]
    highest, own = np.full(n_classes, np.nan), np.zeros(n_classes, bool)
    rows: list[tuple[bool, bool, int, int]] = []
    for row, column in zip(scores(logits), targets.tolist(), strict=True):
        if len(everyone) >= needed:
            listed = row <= highest
            rows.append((bool(listed[column]), bool(own[column]), int(listed.sum()), column))
        insort(everyone, float(row[column]))
        insort(of_class[column], float(row[column]))
        own[column] = len(of_class[column]) >= needed
        if len(everyone) >= needed:
            highest[~own] = everyone[place(len(everyone), promise) - 1]
        if own[column]:
            highest[column] = of_class[column][place(len(of_class[column]), promise) - 1]
    found = np.array(rows, np.int64).reshape(-1, 4)
    return InTurn(found[:, 0].astype(bool), found[:, 1].astype(bool), found[:, 2], found[:, 3])
