"""Nearest prototype: an item looks like the class whose answers it points the same way as."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

import numpy as np

from ml_worker.heads import BLOCK, origin, with_absent
from ml_worker.pool import Floats, Pool, Rows

_lengths: WeakKeyDictionary[Pool, Floats] = WeakKeyDictionary()
_lock = threading.Lock()


class Head:
    """Logits are cosines about the mean of the pool, divided by a temperature.

    Source: Snell et al. 2017, "Prototypical Networks": a class is the mean of its answers. Differences: cosine
    instead of Euclidean distance, between unit vectors about the pool's mean, because the length of an embedding
    says how plain a picture is, not what it shows; each mean is drawn towards the mean of all classes by
    `shrinkage` answers' worth, so that a class with one answer does not claim what only that picture has.

    neighbours: 0 compares with the mean of a class; K > 0 with the K most similar answers of each class (their
    mean cosine), for classes of several looks: on the digits, 100 answers, 0.94 with three and 0.89 with the mean.
    temperature > 0: smaller is surer.
    """

    def __init__(self, n_classes: int, *, neighbours: int, shrinkage: float, temperature: float) -> None:
        self.n_classes, self.neighbours = n_classes, neighbours
        self.shrinkage, self.temperature = shrinkage, temperature
        self.present: Rows = np.zeros(0, np.int64)
        self.directions: Floats = np.zeros((0, 0), np.float32)
        self.groups: Rows = np.zeros(0, np.int64)
        self.weights: Floats = np.zeros(0, np.float32)

    def fit(self, pool: Pool, rows: Rows, targets: Rows, weights: Floats) -> None:
        """Keep a direction per class, or per answer. An answer of no weight is not kept."""
        if len(rows) == 0:
            raise ValueError("cannot fit a head on no answer")
        self.present, column = np.unique(targets, return_inverse=True)
        units = _units(pool.embeddings[rows] - origin(pool).mean)
        if self.neighbours:
            by_class = np.argsort(column, kind="stable")
            by_class = by_class[weights[by_class] > 0]
            self.directions, self.groups, self.weights = units[by_class], column[by_class], weights[by_class]
            return
        totals = np.zeros((len(self.present), units.shape[1]), np.float64)
        np.add.at(totals, column, weights[:, None] * units)
        counts = np.bincount(column, weights, minlength=len(self.present))[:, None]
        middle = (totals / np.maximum(counts, 1e-12)).mean(axis=0)
        self.directions = _units((totals + self.shrinkage * middle) / np.maximum(counts + self.shrinkage, 1e-12))
        self.groups = np.arange(len(self.present))

    def logits(self, pool: Pool) -> Floats:
        """Logits float32 (N, C), at most 1 / temperature, for every row of the pool."""
        lengths = _lengths_of(pool)
        offset = self.directions @ origin(pool).mean
        seen = np.empty((len(pool), len(self.present)), np.float32)
        for start in range(0, len(pool), BLOCK):
            block = slice(start, start + BLOCK)
            # (x - mean) . d / |x - mean|, without a copy of the embeddings.
            cosines = (np.asarray(pool.embeddings[block]) @ self.directions.T - offset) / lengths[block, None]
            seen[block] = self._by_class(np.asarray(cosines, np.float32))
        return with_absent(seen / np.float32(self.temperature), self.present, self.n_classes)

    def _by_class(self, cosines: Floats) -> Floats:
        """(B, P) of cosines (B, directions): the weighted mean of the `neighbours` largest of each class."""
        if not self.neighbours:
            return cosines
        similar = np.full((len(cosines), len(self.present)), -1.0, np.float32)
        for column in np.unique(self.groups):
            own, weights = cosines[:, self.groups == column], self.weights[self.groups == column]
            weights = np.broadcast_to(weights, own.shape)
            if own.shape[1] > self.neighbours:
                nearest = np.argpartition(own, -self.neighbours, axis=1)[:, -self.neighbours :]
                own, weights = np.take_along_axis(own, nearest, axis=1), np.take_along_axis(weights, nearest, axis=1)
            similar[:, column] = (weights * own).sum(axis=1) / weights.sum(axis=1)
        return similar


def _units(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def _lengths_of(pool: Pool) -> Floats:
    """Distances float32 (N,) of all rows to the mean of the pool, above 0, worked out once per pool."""
    about = origin(pool)
    with _lock:
        if pool not in _lengths:
            parts = [
                np.linalg.norm(pool.embeddings[start : start + BLOCK] - about.mean, axis=1)
                for start in range(0, len(pool), BLOCK)
            ]
            # An item in the very middle points nowhere: by this floor its cosines are 0, not the rounding's.
            _lengths[pool] = np.maximum(np.concatenate(parts), np.float32(1e-3 * about.scale))
        return _lengths[pool]
