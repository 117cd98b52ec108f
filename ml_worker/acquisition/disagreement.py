"""Disputed first: what the model and two plain readings of the answers call by different names."""

from __future__ import annotations

import numpy as np

from ml_worker.acquisition import Candidates, Floats, Rows, gaps, spread_out

_ANSWERS = 4_000
_BLOCK = 4096


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows by the entropy of three votes, divided by log 3: utility 0, 0.58 (two against one) or 1 (all differ).

    The votes: the model's likeliest class, be it a head or a trained network; the class of the nearest answered item;
    the class whose answers have the nearest mean. Votes, not probabilities: what is built differently is sure in
    different ways. Level items, and all of them where no answer names a class, come by the gap between the model's
    two most likely classes.

    Raises ValueError if C < 2. Source: Dagan and Engelson 1995, "Committee-Based Sampling For Training Probabilistic
    Classifiers" (vote entropy), equation 4. Differences: three members built differently instead of many drawn alike,
    two of them not trained at all; near copies go to the back, as with margin; of more than 4,000 answers evenly
    spaced ones vote. Of more than 50,000 candidates the loop gives it a random 50,000.
    """
    gap = gaps(pool.probs)
    utility = np.zeros(len(gap), np.float32)
    targets = pool.labeled_targets
    if targets is not None and (targets >= 0).any():
        named = np.flatnonzero(targets >= 0)
        named = named[np.unique(np.linspace(0, len(named) - 1, _ANSWERS).astype(np.int64))]
        answered, named_as = pool.labeled_embeddings[named], targets[named]
        classes = np.unique(named_as)
        means = np.stack([answered[named_as == one].mean(axis=0) for one in classes])
        embeddings = np.asarray(pool.embeddings)
        votes = np.stack(
            [pool.probs.argmax(axis=1), named_as[_nearest(embeddings, answered)], classes[_nearest(embeddings, means)]]
        )
        utility = _vote_entropy(votes)
    order = np.lexsort((gap, -utility)).astype(np.int64)
    rows = spread_out(pool.embeddings, order, max(budget, 0), pool.labeled_embeddings)
    return rows, utility[rows]


def _nearest(points: Floats, others: Floats) -> Rows:
    """The nearest of the others (L, D) for each point (M, D), int64 (M,), in blocks."""
    nearest = np.zeros(len(points), np.int64)
    squares = np.square(others).sum(axis=1)
    for start in range(0, len(points), _BLOCK):
        nearest[start : start + _BLOCK] = (squares - 2.0 * (points[start : start + _BLOCK] @ others.T)).argmin(axis=1)
    return nearest


def _vote_entropy(votes: Rows) -> Floats:
    """Of three votes an item, int64 (3, M): float32 (M,) in [0, 1]."""
    first, second, third = votes
    kinds = 1 + (second != first) + ((third != first) & (third != second))
    two_to_one = (np.log(3) - 2 / 3 * np.log(2)) / np.log(3)
    return np.asarray([0.0, 0.0, two_to_one, 1.0], np.float32)[kinds]
