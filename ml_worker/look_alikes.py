"""Groups of images that look alike, for a person to name or to sort: Ward's clustering of their vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from ml_worker.pool import Floats, Rows

# Ward's method compares every pair: of more images a random sample is grouped, and the others join the nearest group.
SAMPLE = 6_000
# A screenful to look through; and from how few on images say that they are more than a few odd ones.
WANTED, AT_MOST, AT_LEAST = 30, 100, 4
_BLOCK = 8_192


@dataclass(frozen=True, eq=False)
class Group:
    """rows: int64 (n,), those to be shown, the most typical first, n <= AT_MOST. size: all that belong to it.
    coherence: 0..1, the share of the spread of all images that is not within it; 0 for the leftovers, which come
    last."""

    rows: Rows
    size: int
    coherence: float


def groups(
    embeddings: Floats, rows: Rows, rng: np.random.Generator, report: Callable[[float], None] = lambda done: None
) -> list[Group]:
    """All of these rows of embeddings (N, D) in groups of some WANTED, the most coherent first; what is like nothing
    else is left over for the last ones.

    Ward 1963: it joins what adds least to the squared distances within groups, which keeps them of one size, unlike
    k-means (a group takes up two kinds) and HDBSCAN (half of the images are in no group): benchmarks/look_alikes.py.
    Of fewer images the groups are smaller: of 40 some six. More than SAMPLE rows: each group shows its AT_MOST nearest
    to its centre. report: told how far it is, 0..1.
    """
    if not len(rows):
        return []
    rows = np.sort(rows)
    sample = rows if len(rows) <= SAMPLE else np.sort(rng.choice(rows, SAMPLE, replace=False))
    points = np.asarray(embeddings[sample], np.float32)
    cluster = _ward(points)
    report(0.5)
    kept = np.flatnonzero(np.bincount(cluster) >= AT_LEAST)
    centres = np.stack([points[cluster == each].mean(axis=0) for each in kept]) if len(kept) else points[:0]
    spread = float(np.square(points - points.mean(axis=0)).sum(axis=1).mean()) or 1.0
    if len(sample) == len(rows):
        belongs = np.full(cluster.max() + 1, len(kept))
        belongs[kept] = np.arange(len(kept))
        nearest, away = belongs[cluster], _squares_to_own(points, centres, belongs[cluster])
    else:
        nearest, away = _assign(embeddings, rows, centres, report)
    found = [_group(rows[nearest == each], away[nearest == each], spread) for each in range(len(kept))]
    # A centre that the whole took over from its sample may be nobody's nearest; it has no rows then.
    found = [each for each in found if each.size]
    found.sort(key=lambda each: (-each.coherence, -each.size, int(each.rows[0])))
    over = rows[nearest == len(kept)]
    return found + [
        Group(over[at : at + AT_MOST], len(over[at : at + AT_MOST]), 0.0) for at in range(0, len(over), AT_MOST)
    ]


def size_wanted(n: int) -> float:
    """Of a group, where n images are grouped."""
    return min(WANTED, max(6.0, float(np.sqrt(n))))


def _ward(points: Floats) -> NDArray[np.int64]:
    """The cluster of each point, int64 (n,), numbered from 0; none of more than AT_MOST points."""
    n = len(points)
    if n < 2:
        return np.zeros(n, np.int64)
    wanted = size_wanted(n)
    # Copies would make distances of 0 and are no fault; what is not a number would be refused.
    tree = linkage(np.nan_to_num(points.astype(np.float64)), "ward")
    cluster = np.asarray(fcluster(tree, max(1, round(n / wanted)), "maxclust"), np.int64) - 1
    for each in np.flatnonzero(np.bincount(cluster) > AT_MOST):
        inside = np.flatnonzero(cluster == each)
        tree = linkage(np.nan_to_num(points[inside].astype(np.float64)), "ward")
        parts = np.asarray(fcluster(tree, max(2, round(len(inside) / wanted)), "maxclust"), np.int64) - 1
        # Where all are copies of one another Ward cannot tell them apart, and they are cut by their order.
        if np.bincount(parts).max() > AT_MOST:
            parts = np.arange(len(inside)) // AT_MOST
        cluster[inside] = np.where(parts == 0, each, cluster.max() + parts)
    return cluster


def _squares_to_own(points: Floats, centres: Floats, own: NDArray[np.int64]) -> Floats:
    """Squared distance of each point to its centre, float32 (n,); 0 where it has none."""
    away = np.zeros(len(points), np.float32)
    has_one = own < len(centres)
    away[has_one] = np.square(points[has_one] - centres[own[has_one]]).sum(axis=1)
    return away


def _assign(
    embeddings: Floats, rows: Rows, centres: Floats, report: Callable[[float], None]
) -> tuple[NDArray[np.int64], Floats]:
    """The nearest centre of each row and the squared distance to it, (n,) each, read block by block."""
    nearest, away = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
    offset = np.square(centres).sum(axis=1)
    for start in range(0, len(rows), _BLOCK):
        points = np.asarray(embeddings[rows[start : start + _BLOCK]], np.float32)
        partial = points @ (-2.0 * centres.T) + offset
        best = partial.argmin(axis=1)
        nearest[start : start + _BLOCK] = best
        squares = np.square(points).sum(axis=1) + partial[np.arange(len(best)), best]
        away[start : start + _BLOCK] = np.maximum(squares, 0.0)
        report(0.5 + 0.5 * min(1.0, (start + _BLOCK) / len(rows)))
    return nearest, away


def _group(rows: Rows, away: Floats, spread: float) -> Group:
    shown = rows[np.argsort(away, kind="stable")[:AT_MOST]]
    coherence = 1.0 - float(away.mean()) / spread if len(rows) else 0.0
    return Group(shown, len(rows), min(1.0, max(0.0, coherence)))
