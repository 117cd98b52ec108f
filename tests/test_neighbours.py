"""The neighbour graph is exact, and a pool survives its folder."""

from dataclasses import replace
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


def test_views_are_kept_with_a_pool_that_has_them(tmp_path: Path) -> None:
    pool = pool_of(np.random.default_rng(0).normal(size=(20, 3)))
    views = np.stack([pool.embeddings, -pool.embeddings])
    replace(pool, views=views).save(tmp_path)
    np.testing.assert_array_equal(Pool.load(tmp_path).views, views)
    pool.save(tmp_path)  # the same folder again, without: the old views belong to nobody now
    assert Pool.load(tmp_path).views is None


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    pool = pool_of(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="wanted"):
        Pool(pool.embeddings[:, 0], pool.neighbours, pool.distances, pool.indexed)
    with pytest.raises(ValueError, match="do not fit 4 items"):
        Pool(pool.embeddings, pool.neighbours[:3], pool.distances[:3], pool.indexed)
    with pytest.raises(ValueError, match="views have shape"):
        Pool(pool.embeddings, pool.neighbours, pool.distances, pool.indexed, np.zeros((2, 4, 3), np.float32))
    with pytest.raises(ValueError, match="indexed has shape"):
        Pool(pool.embeddings, pool.neighbours, pool.distances, pool.indexed[:3])


# --- the index that large pools are searched with


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of true neighbours found, by distance, so that copies may stand for each other."""
    return float((found <= exact[:, -1:] * (1 + 1e-4) + 1e-9).mean())


def clustered(n: int, dimensions: int) -> np.ndarray:
    """Points on a curved sheet of 8 dimensions with a little noise around it, as the embeddings of images are."""
    rng = np.random.default_rng(0)
    inner = 3 * rng.normal(size=(20, 8))[rng.integers(20, size=n)] + rng.normal(size=(n, 8))
    points = np.tanh(inner @ rng.normal(size=(8, dimensions)) / 4) + 0.05 * rng.normal(size=(n, dimensions))
    return points.astype(np.float32)


@pytest.fixture
def by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_EXACT_UP_TO", 0)
    monkeypatch.setattr(neighbours, "_BLOCK", 500)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_the_index_finds_nearly_all_true_neighbours(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    points = scale * (clustered(4000, 48) + 5)
    indexed = np.arange(4000) % 10 > 0
    _, exact = nearest(points, indexed, 15)
    monkeypatch.setattr(neighbours, "_EXACT_UP_TO", 0)
    rows, distances = nearest(points, indexed, 15)
    assert recall(distances, exact) >= 0.95
    assert indexed[rows].all()
    assert (rows != np.arange(4000)[:, None]).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(len(set(row)) == 15 for row in rows.tolist())
    np.testing.assert_allclose(np.linalg.norm(points[rows] - points[:, None], axis=2), distances, rtol=1e-4)


def test_the_index_looks_further_until_it_finds_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # Noise in every dimension is the worst case of such an index; no embedding is so, but it must be noticed.
    points = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    indexed = np.ones(4000, bool)
    _, exact = nearest(points, indexed, 15)
    monkeypatch.setattr(neighbours, "_EXACT_UP_TO", 0)
    assert recall(nearest(points, indexed, 15)[1], exact) >= 0.95
    monkeypatch.setattr(neighbours, "_BREADTHS", (16,))
    assert recall(nearest(points, indexed, 15)[1], exact) < 0.95


@pytest.mark.usefixtures("by_index")
def test_the_index_gives_the_same_answer_twice() -> None:
    points = clustered(2000, 16)
    first, second = (nearest(points, np.ones(2000, bool), 10) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.usefixtures("by_index")
def test_a_crowd_of_copies_does_not_lose_the_others() -> None:
    points = np.concatenate([np.zeros((1500, 8)), clustered(500, 8)]).astype(np.float32)
    points = points[np.random.default_rng(0).permutation(2000)]
    rows, distances = nearest(points, np.ones(2000, bool), 10)
    others = np.flatnonzero(points.any(axis=1))
    assert (distances[~points.any(axis=1)] == 0).all()
    assert recall(distances[others], brute_force(points, np.ones(2000, bool), 10)[others]) >= 0.95
    assert (rows != np.arange(2000)[:, None]).all()


@pytest.mark.usefixtures("by_index")
@pytest.mark.parametrize(("n", "indexed", "k"), [(1, 1, 0), (2, 2, 1), (5, 3, 2), (40, 40, 20)])
def test_the_index_serves_tiny_pools_too(n: int, indexed: int, k: int) -> None:
    points = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    rows, distances = nearest(points, np.arange(n) < indexed)
    assert rows.shape == (n, k)
    np.testing.assert_allclose(distances, brute_force(points, np.arange(n) < indexed, k), atol=1e-5)


@pytest.mark.usefixtures("by_index")
def test_progress_with_an_index_only_grows_and_can_end_the_search() -> None:
    seen: list[tuple[int, int]] = []
    points = clustered(1600, 4)
    nearest(points, np.ones(1600, bool), 3, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[0][0] > 0 and seen[-1] == (1600, 1600) and len(seen) == 8

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nearest(points, np.ones(1600, bool), 3, cancel)
