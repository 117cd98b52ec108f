"""What every acquisition function keeps to, and a case by hand for each."""

import numpy as np
import pytest

from annotator.algorithms import catalogue
from ml_worker import acquisition
from ml_worker.acquisition import Candidates, Picked, is_near, load, near_copy_radius, spread_out

NAMES = [algorithm.name for algorithm in catalogue("acquisition")]
DETERMINISTIC = [algorithm.name for algorithm in catalogue("acquisition") if algorithm.deterministic]


def candidates(m: int = 60, n_classes: int = 3, labeled: int = 5, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(n_classes), m).astype(np.float32)
    points = rng.normal(size=(m + labeled, 4)).astype(np.float32)
    return Candidates(points[:m], probs, points[m:])


def ranked(name: str, pool: Candidates, budget: int, seed: int = 0) -> list[int]:
    """Rows in order, after checking what holds for every function."""
    rows, utility = load(name)(pool, budget, np.random.default_rng(seed))
    assert rows.dtype == np.int64 and utility.dtype == np.float32
    assert rows.shape == utility.shape == (min(budget, len(pool.embeddings)),)
    assert np.isfinite(utility).all()
    assert len(set(rows.tolist())) == len(rows)
    assert ((rows >= 0) & (rows < len(pool.embeddings))).all()
    return rows.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_it_returns_different_rows_and_the_same_for_the_same_seed(name: str) -> None:
    pool = candidates()
    assert ranked(name, pool, 10, seed=3) == ranked(name, pool, 10, seed=3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [0, 1, 60, 1000])
def test_it_returns_as_many_as_asked_for_or_all(name: str, budget: int) -> None:
    assert len(ranked(name, candidates(), budget)) == min(budget, 60)


@pytest.mark.parametrize("name", NAMES)
def test_it_copes_with_two_classes_and_no_label_and_a_single_candidate(name: str) -> None:
    assert len(ranked(name, candidates(n_classes=2, labeled=0), 10)) == 10
    assert ranked(name, candidates(m=1, labeled=0), 10) == [0]


@pytest.mark.parametrize("name", NAMES)
def test_it_copes_with_probabilities_that_are_all_equal(name: str) -> None:
    drawn = candidates()
    level = Candidates(drawn.embeddings, np.full((60, 3), 1 / 3, np.float32), drawn.labeled_embeddings)
    assert len(ranked(name, level, 20)) == 20


@pytest.mark.parametrize("name", NAMES)
def test_it_copes_with_items_that_are_all_the_same(name: str) -> None:
    drawn = candidates()
    same = Candidates(np.ones_like(drawn.embeddings), drawn.probs, np.ones((3, 4), np.float32))
    assert len(ranked(name, same, 20)) == 20
    nothing = Candidates(np.zeros_like(drawn.embeddings), drawn.probs, np.zeros((3, 4), np.float32))
    assert len(ranked(name, nothing, 20)) == 20


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_its_input_alone(name: str) -> None:
    pool, untouched = candidates(), candidates()
    ranked(name, pool, 10)
    for field in ("embeddings", "probs", "labeled_embeddings"):
        np.testing.assert_array_equal(getattr(pool, field), getattr(untouched, field))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_one_asks_the_same_in_any_order_and_under_any_seed(name: str) -> None:
    pool = candidates()
    order = np.random.default_rng(1).permutation(60)
    shuffled = Candidates(pool.embeddings[order], pool.probs[order], pool.labeled_embeddings[::-1])
    assert [int(order[row]) for row in ranked(name, shuffled, 15, seed=9)] == ranked(name, pool, 15)


# --- margin


def test_margin_asks_about_the_smallest_gap_first() -> None:
    # Gaps 0.5 - 0.4 = 0.1, 0.9 - 0.1 = 0.8 and 0.6 - 0.3 = 0.3, so utilities 0.9, 0.2, 0.7.
    probs = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.6, 0.3, 0.1]], np.float32)
    pool = Candidates(np.eye(3, dtype=np.float32), probs, np.zeros((0, 3), np.float32))
    rows, utility = load("margin")(pool, 3, np.random.default_rng(0))
    assert rows.tolist() == [0, 2, 1]
    np.testing.assert_allclose(utility, [0.9, 0.7, 0.2], atol=1e-6)


def test_margin_puts_a_near_copy_of_a_chosen_or_an_answered_item_last() -> None:
    # Row 1 copies row 0; row 2 copies the answered item. Both are closer calls than row 3.
    points = np.array([[0, 0], [0, 0.01], [9, 9], [0, 9]], np.float32)
    probs = np.array([[0.5, 0.5], [0.51, 0.49], [0.52, 0.48], [0.9, 0.1]], np.float32)
    pool = Candidates(points, probs, np.array([[9, 9.01]], np.float32))
    assert ranked("margin", pool, 2) == [0, 3]
    assert ranked("margin", pool, 4) == [0, 3, 1, 2]


def test_margin_refuses_a_single_class() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        load("margin")(candidates(n_classes=1), 3, np.random.default_rng(0))


# --- typiclust


def at_angles(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_typiclust_asks_for_the_middle_of_the_region_without_an_answer() -> None:
    # Nine items around 0 degrees, where one is answered, and nine around 90 degrees. Each of the nine is compared with
    # its 4 nearest: the one at 90 has neighbours 2, 2, 6, 6 degrees away, the next best 2, 4, 4, 8.
    spread = [-20, -12, -6, -2, 0, 2, 6, 12, 20]
    pool = Candidates(
        at_angles([*spread, *(90 + s for s in spread)]), np.full((18, 2), 0.5, np.float32), at_angles([3])
    )
    assert ranked("typiclust", pool, 1) == [9 + spread.index(0)]


def test_typiclust_leaves_small_clusters_for_the_end() -> None:
    # Twelve items around 0 degrees and two strangers at 180: asked for two, it opens two clusters and fills the batch
    # from the large one first.
    pool = Candidates(at_angles([*range(-6, 6), 180, 181]), np.full((14, 2), 0.5, np.float32), at_angles([]))
    first, second = ranked("typiclust", pool, 2)
    assert first < 12
    assert second >= 12


# --- what they share


def test_random_sampling_draws_every_item_equally_often() -> None:
    pool = candidates(m=20)
    seen = np.bincount([row for seed in range(400) for row in ranked("random_sampling", pool, 5, seed)], minlength=20)
    # 400 draws at 5 in 20: 100 each, standard deviation sqrt(400 * 0.25 * 0.75) = 8.7.
    assert abs(seen - 100).max() < 4 * 8.7


def test_the_near_copy_radius_grows_with_the_embeddings() -> None:
    points = candidates().embeddings
    assert near_copy_radius(10 * points) == pytest.approx(10 * near_copy_radius(points), rel=1e-5)
    assert near_copy_radius(points[:0]) == 0.0


def test_exact_copies_are_near_at_radius_zero_even_far_from_the_origin() -> None:
    points = (np.random.default_rng(0).normal(size=(50, 8)) + 100).astype(np.float32)
    assert is_near(points, points[::-1], 0.0).all()


def test_a_batch_reaches_past_a_long_run_of_copies() -> None:
    points = np.concatenate([np.zeros((500, 2)), [[3, 0], [0, 3]]]).astype(np.float32)
    chosen = spread_out(points, np.arange(502), 3, np.zeros((0, 2), np.float32))
    assert chosen.tolist() == [0, 500, 501]


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_that_are_not_read_yet_are_ranked_the_same(name: str) -> None:
    pool = candidates()
    rows = np.random.default_rng(1).permutation(60)
    everything = pool.embeddings[np.argsort(rows)]
    unread = Candidates(Picked(everything, rows), pool.probs, pool.labeled_embeddings)  # type: ignore[arg-type]
    assert ranked(name, unread, 20) == ranked(name, pool, 20)


def test_of_very_many_items_a_sample_tells_the_near_copy_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    exact = near_copy_radius(points)
    monkeypatch.setattr(acquisition, "_EXACT", 4999)
    monkeypatch.setattr(acquisition, "_SAMPLE", 1000)
    assert near_copy_radius(points) != exact
    assert near_copy_radius(points) == pytest.approx(exact, rel=0.05)
    monkeypatch.setattr(acquisition, "_EXACT", 5000)
    assert near_copy_radius(points) == exact
