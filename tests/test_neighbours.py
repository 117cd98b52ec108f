"""The neighbour graph is exact, and a pool survives its folder."""

from pathlib import Path

import numpy as np
import pytest

from ml_worker import neighbours
from ml_worker.neighbours import nearest
from ml_worker.pool import Pool
from tests.pools import pool_of


def brute_force(points: np.ndarray, indexed: np.ndarray, k: int) -> np.ndarray:
    """Sorted distances (N, k) to the nearest indexed rows."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    distances[:, ~indexed] = np.inf
    return np.sort(distances, axis=1)[:, :k]


def test_neighbours_are_the_nearest_indexed_rows_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_QUERIES", 7)
    monkeypatch.setattr(neighbours, "_TARGETS", 11)
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(60, 5)) + 20).astype(np.float32)
    indexed = rng.random(60) < 0.7
    rows, distances = nearest(points, indexed, 6)
    np.testing.assert_allclose(distances, brute_force(points, indexed, 6), atol=1e-5)
    assert indexed[rows].all()
    assert (rows != np.arange(60)[:, None]).all()
    np.testing.assert_allclose(np.linalg.norm(points[rows] - points[:, None], axis=2), distances, atol=1e-5)


def test_copies_are_at_distance_zero_and_nobody_is_their_own_neighbour() -> None:
    points = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 3, axis=0).astype(np.float32)
    rows, distances = nearest(points, np.ones(30, bool), 2)
    assert (distances == 0).all()
    assert (rows // 3 == np.arange(30)[:, None] // 3).all()


@pytest.mark.parametrize(("n", "indexed", "k"), [(0, 0, 0), (1, 1, 0), (2, 2, 1), (5, 0, 0), (5, 3, 2), (40, 40, 20)])
def test_there_are_fewer_neighbours_in_a_tiny_pool(n: int, indexed: int, k: int) -> None:
    rows, distances = nearest(np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32), np.arange(n) < indexed)
    assert rows.shape == distances.shape == (n, k)


def test_progress_ends_with_all_rows() -> None:
    seen: list[tuple[int, int]] = []
    nearest(np.zeros((2500, 2), np.float32), np.ones(2500, bool), 3, lambda done, total: seen.append((done, total)))
    assert seen == [(1024, 2500), (2048, 2500), (2500, 2500)]


def test_a_pool_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    pool = pool_of(np.random.default_rng(0).normal(size=(20, 3)))
    pool.save(tmp_path / "pool")
    again = Pool.load(tmp_path / "pool")
    for name in ("embeddings", "neighbours", "distances", "indexed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pool, name))


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    pool = pool_of(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="wanted"):
        Pool(pool.embeddings[:, 0], pool.neighbours, pool.distances, pool.indexed)
    with pytest.raises(ValueError, match="do not fit 4 items"):
        Pool(pool.embeddings, pool.neighbours[:3], pool.distances[:3], pool.indexed)
    with pytest.raises(ValueError, match="indexed has shape"):
        Pool(pool.embeddings, pool.neighbours, pool.distances, pool.indexed[:3])
