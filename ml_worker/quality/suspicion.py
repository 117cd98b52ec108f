"""From labelled items to doubts about their labels: every voice there is, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ml_worker.pool import Floats, Pool, Rows
from ml_worker.quality import label_errors
from ml_worker.quality.label_errors import LEAST, Bools, Noise
from ml_worker.quality.strangers import foreign

# How often the labels are shared out anew: a head that misses its only look-alike once doubts by accident.
SHARINGS = 3
NEIGHBOURS, AGREEING = 5, 4
_BLOCK = 512

Head = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Doubts:
    """What speaks against L labels.

    suspected: bool (L,). foreign: bool (L,), of which a suspected one seems to belong to no class. score: float32 (L,)
    in 0..1, 1 = surest to be wrong. instead: int64 (L,), the column that fits best beside the given one. support:
    float32 (L, 2), the probability of the given class and of that one. noise: None where no class is large enough.
    head: which of the heads was believed, empty for none.
    """

    suspected: Bools
    foreign: Bools
    score: Floats
    instead: Rows
    support: Floats
    noise: Noise | None
    head: str


def doubts(
    pool: Pool,
    rows: Rows,
    targets: Rows,
    n_classes: int,
    heads: Sequence[Head],
    *,
    strangers: Rows,
    early: Floats | None = None,
    sharings: int = SHARINGS,
    seed: int = 0,
) -> Doubts:
    """Doubts about labels: rows int64 (L,) and their columns targets int64 (L,) in 0..n_classes - 1.

    Confident learning over the classes with LEAST labels or more, by whichever head names held-out labels best;
    neighbours for smaller ones. strangers: int64 (S,), rows people called none of the classes; LEAST of them make a
    class of their own. sharings: how often folds are dealt out. early: float32 (L,) in 0..1, how little a network
    believed each label early on, NaN where none says; its word counts as much as the head's for the order, and not at
    all for who is suspected: it has seen the labels.
    """
    counts = np.bincount(targets, minlength=n_classes)
    is_large = counts[targets] >= LEAST
    found = _nobody(len(rows))
    if len(np.unique(targets[is_large])) > 1:
        found = _by_confidence(pool, rows, targets, is_large, n_classes, heads, strangers, sharings, seed)
    _ask_neighbours(found, pool, rows, targets, np.flatnonzero(~is_large & (counts[targets] > 1)))
    if early is not None:
        told = ~np.isnan(early)
        found.score[told] = (found.score[told] + early[told]) / 2.0
    return found


def nearest_labelled(pool: Pool, rows: Rows, of: Rows, k: int) -> Rows:
    """The k labelled rows nearest to each of `of`, int64 (len(of), k) places in `rows`, nearest first, the item itself
    left out. Fewer than k where there are not so many."""
    k = min(k, len(rows) - 1)
    places = np.zeros((len(of), max(k, 0)), np.int64)
    if k < 1:
        return places
    points = np.asarray(pool.embeddings[rows], np.float32)
    centre = points.mean(axis=0)
    points -= centre
    lengths = np.square(points).sum(axis=1)
    for start in range(0, len(of), _BLOCK):
        block = of[start : start + _BLOCK]
        squared = lengths - 2.0 * (np.asarray(pool.embeddings[block], np.float32) - centre) @ points.T
        squared[block[:, None] == rows] = np.inf
        nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(squared, nearest, axis=1), axis=1, kind="stable")
        places[start : start + len(block)] = np.take_along_axis(nearest, order, axis=1)
    return places


def _nobody(n: int) -> Doubts:
    return Doubts(
        suspected=np.zeros(n, bool),
        foreign=np.zeros(n, bool),
        score=np.zeros(n, np.float32),
        instead=np.zeros(n, np.int64),
        support=np.zeros((n, 2), np.float32),
        noise=None,
        head="",
    )


def _by_confidence(
    pool: Pool,
    rows: Rows,
    targets: Rows,
    is_large: Bools,
    n_classes: int,
    heads: Sequence[Head],
    strangers: Rows,
    sharings: int,
    seed: int,
) -> Doubts:
    own = targets[is_large]
    n = len(own)
    shown = strangers if len(strangers) >= LEAST else strangers[:0]
    everyone = np.concatenate([rows[is_large], shown])
    named = np.concatenate([own, np.full(len(shown), n_classes, np.int64)])
    columns = n_classes + bool(len(shown))
    head, probs = _best(pool, everyone, named, columns, heads, sharings, seed)
    guesses = label_errors.confident_guesses(probs, named)[:n]
    probs = probs[:n]
    flagged = label_errors.prune_by_noise_rate(probs, own, label_errors.joint(own, guesses, columns))
    is_foreign = foreign(probs, own, n_classes)
    known = probs[:, :n_classes]
    instead = label_errors.likeliest_other(known, own)
    found = _nobody(len(rows))
    # Pruning follows confident guesses, and of a stranger nothing is confident: those join by having no home.
    found.suspected[is_large] = flagged | (is_foreign & (probs.argmax(axis=1) != own))
    found.foreign[is_large] = is_foreign
    found.score[is_large] = label_errors.doubt(probs, own)
    found.instead[is_large] = instead
    found.support[is_large] = np.stack([known[np.arange(n), own], known[np.arange(n), instead]], axis=1)
    return replace(found, noise=label_errors.noise_of(own, guesses, columns, seed), head=head)


def _best(
    pool: Pool, rows: Rows, targets: Rows, n_classes: int, heads: Sequence[Head], sharings: int, seed: int
) -> tuple[str, Floats]:
    """The head whose held-out guesses agree most often with the labels, and its probabilities, averaged over
    the sharings."""
    agreement, best, believed = -1.0, "", np.zeros((len(rows), n_classes), np.float32)
    for name, parameters in heads:
        shared = [
            label_errors.out_of_sample(
                pool, rows, targets, n_classes, name, parameters, seed=SHARINGS * seed + sharing
            )
            for sharing in range(SHARINGS)
        ]
        probs = np.asarray(np.mean(shared, axis=0), np.float32)
        agrees = float((probs.argmax(axis=1) == targets).mean())
        if agrees > agreement:
            agreement, best, believed = agrees, name, probs
    return best, believed


def _ask_neighbours(found: Doubts, pool: Pool, rows: Rows, targets: Rows, asked: Rows) -> None:
    """Doubt labels of classes too small for folds: none of the nearest labelled images says the same, and AGREEING of
    them name one other class. asked: places int64, of classes with two labels at least: a class's only label has
    nobody to speak for it."""
    near = nearest_labelled(pool, rows, rows[asked], NEIGHBOURS)
    if near.shape[1] < AGREEING:
        return
    for place, theirs in zip(asked.tolist(), targets[near], strict=True):
        votes = np.bincount(theirs)
        other = int(votes.argmax())
        shares = (theirs == targets[place]).mean(), votes[other] / len(theirs)
        found.support[place] = shares
        found.instead[place] = other
        found.score[place] = (1.0 + shares[1] - shares[0]) / 2.0
        found.suspected[place] = shares[0] == 0.0 and votes[other] >= AGREEING
