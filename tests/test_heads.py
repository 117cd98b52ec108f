"""What every head keeps to, and a case by hand for each."""

from typing import Any

import numpy as np
import pytest

from annotator.algorithms import catalogue, clean_parameters, get
from ml_worker import heads
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
