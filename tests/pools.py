"""Small pools with their graph, for tests of the learning half."""

import numpy as np

from ml_worker.neighbours import nearest
from ml_worker.pool import Pool


def pool_of(points: object, indexed: object = None, k: int = 10) -> Pool:
    """A pool over these points (N, D) with its exact neighbours; every row is indexed unless told otherwise."""
    embeddings = np.asarray(points, np.float32)
    inside = np.ones(len(embeddings), bool) if indexed is None else np.asarray(indexed, bool)
    return Pool(embeddings, *nearest(embeddings, inside, k), inside)


def clouds(n: int = 90, n_classes: int = 3, seed: int = 0, spread: float = 0.5) -> tuple[Pool, np.ndarray]:
    """A pool of well separated clouds in the plane, and the class of each row, int64 (N,)."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % n_classes
    angles = 2 * np.pi * targets / n_classes
    centres = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return pool_of(centres + spread * rng.normal(size=(n, 2))), targets.astype(np.int64)
