"""What every head keeps to, and a case by hand for each."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from annotator.algorithms import catalogue, clean_parameters, get
from ml_worker import acquisition, heads
from ml_worker.acquisition import Candidates
from ml_worker.fast_loop import Answers, LoopSettings, learn
from ml_worker.pool import Pool
from tests.pools import clouds, pool_of

NAMES = [algorithm.name for algorithm in catalogue("head")]


def fitted(name: str, pool: Pool, rows: list[int], targets: Any, n_classes: int, **parameters: Any) -> np.ndarray:
    """Logits (N, C), after checking what holds for every head."""
    head = heads.load(name)(n_classes, **clean_parameters("head", name, parameters))
    taught = np.asarray(rows, np.int64)
    head.fit(pool, taught, np.asarray(targets, np.int64), np.ones(len(rows), np.float32))
    logits = head.logits(pool)
    assert logits.shape == (len(pool), n_classes)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_clouds_from_one_answer_each(name: str) -> None:
    pool, targets = clouds()
    logits = fitted(name, pool, [0, 1, 2], targets[:3], 3)
    assert (logits.argmax(axis=1) == targets).mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_an_answer_is_never_the_likeliest(name: str) -> None:
    pool, targets = clouds()
    logits = fitted(name, pool, [0, 1, 4], targets[[0, 1, 4]], 5)
    assert set(logits.argmax(axis=1).tolist()) == {0, 1}
    assert (logits[:, 2:].max(axis=1) <= logits[:, :2].max(axis=1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_class_alone_or_one_answer_alone_is_predicted_everywhere(name: str) -> None:
    pool, _ = clouds(spread=3.0)  # one connected cloud
    assert (fitted(name, pool, [0, 3, 6], [1, 1, 1], 3).argmax(axis=1) == 1).all()
    assert (fitted(name, pool, [0], [2], 3).argmax(axis=1) == 2).all()


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_one_point_do_not_break_it(name: str) -> None:
    points = np.concatenate([np.zeros((40, 3)), np.ones((40, 3))])
    logits = fitted(name, pool_of(points), [0, 40], [0, 1], 2)
    assert logits[0].argmax() == 0
    assert logits[40].argmax() == 1
    # The same place under two names: nothing to tell apart, but numbers all the same.
    fitted(name, pool_of(np.zeros((40, 3))), [0, 1, 2], [0, 1, 1], 2)


@pytest.mark.parametrize("name", NAMES)
def test_features_that_never_change_do_not_break_it(name: str) -> None:
    pool, targets = clouds()
    padded = pool_of(np.concatenate([pool.embeddings, np.full((len(pool), 4), 7.0)], axis=1))
    logits = fitted(name, padded, [0, 1, 2], targets[:3], 3)
    assert (logits.argmax(axis=1) == targets).mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_tiny_pools_are_no_special_case(name: str) -> None:
    assert fitted(name, pool_of([[0.0, 0.0]]), [0], [1], 2).argmax() == 1
    assert fitted(name, pool_of([[0.0], [1.0]]), [0, 1], [0, 1], 2).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_at_all_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no answer"):
        fitted(name, clouds()[0], [], [], 3)


@pytest.mark.parametrize("name", [n for n in NAMES if get("head", n).deterministic])
def test_the_order_of_items_and_of_answers_does_not_matter(name: str) -> None:
    pool, targets = clouds()
    order = np.random.default_rng(5).permutation(len(pool))
    place = np.argsort(order)
    taught = [0, 1, 2, 10, 20]
    straight = fitted(name, pool, taught, targets[taught], 3)
    mixed = fitted(name, pool_of(pool.embeddings[order]), place[taught][::-1].tolist(), targets[taught][::-1], 3)
    np.testing.assert_allclose(mixed[place], straight, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_an_item_that_is_not_indexed_is_scored_and_has_no_say(name: str) -> None:
    pool, targets = clouds()
    stranger = np.concatenate([pool.embeddings, [[100.0, 100.0], pool.embeddings[4]]])
    inside = np.arange(len(stranger)) < len(pool)
    with_strangers = fitted(name, pool_of(stranger, inside), [0, 1, 2], targets[:3], 3)
    np.testing.assert_allclose(with_strangers[:-2], fitted(name, pool, [0, 1, 2], targets[:3], 3), atol=1e-4)
    assert with_strangers[-1].argmax() == targets[4]


# --- label spreading


def spread(pool: Pool, rows: list[int], targets: list[int], alpha: float, neighbours: int = 1) -> np.ndarray:
    head = heads.load("label_spreading")(2, neighbours=neighbours, alpha=alpha)
    head.fit(pool, np.asarray(rows), np.asarray(targets), np.ones(len(rows), np.float32))
    return np.asarray(head.scores)


def test_label_spreading_solves_two_pairs_as_by_hand() -> None:
    # Each pair: S = [[0, 1], [1, 0]], F = (1 - a)(I - a S)^-1 Y = 1/(1 + a) at the answer and a/(1 + a) beside it.
    # a = 0.5: 2/3 and 1/3. Nothing passes between the pairs.
    scores = spread(pool_of([[0.0], [1.0], [50.0], [51.0]]), [0, 2], [0, 1], alpha=0.5)
    np.testing.assert_allclose(scores, [[2 / 3, 0], [1 / 3, 0], [0, 2 / 3], [0, 1 / 3]], atol=2e-4)


def test_label_spreading_solves_a_star_as_by_hand() -> None:
    # A middle between two leaves, linked to both with weight w: S = 1 / sqrt(2) on both links. With a = 0.5 and an
    # answer at leaf 1: middle a / (sqrt(2) (1 + a)) = 0.2357, far leaf (a / sqrt(2)) 0.2357 = 0.0833, own leaf 0.5833.
    scores = spread(pool_of([[0.0], [-1.0], [1.0]]), [1, 2], [0, 1], alpha=0.5)
    np.testing.assert_allclose(scores, [[0.2357, 0.2357], [0.5833, 0.0833], [0.0833, 0.5833]], atol=2e-4)


def test_an_item_outside_the_graph_takes_the_weighted_mean_of_its_neighbours() -> None:
    # The last row lies on top of row 0 and is not indexed: with one neighbour it takes exactly row 0's scores.
    pool = pool_of([[0.0], [1.0], [50.0], [51.0], [0.0]], [True, True, True, True, False])
    head = heads.load("label_spreading")(2, neighbours=1, alpha=0.5)
    head.fit(pool, np.array([0, 2]), np.array([0, 1]), np.ones(2, np.float32))
    np.testing.assert_allclose(head.logits(pool)[4], head.logits(pool)[0], atol=1e-5)


def test_where_no_answer_reaches_all_classes_are_equally_likely() -> None:
    logits = fitted("label_spreading", pool_of([[0.0], [1.0], [50.0], [51.0]]), [0], [1], 2, neighbours=1)
    assert logits[2].tolist() == pytest.approx([np.log(0.5)] * 2)


def test_the_graph_is_built_once_for_a_pool_and_forgotten_with_it() -> None:
    from ml_worker.heads import label_spreading

    pool, _ = clouds()
    assert label_spreading.graph(pool, 5) is label_spreading.graph(pool, 5)
    kept = len(label_spreading._graphs)
    del pool
    assert len(label_spreading._graphs) == kept - 1


# --- logistic regression


def test_logistic_regression_finds_the_weight_worked_out_by_hand() -> None:
    # Points -1 and +1, one answer each, C = 1: the minimum of 2 log(1 + exp(-w)) + w^2 / 2 is where
    # w (1 + exp(w)) = 2, so w = 0.6748; the logits differ by w x.
    logits = fitted("logistic_regression", pool_of([[-1.0], [1.0]]), [0, 1], [0, 1], 2, inverse_penalty=1.0)
    gaps = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(gaps, [-0.6748, 0.6748], atol=2e-3)


def test_logistic_regression_does_not_depend_on_the_scale_of_the_embeddings() -> None:
    pool, targets = clouds()
    small = fitted("logistic_regression", pool, [0, 1, 2], targets[:3], 3)
    large = fitted("logistic_regression", pool_of(1000 * pool.embeddings), [0, 1, 2], targets[:3], 3)
    np.testing.assert_allclose(large, small, atol=1e-2)


@pytest.mark.parametrize("inverse_penalty", [0.001, 1000.0])
def test_logistic_regression_settles_at_both_ends_of_its_parameter(inverse_penalty: float) -> None:
    rng = np.random.default_rng(0)
    pool = pool_of(rng.normal(size=(300, 64)))
    rows = list(range(200))
    fitted("logistic_regression", pool, rows, rng.integers(0, 10, 200), 10, inverse_penalty=inverse_penalty)


def test_many_answers_of_one_class_do_not_drown_the_others() -> None:
    """A screenful of one class is accepted at a time: a hundred answers here, three there."""
    rng = np.random.default_rng(0)
    centres = np.repeat([[0.0, 0.0], [2.2, 0.0], [1.1, 1.9]], 200, axis=0)
    truth = np.repeat([0, 1, 2], 200)
    pool = pool_of((centres + rng.normal(0, 0.6, (600, 2))).astype(np.float32))
    rows = np.concatenate([np.arange(0, 150), [200, 210, 220], [400, 410, 420]])
    head = heads.load("label_spreading")(3, neighbours=10, alpha=0.95)
    head.fit(pool, rows, truth[rows], np.ones(len(rows), np.float32))
    guesses = head.logits(pool).argmax(axis=1)
    assert min((guesses[truth == each] == each).mean() for each in range(3)) > 0.85


# --- prototype


def prototype(pool: Pool, rows: list[int], targets: list[int], **parameters: float) -> np.ndarray:
    given = {"neighbours": 0, "shrinkage": 0.0, "temperature": 1.0} | parameters
    return fitted("prototype", pool, rows, targets, max(targets) + 1, **given)


# Four points about (0, 0) at the angles 0, 90, 180 and 270 degrees, of different lengths.
CROSS = pool_of([[2.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [0.0, -3.0]])


def test_prototype_gives_the_cosines_worked_out_by_hand() -> None:
    # Class 0 is the mean of the directions 0 and 90 degrees, so 45 degrees whatever their lengths; class 1 is 180.
    logits = prototype(CROSS, [0, 1, 2], [0, 0, 1])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(logits, [[half, -1], [half, 0], [-half, 1], [-half, 0]], atol=1e-5)
    np.testing.assert_allclose(prototype(CROSS, [0, 1, 2], [0, 0, 1], temperature=0.1), 10 * logits, atol=1e-4)


def test_shrinkage_moves_a_class_towards_the_mean_of_the_classes() -> None:
    # Class 0 at 0 degrees, class 1 at 90; their mean is (1/2, 1/2). With one answer's worth of shrinkage class 0 is
    # (1 + 1/2, 1/2) / 2, of which the cosine with 0 degrees is 3 / sqrt(10) and with 90 degrees 1 / sqrt(10).
    logits = prototype(CROSS, [0, 1], [0, 1], shrinkage=1.0)
    np.testing.assert_allclose(logits[:2], np.array([[3, 1], [1, 3]]) / np.sqrt(10), atol=1e-5)
    # Ten answers in one place are worth more than the shrinkage, and their class stays where it is.
    steadier = prototype(CROSS, [0] * 10 + [1], [0] * 10 + [1], shrinkage=1.0)
    assert steadier[0, 0] > 0.99


def test_with_neighbours_a_class_may_have_two_looks() -> None:
    # Class 0 lies on both sides of class 1: the mean of its directions is nowhere, its nearest answer is at hand.
    logits = prototype(CROSS, [0, 2, 1], [0, 0, 1], neighbours=1)
    np.testing.assert_allclose(logits, [[1, 0], [0, 1], [1, 0], [0, -1]], atol=1e-5)
    # Of two neighbours the mean counts; a class with fewer answers gives what it has.
    np.testing.assert_allclose(prototype(CROSS, [0, 1, 2], [0, 0, 1], neighbours=2)[0], [0.5, -1], atol=1e-5)
    # An answer of three times the weight counts three times: (3 * 1 + 1 * 0) / 4.
    head = heads.load("prototype")(2, neighbours=2, shrinkage=0.0, temperature=1.0)
    head.fit(CROSS, np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([3, 1, 1], np.float32))
    np.testing.assert_allclose(head.logits(CROSS)[0], [0.75, -1], atol=1e-5)


def test_prototype_looks_at_directions_and_not_at_the_scale_of_the_embeddings() -> None:
    pool, targets = clouds()
    small = fitted("prototype", pool, [0, 1, 2], targets[:3], 3)
    large = fitted("prototype", pool_of(1000 * pool.embeddings), [0, 1, 2], targets[:3], 3)
    np.testing.assert_allclose(large, small, atol=1e-3)


# --- small network


def moons(noise: float = 0.08) -> tuple[Pool, np.ndarray]:
    """Two crescents, one in the other, which no straight line tells apart; class of each row, int64 (200,)."""
    rng = np.random.default_rng(0)
    angle, targets = rng.uniform(0, np.pi, 200), np.arange(200) % 2
    arcs = np.stack([np.cos(angle) + targets, np.where(targets, 0.4 - np.sin(angle), np.sin(angle))], axis=1)
    return pool_of(arcs + noise * rng.normal(size=arcs.shape)), targets.astype(np.int64)


def test_a_small_network_bends_its_boundary_where_a_line_cannot() -> None:
    pool, targets = moons()
    rows = list(range(60))
    line = fitted("logistic_regression", pool, rows, targets[rows], 2).argmax(axis=1) == targets
    bent = fitted("mlp", pool, rows, targets[rows], 2, noise=0.05).argmax(axis=1) == targets
    assert bent[60:].mean() > 0.95 > line[60:].mean()


def test_a_small_network_is_the_same_twice_and_leaves_the_random_state_alone() -> None:
    pool, targets = clouds()
    before = torch.get_rng_state()
    first = fitted("mlp", pool, [0, 1, 2], targets[:3], 3, steps=20)
    np.testing.assert_array_equal(first, fitted("mlp", pool, [0, 1, 2], targets[:3], 3, steps=20))
    assert torch.equal(before, torch.get_rng_state())


def test_cached_views_teach_what_does_not_matter() -> None:
    # The class is in the first dimension. In the answers the second one happens to tell the classes apart more
    # loudly; the views of each item scatter it, so a network that must say the same of them cannot lean on it.
    rng = np.random.default_rng(0)
    targets = np.arange(300) % 2
    points = np.stack([2.0 * targets - 1.0, rng.choice([-3.0, 3.0], 300)], axis=1) + 0.2 * rng.normal(size=(300, 2))
    rows = [int(row) for row in np.flatnonzero((points[:, 1] > 0) == (targets == 1))[:10]]
    plain = pool_of(points)
    scattered = np.stack([np.stack([points[:, 0], rng.choice([-3.0, 3.0], 300)], axis=1) for _ in range(4)])
    viewed = replace(plain, views=scattered.astype(np.float32))
    given = {"noise": 0.0, "consistency": 10.0}
    without = fitted("mlp", plain, rows, targets[rows], 2, **given).argmax(axis=1) == targets
    with_views = fitted("mlp", viewed, rows, targets[rows], 2, **given).argmax(axis=1) == targets
    assert without.mean() < 0.8
    assert with_views.mean() > 0.95


# --- ensembles


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_without_weight_is_as_if_not_given(name: str) -> None:
    pool, targets = clouds()
    head = heads.load(name)(3, **clean_parameters("head", name, {}))
    rows, said = np.array([0, 1, 2, 3, 4]), np.array([0, 1, 2, 1, 2])  # the last two are wrong
    head.fit(pool, rows, said, np.array([1, 1, 1, 0, 0], np.float32))
    assert (head.logits(pool).argmax(axis=1) == targets).mean() > 0.95


def test_resampled_weights_keep_every_answer_and_differ_by_seed() -> None:
    ones = np.ones(1000, np.float32)
    first, second = heads.resampled(ones, 1), heads.resampled(ones, 2)
    assert first.dtype == np.float32 and (first > 0).all() and first.mean() == pytest.approx(1)
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, heads.resampled(ones, 1))
    # Exponential: the deviation is the mean, and half of all draws lie below log 2.
    assert first.std() == pytest.approx(1, abs=0.1) and np.median(first) == pytest.approx(np.log(2), abs=0.07)
    # An answer counts in proportion to the weight it came with.
    np.testing.assert_allclose(heads.resampled(3 * ones, 1), 3 * first, rtol=1e-5)


def members(*probs: list[list[float]]) -> Candidates:
    """Candidates far from each other, about which these members speak."""
    said = np.asarray(probs, np.float32)
    points = 100 * np.eye(said.shape[1], dtype=np.float32)
    return Candidates(points, said.mean(axis=0), np.zeros((0, said.shape[1]), np.float32), said)


def test_bald_is_the_mutual_information_worked_out_by_hand() -> None:
    # Item 0: both members at 1/2: H(mean) = log 2, mean H = log 2, nothing to learn. Item 1: (1, 0) and (0, 1):
    # H(mean) = log 2, mean H = 0: 1 after division by log 2. Item 2: 0.9 and 0.5: H(0.7) = 0.6109, mean H =
    # (0.3251 + 0.6931) / 2 = 0.5091, so 0.1018 / 0.6931 = 0.1468. Item 3: both sure of the same.
    pool = members(
        [[0.5, 0.5], [1.0, 0.0], [0.9, 0.1], [1.0, 0.0]],
        [[0.5, 0.5], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]],
    )
    rows, utility = acquisition.load("bald")(pool, 4, np.random.default_rng(0))
    assert rows.tolist() == [1, 2, 0, 3]  # items 0 and 3 are level; 0 is the closer call
    np.testing.assert_allclose(utility, [1.0, 0.1468, 0.0, 0.0], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_members_disagree_between_the_classes_and_not_beside_the_answers(name: str) -> None:
    pool, targets = clouds(150, spread=1.6)
    rows = np.arange(12)
    settings = LoopSettings(name, clean_parameters("head", name, {}), "bald")
    nobody = Answers(np.zeros(0, np.int64), np.zeros(0, np.int64))
    learned = learn(pool, Answers(rows, targets[rows]), nobody, 3, settings)
    assert learned.member_probs is not None and learned.member_probs.shape == (heads.MEMBERS, 150, 3)
    np.testing.assert_allclose(learned.member_probs.sum(axis=2), 1, atol=1e-5)
    asked = Candidates(pool.embeddings, learned.probs, pool.embeddings[:0], learned.member_probs)
    ranked, utility = acquisition.load("bald")(asked, 150, np.random.default_rng(0))
    assert utility.max() > 1e-3
    best_two = np.sort(learned.probs, axis=1)[:, -2:]
    gap = best_two[:, 1] - best_two[:, 0]
    assert gap[ranked[:30]].mean() < gap.mean()


def test_only_an_acquisition_function_that_asks_for_members_pays_for_them() -> None:
    pool, targets = clouds()
    settings = LoopSettings("prototype", clean_parameters("head", "prototype", {}), "margin")
    learned = learn(pool, Answers(np.arange(9), targets[:9]), Answers(np.zeros(0, int), np.zeros(0, int)), 3, settings)
    assert learned.member_probs is None and set(learned.seconds) == {"fit", "score"}
