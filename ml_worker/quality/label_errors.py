"""Labels that may be wrong: confident learning over the labelled items alone.

Source: Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker import heads
from ml_worker.calibrate import softmax
from ml_worker.pool import Floats, Pool, Rows

FOLDS = 5
# Below so many labels a class is too small for folds, and its neighbours are asked instead.
LEAST = 5
RESAMPLES = 500

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Noise:
    """The share of labels that are wrong, with its 95 % interval, all 0..1."""

    rate: float
    low: float
    high: float


def out_of_sample(
    pool: Pool,
    rows: Rows,
    targets: Rows,
    n_classes: int,
    head: str,
    parameters: Mapping[str, Any],
    *,
    seed: int = 0,
    folds: int = FOLDS,
) -> Floats:
    """Probabilities float32 (L, C) of labelled rows int64 (L,), each from a head that never saw its label.

    One head for each of the folds, which share out every class evenly; it scores the whole pool, as heads do. Not
    calibrated: confident learning measures every class by its own confidence. Where a fold's rest is of one class,
    that class is certain.
    """
    fold_of = stratified(targets, folds, np.random.default_rng(seed))
    probs = np.zeros((len(rows), n_classes), np.float32)
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        kept = ~held_out
        if not kept.any():  # a single label: nothing is known about it
            probs[held_out] = 1.0 / n_classes
            continue
        learner = heads.load(head)(n_classes, **parameters)
        learner.fit(pool, rows[kept], targets[kept], np.ones(int(kept.sum()), np.float32))
        probs[held_out] = softmax(learner.logits(pool)[rows[held_out]])
    return probs


def stratified(targets: Rows, folds: int, rng: np.random.Generator) -> Rows:
    """The fold of each item, int64 (L,) in 0..folds - 1: every class is dealt out in turn, from where the last one
    ended, so that folds are level too."""
    order = rng.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    fold_of = np.empty(len(targets), np.int64)
    fold_of[order] = np.arange(len(targets)) % folds
    return fold_of


def thresholds(probs: Floats, targets: Rows) -> Floats:
    """How sure the model is of a class where it is given: the mean of its probability over its own labels, float64
    (C,). Above 1, so that nothing reaches it, for a class without labels."""
    n_classes = probs.shape[1]
    counts = np.bincount(targets, minlength=n_classes)
    own = probs[np.arange(len(targets)), targets].astype(np.float64)
    sums = np.bincount(targets, weights=own, minlength=n_classes)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), 2.0))


def confident_guesses(probs: Floats, targets: Rows) -> Rows:
    """The class each item confidently belongs to, int64 (L,): the likeliest of those that reach their threshold; -1
    where none does."""
    # A class all of whose labels are equally sure must reach its own mean, whatever the rounding.
    reached = probs >= thresholds(probs, targets) - 1e-6
    guesses = np.where(reached, probs, -1.0).argmax(axis=1)
    return np.asarray(np.where(reached.any(axis=1), guesses, -1), np.int64)


def joint(targets: Rows, guesses: Rows, n_classes: int) -> NDArray[np.float64]:
    """The estimated joint distribution of given and true classes, (C, C), rows given; sums to 1.

    Counts of confident guesses (equation 1), each row scaled to how often the class was given (equation 3). A class
    of which no label is confident of anything keeps its labels.
    """
    is_confident = guesses >= 0
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (targets[is_confident], guesses[is_confident]), 1.0)
    given = np.bincount(targets, minlength=n_classes).astype(np.float64)
    silent = (counts.sum(axis=1) == 0) & (given > 0)
    counts[silent, silent] = 1.0
    scaled = counts * (given / np.maximum(counts.sum(axis=1), 1.0))[:, None]
    return np.asarray(scaled / max(scaled.sum(), 1.0))


def noise_of(targets: Rows, guesses: Rows, n_classes: int, seed: int = 0) -> Noise:
    """What of the joint lies off its diagonal, with the 2.5 and 97.5 percentile over resampled items.

    The interval knows how few labels there are, not how good the model is: whatever it confuses for good counts as
    noise.
    """
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(targets), size=len(targets))
        rates.append(1.0 - np.trace(joint(targets[drawn], guesses[drawn], n_classes)))
    rate = 1.0 - float(np.trace(joint(targets, guesses, n_classes)))
    low, high = np.percentile(rates, [2.5, 97.5]).tolist()
    return Noise(max(rate, 0.0), min(max(low, 0.0), rate), max(high, rate))


def prune_by_noise_rate(probs: Floats, targets: Rows, shares: NDArray[np.float64]) -> Bools:
    """Whose label the joint (C, C) asks to be doubted, bool (L,): for each pair of classes, as many of those labelled
    i as it puts at j, the largest margins p_j - p_i first (section 3.3). Never one whose given class is likeliest."""
    n, n_classes = len(targets), probs.shape[1]
    doubted = np.zeros(n, bool)
    for given in np.unique(targets):
        members = np.flatnonzero(targets == given)
        for other in range(n_classes):
            wanted = round(n * shares[given, other])
            if other != given and wanted:
                margins = probs[members, other] - probs[members, given]
                doubted[members[np.argsort(-margins, kind="stable")[:wanted]]] = True
    return doubted & (probs.argmax(axis=1) != targets)


def doubt(probs: Floats, targets: Rows) -> Floats:
    """How little an item belongs to its class, float32 (L,) in 0..1; 1 = surest to be wrong.

    The mean of one minus self-confidence (the given class's probability) and of half of one minus the normalised
    margin (that probability minus the likeliest other's), the two scores of section 3.3. Each alone fails somewhere:
    on photographs that a head names half of rightly, the first n of n labels flipped to any class were right 0.43 by
    self-confidence, 0.35 by the margin and 0.41 by the mean; flipped to a look-alike, 0.16, 0.22 and 0.20.
    """
    own = probs[np.arange(len(targets)), targets]
    margin = own - _others(probs, targets).max(axis=1)
    return np.asarray((1.0 - own + (1.0 - margin) / 2.0) / 2.0, np.float32)


def likeliest_other(probs: Floats, targets: Rows) -> Rows:
    """The likeliest class beside the given one, int64 (L,)."""
    return np.asarray(_others(probs, targets).argmax(axis=1), np.int64)


def _others(probs: Floats, targets: Rows) -> Floats:
    others = np.array(probs, np.float32)
    others[np.arange(len(targets)), targets] = -1.0
    return others
