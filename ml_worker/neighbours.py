"""Nearest neighbours: exact in blocks, or by an index where the pool is large. Memory never grows with N x N.

The index is usearch's HNSW graph (Malkov and Yashunin 2020). 100,000 clustered points of 384 dimensions on one
thread: usearch 40 s, faiss 38 s, hnswlib 83 s, each with a recall at 15 of 0.999 or more. faiss is as good, but
brings an OpenMP runtime of its own, which on macOS clashes with torch's; hnswlib has no wheels; pynndescent brings
200 MB of compiler and compiles for most of a minute in each new process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker.pool import Floats, Rows

K = 20  # neighbours kept per item; heads may use fewer
_QUERIES, _TARGETS = 1024, 16384  # one block of distances is at most 64 MiB
_EXACT_UP_TO = 20_000  # indexed rows; some seconds
_LINKS, _BUILD_BREADTH = 16, 64
_BREADTHS = (64, 128, 256, 512)  # how many candidates a search keeps in view
_RECALL, _SAMPLE = 0.97, 256  # the share of true neighbours that a breadth must find on a sample of rows
_BLOCK = 8192

Progress = Callable[[int, int], None]


def nearest(
    embeddings: Floats,
    indexed: NDArray[np.bool_],
    k: int = K,
    progress: Progress | None = None,
) -> tuple[NDArray[np.int32], Floats]:
    """The k nearest indexed rows of every row, nearest first, the row itself left out.

    embeddings: float32 (N, D); indexed: bool (N,). Returns neighbours int32 (N, K) and euclidean distances
    float32 (N, K) with K = min(k, indexed rows - 1), at least 0. `progress(done, total)` after each block; what it
    raises ends the search.

    Exact up to 20,000 indexed rows: N x indexed x D multiplications. Above, an index finds candidates and their
    distances are measured exactly; a row of the answer may then miss a neighbour, rarely (`_RECALL`). The same
    input gives the same answer either way: rows enter the index in order and from one thread.
    """
    embeddings = np.asarray(embeddings, np.float32)
    n = len(embeddings)
    targets = np.flatnonzero(indexed)
    k = max(0, min(k, len(targets) - 1))
    report = progress or _silent
    if k == 0:
        return np.zeros((n, 0), np.int32), np.zeros((n, 0), np.float32)
    if len(targets) > _EXACT_UP_TO:
        return _approximate(embeddings, targets, k, report)
    # Centred, the products below lose fewer digits.
    return _exact(embeddings - _mean(embeddings), np.arange(n), targets, k, report)


def _mean(embeddings: Floats) -> Floats:
    return embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)


def _exact(
    embeddings: Floats, rows: Rows, targets: Rows, k: int, report: Progress
) -> tuple[NDArray[np.int32], Floats]:
    """The k nearest of `targets` for each of `rows`: int32 (R, k) and float32 (R, k)."""
    neighbours = np.zeros((len(rows), k), np.int32)
    distances = np.zeros((len(rows), k), np.float32)
    for start in range(0, len(rows), _QUERIES):
        block = slice(start, min(start + _QUERIES, len(rows)))
        neighbours[block], distances[block] = _nearest_of_block(embeddings, rows[block], targets, k)
        report(block.stop, len(rows))
    return neighbours, distances


def _approximate(embeddings: Floats, targets: Rows, k: int, report: Progress) -> tuple[NDArray[np.int32], Floats]:
    """As `_exact` for all rows, through an index; an item counts half when it is stored."""
    n = len(embeddings)
    index = _Index(embeddings, targets, k, lambda done, total: report(n * done // total // 2, n))
    neighbours = np.zeros((n, k), np.int32)
    distances = np.zeros((n, k), np.float32)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        neighbours[rows], distances[rows] = index.search(rows)
        report((n + int(rows[-1]) + 1) // 2, n)
    return neighbours, distances


class _Index:
    """16-bit copies of the targets, linked to their neighbours; a place that many share is stored once.

    Copies all link to each other, and a search that meets such a crowd never leaves it: with 1,500 copies of one
    image among 2,000, half of the other images' neighbours were missed.
    """

    def __init__(self, embeddings: Floats, targets: Rows, k: int, report: Progress) -> None:
        from usearch.index import Index  # half a second, which small pools need not wait

        self._embeddings, self._targets, self._k = embeddings, targets, k
        self._mean = _mean(embeddings)
        # 16 bits end at 65,504 and lose digits below 1e-4: so the points are brought to a spread of about 1.
        sample = embeddings[targets[:: max(1, len(targets) // _BLOCK)]] - self._mean
        self._scale = np.float32(max(float(np.sqrt(np.square(sample, dtype=np.float64).mean())), 1e-12))
        # Places in the index, each with its crowd: a stretch of self._members.
        _, first, place, self._sizes = np.unique(
            self._fingerprints(), return_index=True, return_inverse=True, return_counts=True
        )
        self._members = targets[np.argsort(place, kind="stable")]
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._index: Any = Index(
            ndim=embeddings.shape[1], metric="l2sq", dtype="f16", connectivity=_LINKS, expansion_add=_BUILD_BREADTH
        )
        by_row = np.argsort(first)  # in the order of the rows, whatever their fingerprints
        for start in range(0, len(by_row), _BLOCK):
            block = by_row[start : start + _BLOCK]
            # From several threads the links would depend on who comes first.
            self._index.add(block, self._scaled(targets[first[block]]), threads=1)
            report(min(start + _BLOCK, len(by_row)), len(by_row))
        self._choose_breadth()

    def search(self, rows: Rows) -> tuple[NDArray[np.int64], Floats]:
        """The k nearest of each of `rows` that the index finds, measured in 32 bits: int64 and float32 (R, k)."""
        # Half as many again, because 16 bits may swap neighbours that are nearly level; one more for the row itself.
        asked = min(self._k + self._k // 2 + 1, len(self._sizes))
        matches = self._index.search(self._scaled(rows), asked)
        places = np.asarray(matches.keys).astype(np.int64)
        nothing = np.arange(asked) >= np.asarray(matches.counts)[:, None]
        places[nothing] = 0
        candidates, nothing = self._with_crowds(places, nothing)
        distances = np.empty(candidates.shape, np.float32)
        for column, others in enumerate(candidates.T):  # by column: (R, k, D) would be 100 times the block
            distances[:, column] = np.linalg.norm(self._embeddings[others] - self._embeddings[rows], axis=1)
        distances[nothing | (candidates == rows[:, None])] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")[:, : self._k]
        found, distances = np.take_along_axis(candidates, order, axis=1), np.take_along_axis(distances, order, axis=1)
        short = np.flatnonzero(np.isinf(distances[:, -1]))
        if len(short):
            found[short], distances[short] = _exact(self._embeddings, rows[short], self._targets, self._k, _silent)
        return found, distances

    def _with_crowds(
        self, places: NDArray[np.int64], nothing: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The rows at these places, nearest place first, as many as there are places; and where there is none."""
        sizes = np.where(nothing, 0, np.minimum(self._sizes[places], self._k + 1))
        width = max(places.shape[1], min(self._k + 1, int(sizes.sum(axis=1).max())))
        after = np.cumsum(sizes, axis=1)
        rows = np.empty((len(places), width), np.int64)
        everyone = np.arange(len(places))
        for slot in range(width):
            at = (after > slot).argmax(axis=1)
            offset = slot - (after[everyone, at] - sizes[everyone, at])
            beyond = slot >= after[:, -1]
            rows[:, slot] = self._members[self._starts[places[everyone, at]] + np.where(beyond, 0, offset)]
        return rows, np.arange(width) >= after[:, -1:]

    def _choose_breadth(self) -> None:
        """Set the smallest breadth with which `_RECALL` of the neighbours of a sample of rows are found.

        By distance, not by name, so that copies of one image may stand for each other; and one row of a crowd, or
        the copies, which are always found, would hide what is lost around them.
        """
        sample = np.unique(np.linspace(0, len(self._sizes) - 1, _SAMPLE).astype(np.int64))
        rows = np.sort(self._members[self._starts[sample]])
        _, true = _exact(self._embeddings, rows, self._targets, self._k, _silent)
        for breadth in _BREADTHS:
            self._index.expansion_search = breadth
            _, found = self.search(rows)
            if (found <= true[:, -1:] * np.float32(1 + 1e-4)).mean() >= _RECALL:
                return

    def _scaled(self, rows: Rows) -> NDArray[np.float16]:
        points = (self._embeddings[rows] - self._mean) / self._scale
        return np.clip(points, -1e3, 1e3).astype(np.float16)

    def _fingerprints(self) -> NDArray[np.uint64]:
        """A number for each target: equal for equal 16-bit points and (but for one chance in 2^48) never else."""
        keys = np.random.default_rng(0).integers(2**64, size=self._embeddings.shape[1], dtype=np.uint64)
        blocks = range(0, len(self._targets), _BLOCK)
        parts = [
            (self._scaled(self._targets[start : start + _BLOCK]).view(np.uint16) * keys).sum(axis=1, dtype=np.uint64)
            for start in blocks
        ]
        return np.concatenate(parts)


def _silent(done: int, total: int) -> None:
    """No progress to report."""


def _nearest_of_block(centred: Floats, rows: Rows, targets: Rows, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The k nearest of `targets` for each of `rows`: int64 (R, k) and float32 (R, k)."""
    queries = centred[rows]
    best_rows = np.empty((len(rows), 0), np.int64)
    best = np.empty((len(rows), 0), np.float32)
    for start in range(0, len(targets), _TARGETS):
        block = targets[start : start + _TARGETS]
        candidates = centred[block]
        # |q - c|^2 less the constant |q|^2: the order is the same.
        partial = queries @ (-2.0 * candidates.T)
        partial += np.einsum("nd,nd->n", candidates, candidates)
        _forbid_self(partial, rows, block)
        keep = _smallest(partial, k)
        best_rows = np.concatenate([best_rows, block[keep]], axis=1)
        best = np.concatenate([best, np.take_along_axis(partial, keep, axis=1)], axis=1)
        keep = _smallest(best, k)
        best_rows, best = np.take_along_axis(best_rows, keep, axis=1), np.take_along_axis(best, keep, axis=1)
    # The winners are measured again by their difference: exact zeros for duplicates, no cancellation.
    exact = np.sqrt(np.square(centred[best_rows] - queries[:, None, :]).sum(axis=2))
    order = np.argsort(exact, axis=1, kind="stable")
    return np.take_along_axis(best_rows, order, axis=1), np.take_along_axis(exact, order, axis=1)


def _forbid_self(partial: Floats, rows: Rows, block: Rows) -> None:
    """Set to infinity where a row meets itself; both arrays of rows are sorted and without repeats."""
    _, query, target = np.intersect1d(rows, block, assume_unique=True, return_indices=True)
    partial[query, target] = np.inf


def _smallest(values: Floats, k: int) -> NDArray[np.int64]:
    """Columns of the k smallest values of each row, in no order; all columns where there are fewer."""
    if values.shape[1] <= k:
        return np.tile(np.arange(values.shape[1]), (len(values), 1))
    return np.argpartition(values, k - 1, axis=1)[:, :k]
