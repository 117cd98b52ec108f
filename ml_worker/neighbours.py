"""Exact nearest neighbours in blocks: memory grows with N x K, never with N x N."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ml_worker.pool import Floats, Rows

K = 20  # neighbours kept per item; heads may use fewer
_QUERIES, _TARGETS = 1024, 16384  # one block of distances is at most 64 MiB


def nearest(
    embeddings: Floats,
    indexed: NDArray[np.bool_],
    k: int = K,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int32], Floats]:
    """The k nearest indexed rows of every row, nearest first, the row itself left out.

    embeddings: float32 (N, D); indexed: bool (N,). Returns neighbours int32 (N, K) and euclidean distances
    float32 (N, K) with K = min(k, indexed rows - 1), at least 0. `progress(done, total)` after each block.
    Cost: N x indexed x D multiplications, which suits up to some 100,000 items.
    """
    n = len(embeddings)
    targets = np.flatnonzero(indexed)
    k = max(0, min(k, len(targets) - 1))
    neighbours = np.zeros((n, k), np.int32)
    distances = np.zeros((n, k), np.float32)
    # Centred, the products below lose fewer digits.
    centred = np.asarray(embeddings, np.float32)
    centred = centred - centred.mean(axis=0, dtype=np.float64).astype(np.float32) if n else centred
    for start in range(0, n if k else 0, _QUERIES):
        rows = np.arange(start, min(start + _QUERIES, n))
        neighbours[rows], distances[rows] = _nearest_of_block(centred, rows, targets, k)
        if progress:
            progress(int(rows[-1]) + 1, n)
    return neighbours, distances


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
