"""Many numbers for each image as two, so that a pool can be looked at: t-SNE on a sample, the others placed beside it.

t-SNE (van der Maaten and Hinton 2008) keeps neighbours together and says nothing of distances between groups. Its
repulsion is summed on a grid by Fourier transforms (Linderman et al. 2019), so that a step costs as much as the
sample is large and not its square; it reports, stops and goes on between any two steps, which scikit-learn's does not.
Numpy and scipy only. The same input gives the same map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from ml_worker.neighbours import nearest
from ml_worker.pool import Floats, Rows

Progress = Callable[[int, int], None]

# Rows that are laid out against each other; the others follow those of them that they are nearest to.
SAMPLE = 6_000
STEPS, EXAGGERATED = 500, 150
_EXAGGERATION, _PERPLEXITY, _NEIGHBOURS = 12.0, 20.0, 60
# Three nodes a box and dimension; boxes are as wide as the kernel until there are too many of them.
_EXACT_UP_TO = 200
_NODES, _BOXES_AT_LEAST, _BOXES_AT_MOST = 3, 12, 140
_PLACED_BY, _BLOCK = 5, 2048
_MARGIN = 0.02


@dataclass(eq=False)
class Layout:
    """Where a layout stands after ``step`` steps. places, speed, gains: float64 (N, 2)."""

    step: int
    places: NDArray[np.float64]
    speed: NDArray[np.float64]
    gains: NDArray[np.float64]


def sample_of(n: int, seed: int) -> Rows:
    """The rows that are laid out, ascending: all of up to SAMPLE, else so many at random."""
    if n <= SAMPLE:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, SAMPLE, replace=False))


def beginning(points: Floats, seed: int) -> Layout:
    """The two main directions of the points (N, D), tiny, so that nothing is far apart before it was pulled there."""
    centred = np.asarray(points, np.float64) - points.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    # The sign of a direction is chance; the largest of its numbers is positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    places = np.zeros((len(points), 2))
    places[:, : axes.shape[1]] = centred @ axes
    places *= 1e-4 / max(float(places.std()), 1e-12)
    places += np.random.default_rng(seed).normal(scale=1e-6, size=places.shape)  # copies of one image part
    return Layout(0, places, np.zeros_like(places), np.ones_like(places))


def lay_out(
    points: Floats, layout: Layout, progress: Progress, keep: Callable[[Layout], None] | None = None
) -> NDArray[np.float64]:
    """Places float64 (N, 2) of points float32 (N, D), beginning with a layout of the same points.

    progress(step, STEPS) is called at each step and ends the work by raising; keep(layout) at every fiftieth, for a
    run that goes on from there.
    """
    n = len(points)
    if n < 4:  # nothing to arrange
        return layout.places
    alike = affinities(points)
    rate = max(n / _EXAGGERATION / 4, 50.0)
    places, speed, gains = layout.places, layout.speed, layout.gains
    for step in range(layout.step, STEPS):
        progress(step, STEPS)
        is_early = step < EXAGGERATED
        slope = 4 * (_pull(alike, places) * (_EXAGGERATION if is_early else 1.0) - push(places))
        gains = np.where(slope * speed < 0, gains + 0.2, gains * 0.8).clip(0.01)
        speed = (0.5 if is_early else 0.8) * speed - rate * gains * slope
        places = places + speed
        places = places - places.mean(axis=0)
        if keep and (step + 1) % 50 == 0:
            keep(Layout(step + 1, places, speed, gains))
    return places


def affinities(points: Floats) -> sparse.csr_array:
    """How alike two points are to t-SNE: symmetric, sums to 1, nonzero for nearest neighbours only."""
    n = len(points)
    found, distances = nearest(points, np.ones(n, bool), k=min(_NEIGHBOURS, n - 1))
    shares = _shares(np.square(distances.astype(np.float64)), min(_PERPLEXITY, found.shape[1] / 3))
    starts = np.arange(n + 1) * found.shape[1]
    directed = sparse.csr_array((shares.ravel(), found.ravel().astype(np.int32), starts.astype(np.int32)), (n, n))
    both = sparse.csr_array(directed + directed.T)
    return both / both.sum()


def _shares(squared: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """Rows (N, K) of Gaussian weights that sum to 1, each as wide as gives it this perplexity."""
    squared = squared - squared[:, :1]
    squared = squared / np.maximum(squared.mean(axis=1, keepdims=True), 1e-12)
    low, high = np.full((len(squared), 1), 1e-4), np.full((len(squared), 1), 1e4)
    for _ in range(40):
        beta = np.sqrt(low * high)
        weights = np.exp(-beta * squared)
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1, keepdims=True)
        is_wide = entropy > np.log(perplexity)
        low, high = np.where(is_wide, beta, low), np.where(is_wide, high, beta)
    return weights


def _pull(alike: sparse.csr_array, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each point the sum of p k (y_i - y_j) over its neighbours, k = 1 / (1 + distance^2): (N, 2)."""
    rows = np.repeat(np.arange(len(places)), np.diff(alike.indptr))
    apart = places[rows] - places[alike.indices]
    weights = alike.data / (1.0 + np.einsum("ed,ed->e", apart, apart))
    apart *= weights[:, None]
    return np.stack([np.bincount(rows, apart[:, axis], minlength=len(places)) for axis in (0, 1)], axis=1)


def push(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each point the sum of q k (y_i - y_j) over all others, q = k / (the sum of all k): (N, 2)."""
    if len(places) > _EXACT_UP_TO:
        return push_by_grid(places)
    apart = places[:, None] - places[None]
    k = 1.0 / (1.0 + np.square(apart).sum(axis=2))
    np.fill_diagonal(k, 0.0)
    return np.asarray(np.einsum("nm,nmd->nd", np.square(k), apart) / k.sum())


def push_by_grid(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same approximately, at a cost that grows with the points and not with their pairs.

    The kernel k^2 is smooth: it is interpolated between the nodes of a grid (quadratic in each box), where the sums
    over all points are convolutions. The sum of all k follows of the same sums, since k = k^2 (1 + distance^2).
    """
    low, span = places.min(axis=0), float(max(np.ptp(places, axis=0).max(), 1e-9)) * (1 + 1e-9)
    boxes = int(np.clip(np.ceil(span), _BOXES_AT_LEAST, _BOXES_AT_MOST))
    nodes = boxes * _NODES
    at, shares = _nodes_of((places - low) / span * boxes, boxes)
    flat = (at[:, :, None, 0] * nodes + at[:, None, :, 1]).reshape(len(places), -1)
    weights = (shares[:, :, None, 0] * shares[:, None, :, 1]).reshape(len(places), -1)
    squares = np.einsum("nd,nd->n", places, places)
    charges = np.stack([np.ones(len(places)), places[:, 0], places[:, 1], squares])
    grid = np.stack(
        [np.bincount(flat.ravel(), (weights * each[:, None]).ravel(), minlength=nodes * nodes) for each in charges]
    ).reshape(4, nodes, nodes)
    around = _convolved(grid.astype(np.float32), span / nodes).reshape(4, -1)
    sums, by_x, by_y, by_square = (np.einsum("nk,nk->n", each[flat], weights) for each in around)
    everything = (1 + squares) * sums - 2 * (places[:, 0] * by_x + places[:, 1] * by_y) + by_square
    total = max(float(everything.sum()) - len(places), 1e-12)
    return np.asarray((places * sums[:, None] - np.stack([by_x, by_y], axis=1)) / total)


def _nodes_of(at: NDArray[np.float64], boxes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The three nodes of each coordinate's box and what each counts for: (N, 3, 2) both. at: in boxes, (N, 2)."""
    box = np.minimum(at.astype(np.int64), boxes - 1)
    inside = at - box
    own = (np.arange(_NODES) + 0.5) / _NODES
    shares = np.ones((len(at), _NODES, 2))
    for one in range(_NODES):
        for other in range(_NODES):
            if other != one:
                shares[:, one] *= (inside - own[other]) / (own[one] - own[other])
    return box[:, None, :] * _NODES + np.arange(_NODES)[None, :, None], shares


def _convolved(grid: Floats, spacing: float) -> Floats:
    """The sums of k^2 from every node to every other, weighted by the charges (4, M, M). In 32 bits: twice as fast."""
    nodes = grid.shape[1]
    size = fft.next_fast_len(2 * nodes, real=True)
    far = np.minimum(np.arange(size), size - np.arange(size)) * spacing
    kernel = (1.0 / np.square(1.0 + np.square(far)[:, None] + np.square(far)[None, :])).astype(np.float32)
    product = fft.rfft2(grid, (size, size)) * fft.rfft2(kernel)
    return np.asarray(fft.irfft2(product, (size, size))[:, :nodes, :nodes], np.float32)


def place(points: Floats, sample: Rows, places: NDArray[np.float64], progress: Progress) -> NDArray[np.float64]:
    """Places (N, 2) of all points (N, D): those of the sample as they are, each other one among the sampled points it
    is nearest to, the nearer the more. Reads the points a block at a time."""
    found = np.empty((len(points), 2))
    there = np.asarray(points[sample], np.float32)
    offset = np.einsum("nd,nd->n", there, there)
    k = min(_PLACED_BY, len(sample))
    for start in range(0, len(points), _BLOCK):
        progress(start, len(points))
        block = np.asarray(points[start : start + _BLOCK], np.float32)
        far = block @ (-2.0 * there.T) + offset + np.einsum("nd,nd->n", block, block)[:, None]
        near = np.argpartition(far, k - 1, axis=1)[:, :k]
        weights = 1.0 / np.maximum(np.take_along_axis(far, near, axis=1).astype(np.float64), 1e-9)
        weights /= weights.sum(axis=1, keepdims=True)
        found[start : start + _BLOCK] = np.einsum("nk,nkd->nd", weights, places[near])
    found[sample] = places
    return found


def on_the_sheet(places: NDArray[np.float64]) -> Floats:
    """The same within 0..1 in both directions, float32 (N, 2): centred, its longer side the width but for a margin."""
    low, high = places.min(axis=0), places.max(axis=0)
    scale = (1 - 2 * _MARGIN) / max(float((high - low).max()), 1e-12)
    return np.asarray(((places - (low + high) / 2) * scale + 0.5).clip(0.0, 1.0), np.float32)
