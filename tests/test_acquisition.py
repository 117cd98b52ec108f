"""What every acquisition function keeps to, and a case by hand for each."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from annotator.algorithms import catalogue
from ml_worker import acquisition, fast_loop
from ml_worker.acquisition import (
    Candidates,
    Picked,
    is_near,
    load,
    near_copy_radius,
    probcover,
    scarcest,
    spread_out,
)
from ml_worker.clustering import unit_rows
from ml_worker.fast_loop import Answers, Learned, LoopSettings, order
from ml_worker.pool import Pool

NAMES = [algorithm.name for algorithm in catalogue("acquisition")]
DETERMINISTIC = [algorithm.name for algorithm in catalogue("acquisition") if algorithm.deterministic]


def candidates(m: int = 60, n_classes: int = 3, labeled: int = 5, seed: int = 0, name: str = "") -> Candidates:
    """Random ones, with everything that the function of this name asks for."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(n_classes), m).astype(np.float32)
    points = rng.normal(size=(m + labeled, 4)).astype(np.float32)
    columns = n_classes + (name in acquisition.NEED_STRANGERS)
    members = rng.dirichlet(np.ones(columns), (3, m)).astype(np.float32)
    return Candidates(
        points[:m],
        probs,
        points[m:],
        members if name in acquisition.NEED_MEMBERS else None,
        labeled_targets=np.arange(labeled) % (n_classes + 1) - 1,
        spacing=rng.uniform(1, 2, m).astype(np.float32),
    )


def far_apart(probs: list[list[float]]) -> Candidates:
    """Candidates of these probabilities, none near another."""
    said = np.asarray(probs, np.float32)
    return Candidates(np.eye(len(said), dtype=np.float32), said, np.zeros((0, len(said)), np.float32))


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
    pool = candidates(name=name)
    assert ranked(name, pool, 10, seed=3) == ranked(name, pool, 10, seed=3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [0, 1, 60, 1000])
def test_it_returns_as_many_as_asked_for_or_all(name: str, budget: int) -> None:
    assert len(ranked(name, candidates(name=name), budget)) == min(budget, 60)


@pytest.mark.parametrize("name", NAMES)
def test_it_copes_with_two_classes_and_no_label_and_a_single_candidate(name: str) -> None:
    assert len(ranked(name, candidates(n_classes=2, labeled=0, name=name), 10)) == 10
    assert ranked(name, candidates(m=1, labeled=0, name=name), 10) == [0]


@pytest.mark.parametrize("name", NAMES)
def test_it_ranks_a_single_class_or_says_that_it_cannot(name: str) -> None:
    try:
        assert len(ranked(name, candidates(n_classes=1, name=name), 10)) == 10
    except ValueError as error:
        assert "needs at least 2 classes" in str(error)


@pytest.mark.parametrize("name", NAMES)
def test_it_copes_with_every_item_three_times_and_with_sure_probabilities(name: str) -> None:
    drawn = candidates(m=20, name=name)
    three = np.tile(np.arange(20), 3)
    thrice = replace(
        drawn,
        embeddings=np.asarray(drawn.embeddings)[three],
        probs=np.eye(3, dtype=np.float32)[three % 3],
        member_probs=None if drawn.member_probs is None else drawn.member_probs[:, three],
        spacing=np.zeros(60, np.float32),
    )
    assert len(ranked(name, thrice, 30)) == 30
    assert len(ranked(name, thrice, 60)) == 60


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
    pool, untouched = candidates(name=name), candidates(name=name)
    ranked(name, pool, 10)
    for field in ("embeddings", "probs", "labeled_embeddings", "member_probs", "labeled_targets", "spacing"):
        np.testing.assert_array_equal(getattr(pool, field), getattr(untouched, field))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_one_asks_the_same_in_any_order_and_under_any_seed(name: str) -> None:
    pool = candidates(name=name)
    assert pool.labeled_targets is not None and pool.spacing is not None
    mixed = np.random.default_rng(1).permutation(60)
    shuffled = Candidates(
        np.asarray(pool.embeddings)[mixed],
        pool.probs[mixed],
        pool.labeled_embeddings[::-1],
        None if pool.member_probs is None else pool.member_probs[:, mixed],
        pool.labeled_targets[::-1],
        pool.spacing[mixed],
    )
    assert [int(mixed[row]) for row in ranked(name, shuffled, 15, seed=9)] == ranked(name, pool, 15)


def at_angles(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


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


# --- the other ones that go by doubt


def test_least_confidence_asks_where_the_best_guess_is_worst() -> None:
    # Best guesses 0.5, 0.9, 0.45: utilities 0.5, 0.1, 0.55. The gap would put item 0 first.
    pool = far_apart([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.45, 0.3, 0.25]])
    rows, utility = load("least_confidence")(pool, 3, np.random.default_rng(0))
    assert rows.tolist() == [2, 0, 1]
    np.testing.assert_allclose(utility, [0.55, 0.5, 0.1], atol=1e-6)


def test_entropy_asks_where_most_classes_are_possible() -> None:
    # log 2 / log 3 = 0.6309, 0 and log 3 / log 3 = 1.
    pool = far_apart([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    rows, utility = load("entropy")(pool, 3, np.random.default_rng(0))
    assert rows.tolist() == [2, 0, 1]
    np.testing.assert_allclose(utility, [1.0, 0.6309, 0.0], atol=1e-4)


def test_density_margin_prefers_the_crowd_among_close_calls() -> None:
    # Doubt 0.9, 0.9, 0.5; spacing 1, 3, 1 with the median 1: density 1/2, 1/4, 1/2.
    pool = far_apart([[0.55, 0.45], [0.55, 0.45], [0.75, 0.25]])
    crowd = replace(pool, spacing=np.array([1, 3, 1], np.float32))
    rows, utility = load("density_margin")(crowd, 3, np.random.default_rng(0))
    assert rows.tolist() == [0, 2, 1]
    np.testing.assert_allclose(utility, [0.45, 0.25, 0.225], atol=1e-6)
    assert ranked("density_margin", pool, 3) == ranked("margin", pool, 3)


def test_inlier_margin_asks_about_close_calls_that_are_no_strangers() -> None:
    # 1 - 0.3 - 0.1 = 0.6; a likely stranger, 1 - 0.8 - 0 = 0.2; a toss-up, 1 - 0 - 0 = 1.
    pool = far_apart([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    members = np.array([[[0.4, 0.3, 0.3], [0.1, 0.1, 0.8], [0.5, 0.5, 0.0]]], np.float32)
    rows, utility = load("inlier_margin")(replace(pool, member_probs=members), 3, np.random.default_rng(0))
    assert rows.tolist() == [2, 0, 1]
    np.testing.assert_allclose(utility, [1.0, 0.6, 0.2], atol=1e-6)


def test_disagreement_counts_the_votes_of_the_model_the_nearest_answer_and_the_means() -> None:
    # Class 0 answered at 0 and 2, its mean is 1; class 1 at 2.5 and 10, its mean 6.25. Nearest answer and nearest mean
    # of 0.1: classes 0, 0; of 2.9: 1, 0; of 9.8: 1, 1. The model says 0, 2, 0: one, three and two different votes.
    # Two against one: 1 - 2/3 log 2 / log 3 = 0.5794.
    line = np.array([[0.1], [2.9], [9.8]], np.float32)
    pool = Candidates(
        line,
        np.array([[0.9, 0.1, 0.0], [0.0, 0.1, 0.9], [0.9, 0.1, 0.0]], np.float32),
        np.array([[0], [2], [2.5], [10], [9.7]], np.float32),
        labeled_targets=np.array([0, 0, 1, 1, -1]),  # the last one names no class and has no vote
    )
    rows, utility = load("disagreement")(pool, 3, np.random.default_rng(0))
    assert rows.tolist() == [1, 2, 0] or rows.tolist() == [1, 0, 2]
    by_row = dict(zip(rows.tolist(), utility.tolist(), strict=True))
    assert by_row == pytest.approx({0: 0.0, 1: 1.0, 2: 0.5794}, abs=1e-4)


# --- coreset, badge, probcover


def test_coreset_asks_for_what_is_farthest_from_all_answers() -> None:
    # From the answer at 2 the items are 2, 1, 2 and 8 away; after the one at 10, the ones at 0 and 4 (2 each), then 1.
    line = np.array([[0], [1], [4], [10]], np.float32)
    pool = Candidates(line, np.full((4, 2), 0.5, np.float32), np.array([[2]], np.float32))
    rows, utility = load("coreset")(pool, 4, np.random.default_rng(0))
    assert rows.tolist() == [3, 0, 2, 1]
    np.testing.assert_allclose(utility, [8, 2, 2, 1], atol=1e-4)


def test_badge_begins_with_the_longest_gradient_and_measures_from_it() -> None:
    # a = (-0.5, 0.5) and (-0.1, 0.1), h = (1, 0) and (0, 10): |g|^2 = 0.5 * 1 and 0.02 * 100; g_0 . g_1 = 0.1 * 0.
    points = np.array([[1, 0], [0, 10]], np.float32)
    pool = Candidates(points, np.array([[0.5, 0.5], [0.9, 0.1]], np.float32), np.zeros((0, 2), np.float32))
    rows, utility = load("badge")(pool, 2, np.random.default_rng(0))
    assert rows.tolist() == [1, 0]
    np.testing.assert_allclose(utility, [2.0, 2.5], atol=1e-5)


def test_badge_measures_what_whole_gradients_would() -> None:
    pool = candidates(m=40)
    rows, utility = load("badge")(pool, 20, np.random.default_rng(0))
    slopes = pool.probs - np.eye(3, dtype=np.float32)[pool.probs.argmax(axis=1)]
    gradients = (slopes[:, :, None] * np.asarray(pool.embeddings)[:, None, :]).reshape(40, -1)
    away = np.square(gradients[:, None] - gradients).sum(axis=2)
    assert rows[0] == np.square(gradients).sum(axis=1).argmax()
    for place in range(1, 20):
        assert utility[place] == pytest.approx(away[rows[place], rows[:place]].min(), rel=1e-3)


def test_probcover_asks_for_what_has_most_uncovered_items_about_it() -> None:
    # Five items around 0 degrees, three around 90 and one answered far from both. At 84 degrees 4 and 88 meet: 5/6
    # and 3/4 of their neighbourhoods are their own, 0.95 on average; at 86 degrees 2 and 90 are mixed as well, 0.86.
    # So the radius lies between. 4 covers its own five and 88; then 88, 90 and 92 cover two each; nothing is left.
    pool = Candidates(at_angles([88, 90, 92, -4, -2, 0, 2, 4]), np.full((8, 2), 0.5, np.float32), at_angles([225]))
    rows, utility = load("probcover")(pool, 4, np.random.default_rng(0))
    assert rows[:2].tolist() == [7, 0]
    assert utility.tolist() == [6, 2, 0, 0]
    # An answer near the large group leaves the small one to ask about.
    rows, utility = load("probcover")(replace(pool, labeled_embeddings=at_angles([0])), 2, np.random.default_rng(0))
    assert rows[0] == 0 and utility.tolist() == [3, 0]


def plain_cover(points: np.ndarray, labeled: np.ndarray, cosine: float, budget: int) -> tuple[list[int], list[int]]:
    """Algorithm 1 over the whole table of pairs: rows and how many each newly covers, until everything is covered."""
    near = points @ points.T > cosine
    np.fill_diagonal(near, True)
    bare = ~(points @ labeled.T > cosine).any(axis=1)
    counts, chosen, covers = (near & bare).sum(axis=1), [], []
    while len(chosen) < budget and bare.any():
        chosen.append(int(counts.argmax()))
        covers.append(int((near[chosen[-1]] & bare).sum()))
        bare &= ~near[chosen[-1]]
        counts = (near & bare).sum(axis=1)
        counts[chosen] = -1
    return chosen, covers


@pytest.mark.parametrize("block", [64, 1024])
@pytest.mark.parametrize("sieved", [False, True])
def test_probcover_asks_what_a_plain_search_over_all_pairs_asks(
    sieved: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probcover, "_BLOCK", block)
    monkeypatch.setattr(probcover, "_PAIRS", 7)
    monkeypatch.setattr(probcover, "_STRAY", 0.5)
    monkeypatch.setattr(probcover, "_SIEVED", 100 if sieved else 10_000)
    rng = np.random.default_rng(0)
    # 40 clouds of uneven size in 16 directions, of which four count most, as principal directions do.
    spread = np.r_[np.full(4, 1.0), np.full(12, 0.15)]
    centres = rng.normal(size=(40, 16)) * spread
    drawn = centres[(40 * rng.random(720) ** 2).astype(int)] + 0.25 * rng.normal(size=(720, 16)) * spread
    points = unit_rows(drawn.astype(np.float32))
    pool = Candidates(points[20:], np.full((700, 10), 0.1, np.float32), points[:20])
    cosine = probcover.purest(points[20:], 10, np.random.default_rng(0))
    assert (probcover._sieve(points[20:], cosine) is not None) == sieved
    rows, utility = load("probcover")(pool, 700, np.random.default_rng(0))
    chosen, covers = plain_cover(points[20:], points[:20], cosine, 700)
    assert 30 < len(chosen) < 700
    assert rows[: len(chosen)].tolist() == chosen
    assert utility[: len(chosen)].tolist() == covers
    assert not utility[len(chosen) :].any()


def test_a_sieve_never_says_less_than_the_product_of_two_items() -> None:
    points = unit_rows(np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32) ** 3)
    for p in (1, 8, 23):
        short = probcover._shortened(points, p)
        assert short.shape == (300, p + 1)
        assert (short @ short.T >= points @ points.T - 1e-6).all()
        # What is left out of an item and itself is as long as it is.
        np.testing.assert_allclose(np.diag(short @ short.T), 1, atol=2e-5)


# --- rare_class


def test_rare_class_adds_the_deviation_to_what_the_answers_say() -> None:
    # Items at -1 and 1, so the root mean square is 1 and the kernel's length 0.7; one answer, at 0. Its kernel with
    # both is exp(-1 / 0.98) = 0.3604: mean 0.3604 / 1.05 = 0.3433, variance 1 - 0.3604^2 / 1.05 = 0.8763, deviation
    # 0.9361, in all 1.2794. The two have a kernel of exp(-4 / 0.98) = 0.0169 with each other; given the answer their
    # covariance is 0.0169 - 0.1237 = -0.1068, so asking one leaves the other 0.8763 - 0.1068^2 / 0.9263 = 0.8640.
    line = np.array([[-1], [1]], np.float32)
    pool = Candidates(
        line, np.full((2, 2), 0.5, np.float32), np.zeros((1, 1), np.float32), labeled_targets=np.array([1])
    )
    _, utility = load("rare_class")(pool, 2, np.random.default_rng(0))
    np.testing.assert_allclose(utility, [1.2794, 0.3433 + 0.8640**0.5], atol=1e-3)


def test_rare_class_finds_more_of_the_class_with_the_fewest_answers() -> None:
    rng = np.random.default_rng(0)
    corner = np.array([4.0, 0, 0, 0])
    points = rng.normal(size=(200, 4)).astype(np.float32)
    points[:10] += corner
    labeled = np.concatenate([corner[None], rng.normal(size=(9, 4))]).astype(np.float32)
    pool = Candidates(
        points, np.full((200, 2), 0.5, np.float32), labeled, labeled_targets=np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, -1])
    )
    assert sum(row < 10 for row in ranked("rare_class", pool, 12)) >= 8


def test_the_scarcest_class_has_the_fewest_answers_but_one_at_least() -> None:
    assert scarcest(np.array([2, 2, 0, 0, 0, 3, 3, -1])) == 2
    assert scarcest(np.array([-1, -1])) is None
    assert scarcest(None) is None


# --- typiclust


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
    pool = candidates(name=name)
    rows = np.random.default_rng(1).permutation(60)
    everything = np.asarray(pool.embeddings)[np.argsort(rows)]
    unread = replace(pool, embeddings=Picked(everything, rows))
    assert ranked(name, unread, 20) == ranked(name, pool, 20)


def test_of_very_many_items_a_sample_tells_the_near_copy_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    monkeypatch.setattr(acquisition, "_EXACT", 5000)
    exact = near_copy_radius(points)
    assert exact == pytest.approx(acquisition.NEAR_COPY * np.sqrt(points.var(axis=0).sum()), rel=1e-5)
    monkeypatch.setattr(acquisition, "_EXACT", 4999)
    monkeypatch.setattr(acquisition, "_SAMPLE", 1000)
    assert near_copy_radius(points) != exact
    assert near_copy_radius(points) == pytest.approx(exact, rel=0.05)
    monkeypatch.setattr(acquisition, "_EXACT", 5000)
    assert near_copy_radius(points) == exact


@pytest.mark.slow
def test_memory_stays_flat_in_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 200,000 items of 64 numbers (49 MB); a table of 20,000 by 20,000 yes or no would take 381 MB.
    monkeypatch.setattr(fast_loop, "_AT_MOST", 20_000)
    rng = np.random.default_rng(0)
    n = 200_000
    embeddings = rng.normal(size=(n, 64)).astype(np.float32)
    probs = rng.dirichlet(np.ones(10), n).astype(np.float32)
    known = np.ones(n, bool)
    pool = Pool(embeddings, np.zeros((n, 5), np.int32), np.ones((n, 5), np.float32), known)
    train = Answers(np.arange(100), np.arange(100) % 10)
    for name in NAMES:
        members = rng.dirichlet(np.ones(11 if name in acquisition.NEED_STRANGERS else 10), (2, n)).astype(np.float32)
        learned = Learned(probs, probs, None, None, {}, members)
        settings = LoopSettings("label_spreading", {}, name, queue_length=50, audit_share=0.0)
        tracemalloc.start()
        entries = order(pool, learned, np.arange(100, n), known[:0].nonzero()[0], train.rows, settings, rng, train)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(entries) == 50
        assert peak < 120 * 2**20, f"{name} took {peak / 2**20:.0f} MB"
