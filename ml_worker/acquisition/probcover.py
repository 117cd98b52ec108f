"""What stands for most others first: a batch whose neighbourhoods cover as much of the pool as possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_worker.acquisition import Candidates, Floats, Rows, filled_up
from ml_worker.clustering import assign, kmeans, unit_rows

_PURE = 0.9
_ANCHORS, _AROUND = 1_000, 10_000  # items whose neighbourhood tells the radius, and items looked for in it
_STEPS = 4_096
_BLOCK = 1024  # a product of two blocks stays in the processor's cache: four times as fast as with 4,096
_FEW, _MANY = 8, 256  # candidates brought up to date at a time, at first and at most
_SIEVED = 4_096  # items from which looking for a sieve is worth it
_TRIED = 500  # items whose neighbourhoods tell how much a sieve lets through
_STRAY = 60.0  # what it costs to look at a pair again that a sieve let through, in products of whole items
_PAIRS = 256  # pairs looked at again at a time: more, and each costs ten times as much
_SLACK = 1e-5  # what products of float32 may be wrong by


def rank(pool: Candidates, budget: int, rng: np.random.Generator) -> tuple[Rows, Floats]:
    """Rows that cover the most items without an answer; utility: how many each covers that nothing before it did.

    An item covers those nearer than a radius: the largest within which on average 90 % belong to an item's own
    k-means cluster, of as many clusters as there are classes. What answered items cover is covered. Once everything
    is, the rest comes by lot, with utility 0.

    Source: Yehuda et al. 2022, "Active Learning Through a Covering Lens" (ProbCover), algorithm 1. Differences: theirs
    is the radius for which 95 % of the neighbourhoods hold no other cluster at all, which shrinks with every item
    added: four digits to a neighbourhood, and a first batch of 10 that teaches 0.60, less than one by lot; so 0.78.
    No graph is stored, neither (M, M) nor edges: each item has a count, and what a choice covers is taken off it only
    when the item comes to the front (Minoux 1978, lazy greedy: what is left to cover only shrinks), so memory stays
    flat and no neighbourhood has to be cut. Of more than 50,000 candidates the loop gives it a random 50,000.
    """
    points = unit_rows(np.asarray(pool.embeddings))
    labeled = unit_rows(pool.labeled_embeddings.reshape(-1, points.shape[1]))
    budget = min(max(budget, 0), len(points))
    if budget == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    cosine = purest(points, pool.probs.shape[1], rng)
    bare = ~_is_near(points, labeled, cosine)
    counts = _covered_by(points, bare, cosine)
    chosen: list[int] = []
    covers: list[int] = []
    covered, seen = np.zeros(0, np.int64), np.zeros(len(points), np.int64)
    while len(chosen) < budget and bare.any():
        row = _front(points, counts, covered, seen, cosine)
        newly = bare & (points @ points[row] > cosine)
        newly[row] = bare[row]
        bare &= ~newly
        chosen.append(row)
        covers.append(int(newly.sum()))
        covered = np.concatenate([covered, np.flatnonzero(newly)])
        counts[row] = -len(points)  # rounding at the rim must not bring it back
    rows = filled_up(chosen, len(points), budget, rng)
    utility = np.zeros(len(rows), np.float32)
    utility[: len(covers)] = covers
    return rows, utility


def _front(points: Floats, counts: Rows, covered: Rows, seen: Rows, cosine: float) -> int:
    """The first of the rows that have most about them that is not covered.

    counts, seen: int64 (M,), how many each has about it when so many of the covered rows (L,) are left out; brought up
    to date for those that had to be looked at.
    """
    order = np.argsort(-counts, kind="stable")
    best, at, n = (-2 * len(points), 0), 0, _FEW
    # Larger counts first, of equal ones the lower row: nothing behind can come before what was found.
    while at < len(order) and (int(counts[order[at]]), -int(order[at])) > best:
        rows = order[at : at + n]
        late = seen[rows].min()
        near = points[rows] @ points[covered[late:]].T > cosine
        near &= np.arange(late, len(covered)) >= seen[rows, None]
        counts[rows] -= np.count_nonzero(near, axis=1)
        seen[rows] = len(covered)
        best = max([best, *zip(counts[rows].tolist(), (-rows).tolist(), strict=True)])
        at, n = at + n, min(2 * n, _MANY)
    return -best[1]


def _is_near(points: Floats, others: Floats, cosine: float) -> NDArray[np.bool_]:
    """bool (M,): does one of the others (L, D) lie nearer than the angle of this cosine?"""
    near = np.zeros(len(points), bool)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK].T
        for first in range(0, len(points), _BLOCK):
            near[first : first + _BLOCK] |= (points[first : first + _BLOCK] @ block > cosine).any(axis=1)
    return near


def _covered_by(points: Floats, bare: NDArray[np.bool_], cosine: float) -> Rows:
    """How many of the bare points each point (M, D) has about it; every pair is looked at once."""
    sieve = _sieve(points, cosine)
    counts = np.zeros(len(points), np.int64)
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        for first in range(start, len(points), _BLOCK):
            columns = slice(first, first + _BLOCK)
            if sieve is None:
                near: NDArray[np.bool_] = points[rows] @ points[columns].T > cosine
                counts[rows] += np.count_nonzero(near & bare[columns], axis=1)
                if first != start:
                    counts[columns] += np.count_nonzero(near & bare[rows, None], axis=0)
                continue
            let_through = np.flatnonzero(sieve[rows] @ sieve[columns].T > cosine - _SLACK)
            one, other = np.divmod(let_through, len(sieve[columns]))
            is_near = _products(points, one + start, other + first) > cosine
            one, other = one[is_near], other[is_near]
            counts[rows] += np.bincount(one[bare[columns][other]], minlength=len(counts[rows]))
            if first != start:
                counts[columns] += np.bincount(other[bare[rows][one]], minlength=len(counts[columns]))
    return counts


def _products(points: Floats, rows: Rows, others: Rows) -> Floats:
    """The inner product of each of these rows with its other, float32 (P,)."""
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        found[pairs] = np.vecdot(points.take(rows[pairs], axis=0), points.take(others[pairs], axis=0))
    return found


def _sieve(points: Floats, cosine: float) -> Floats | None:
    """Shorter rows (M, P + 1) whose inner products are never below those of the points (M, D); None where they would
    not save work.

    The first P principal directions, and the length of what they leave out: the rest of an inner product is at most
    the product of both lengths (Cauchy and Schwarz). So only pairs that these products let through must be looked at.
    """
    if len(points) < _SIEVED:
        return None
    # Evenly spaced, not by lot: what is asked must not depend on whether there is a sieve.
    sample = points[np.linspace(0, len(points) - 1, _SIEVED).astype(np.int64)]
    directions = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].astype(np.float32)
    turned, width = sample @ directions, points.shape[1]
    cheapest, kept = float(width), width
    for p in range(width // 8, width, max(width // 16, 1)):
        short = _shortened(turned, p)
        share = float(np.mean(short[:_TRIED] @ short.T > cosine - _SLACK))
        if p + share * _STRAY * width < cheapest:
            cheapest, kept = p + share * _STRAY * width, p
    return None if kept == width else _shortened(points @ directions[:, :kept], kept)


def _shortened(turned: Floats, p: int) -> Floats:
    """The first p columns and no less than the length of the others, of rows of length 1."""
    first = turned[:, :p]
    # With slack: of nearly nothing left the root would make a large error out of a small one.
    rest = np.sqrt(np.maximum(1.0 - np.square(first).sum(axis=1, keepdims=True), 0.0) + _SLACK)
    return np.ascontiguousarray(np.concatenate([first, rest], axis=1), np.float32)


def purest(points: Floats, n_clusters: int, rng: np.random.Generator) -> float:
    """The cosine of the largest radius within which, on average, 90 % belong to an item's own k-means cluster.

    points: unit rows (M, D). 1,000 items by lot tell, of 10,000 about them; in 4,096 steps.
    """
    around = points if len(points) <= _AROUND else points[rng.choice(len(points), _AROUND, replace=False)]
    cluster = assign(around, kmeans(around, n_clusters, rng))
    purity = np.zeros(_STEPS)
    anchors = range(min(len(around), _ANCHORS))
    for start in range(0, len(anchors), _FEW):
        away = 1.0 - around @ around[start : min(start + _FEW, len(anchors))].T
        steps = (away * (_STEPS / 2)).astype(np.int32).clip(0, _STEPS - 1)
        for row, step in enumerate(steps.T, start=start):
            near = np.cumsum(np.bincount(step, minlength=_STEPS))
            own = np.cumsum(np.bincount(step[cluster == cluster[row]], minlength=_STEPS))
            purity += np.where(near > 0, own / np.maximum(near, 1), 1.0) / len(anchors)
    mixed = np.flatnonzero(purity < _PURE - 1e-9)
    return 1.0 - (int(mixed[0]) if len(mixed) else _STEPS) * 2.0 / _STEPS
