"""Doubts about labels: the published definition on cases worked out by hand, and what comes of them on clouds."""

import numpy as np
import pytest

from ml_worker import heads
from ml_worker.pool import Floats, Pool, Rows
from ml_worker.quality import label_errors, strangers, suspicion
from ml_worker.quality.repairs import change
from tests.pools import clouds, pool_of

NOBODY = np.zeros(0, np.int64)
SPREADING = ("label_spreading", {"neighbours": 10, "alpha": 0.9})
LINEAR = ("logistic_regression", {"inverse_penalty": 1.0})


# --- by hand ------------------------------------------------------------------------------------------------------

# Two labels of each class. The thresholds are the means of the own column: 0.5, 0.7 and 0.7.
BY_HAND = np.array(
    [
        [0.8, 0.1, 0.1],  # reaches the threshold of 0
        [0.2, 0.7, 0.1],  # labelled 0, reaches that of 1
        [0.1, 0.8, 0.1],
        [0.2, 0.6, 0.2],  # reaches none
        [0.1, 0.1, 0.8],
        [0.1, 0.3, 0.6],  # reaches none
    ],
    np.float32,
)
GIVEN = np.array([0, 0, 1, 1, 2, 2])


def test_the_joint_of_six_labels_as_worked_out_by_hand() -> None:
    assert label_errors.thresholds(BY_HAND, GIVEN) == pytest.approx([0.5, 0.7, 0.7])
    guesses = label_errors.confident_guesses(BY_HAND, GIVEN)
    assert guesses.tolist() == [0, 1, 1, -1, 2, -1]
    # Counts 1 1 0 / 0 1 0 / 0 0 1, each row scaled to its two labels, by six.
    joint = label_errors.joint(GIVEN, guesses, 3)
    assert joint == pytest.approx(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 2]]) / 6)
    assert label_errors.prune_by_noise_rate(BY_HAND, GIVEN, joint).tolist() == [False, True, *[False] * 4]


def test_the_score_is_the_mean_of_self_confidence_and_margin() -> None:
    # Item 1: 1 - 0.2 = 0.8, and half of 1 - (0.2 - 0.7) = 0.75.
    assert label_errors.doubt(BY_HAND, GIVEN)[1] == pytest.approx((0.8 + 0.75) / 2)
    assert label_errors.likeliest_other(BY_HAND, GIVEN).tolist()[:2] == [1, 1]


def test_of_two_classes_that_are_reached_the_likelier_counts() -> None:
    probs = np.array([[0.4, 0.3, 0.3], [0.4, 0.2, 0.4], [0.4, 0.5, 0.1], [0.35, 0.3, 0.35]], np.float32)
    given = np.array([0, 0, 1, 1])  # thresholds 0.4 and 0.4; of the third class there is no label to reach
    assert label_errors.confident_guesses(probs, given).tolist() == [0, 0, 1, -1]


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """60 labels of three classes, nine of them one too high, and what an unsure model says."""
    rng = np.random.default_rng(seed)
    truth = np.arange(60) % 3
    given = truth.copy()
    given[:9] = (truth[:9] + 1) % 3
    probs = np.round(0.5 * rng.dirichlet([1, 1, 1], 60) + 0.5 * np.eye(3)[truth], 3)
    return (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32), given


@pytest.mark.parametrize(
    ("seed", "counts"),
    [(2, [[11, 0, 3], [2, 9, 0], [0, 3, 11]]), (13, [[12, 0, 2], [3, 13, 0], [0, 2, 11]])],
)
def test_counts_and_flags_are_those_of_cleanlab(seed: int, counts: list[list[int]]) -> None:
    """The numbers are what cleanlab 2.9 says of the same input (compute_confident_joint without calibration, and
    find_label_issues)."""
    probs, given = noisy(seed)
    guesses = label_errors.confident_guesses(probs, given)
    found = np.zeros((3, 3), int)
    np.add.at(found, (given[guesses >= 0], guesses[guesses >= 0]), 1)
    assert found.tolist() == counts
    flagged = label_errors.prune_by_noise_rate(probs, given, label_errors.joint(given, guesses, 3))
    assert np.flatnonzero(flagged).tolist() == list(range(9))


def test_the_order_of_the_items_changes_nothing() -> None:
    probs, given = noisy(5)
    order = np.random.default_rng(0).permutation(60)
    joint, flagged = pruned(probs, given)
    joint_shuffled, flagged_shuffled = pruned(probs[order], given[order])
    assert joint_shuffled == pytest.approx(joint)
    assert flagged_shuffled.tolist() == flagged[order].tolist()
    assert 0 < flagged.sum() < 60


def pruned(probs: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The joint, and whose label it asks to be doubted."""
    joint = label_errors.joint(given, label_errors.confident_guesses(probs, given), probs.shape[1])
    return joint, label_errors.prune_by_noise_rate(probs, given, joint)


def test_a_perfect_model_finds_exactly_what_was_flipped() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(5, size=200)
    given, flipped = truth.copy(), rng.permutation(200)[:30]
    given[flipped] = (truth[flipped] + rng.integers(1, 5, 30)) % 5
    probs = (0.96 * np.eye(5)[truth] + 0.008).astype(np.float32)
    guesses = label_errors.confident_guesses(probs, given)
    joint = label_errors.joint(given, guesses, 5)
    assert set(np.flatnonzero(label_errors.prune_by_noise_rate(probs, given, joint))) == set(flipped)
    noise = label_errors.noise_of(given, guesses, 5)
    assert noise.rate == pytest.approx(0.15)
    assert noise.low < 0.15 < noise.high
    assert noise.high - noise.low < 0.15


def test_a_class_without_a_label_takes_no_part() -> None:
    probs, given = noisy(3)
    wider = np.concatenate([probs, np.zeros((60, 1), np.float32)], axis=1)
    narrow, wide = (label_errors.confident_guesses(each, given) for each in (probs, wider))
    assert narrow.tolist() == wide.tolist()
    joint = label_errors.joint(given, wide, 4)
    assert joint[:3, :3] == pytest.approx(label_errors.joint(given, narrow, 3))
    assert joint[3].sum() == joint[:, 3].sum() == 0


def test_where_nothing_is_confident_every_label_stays() -> None:
    joint = label_errors.joint(np.array([0, 0, 1]), np.array([-1, -1, -1]), 2)
    assert joint == pytest.approx(np.diag([2 / 3, 1 / 3]))


# --- out of sample ------------------------------------------------------------------------------------------------


def test_folds_are_level_in_every_class_and_together() -> None:
    targets = np.repeat([0, 1, 2], [50, 13, 3])
    folds = label_errors.stratified(targets, 5, np.random.default_rng(0))
    for column, n in ((0, 50), (1, 13), (2, 3)):
        sizes = np.bincount(folds[targets == column], minlength=5)
        assert sizes.sum() == n
        assert sizes.max() - sizes.min() <= 1
    assert np.ptp(np.bincount(folds)) <= 1


class ByHeart:
    """A head that knows the labels it was shown, and nothing of any other image."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def fit(self, pool: Pool, rows: Rows, targets: Rows, weights: Floats) -> None:
        self.rows, self.targets = rows, targets

    def logits(self, pool: Pool) -> Floats:
        known = np.zeros((len(pool), self.n_classes), np.float32)
        known[self.rows, self.targets] = 50.0
        return known


def test_a_label_has_no_say_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "load", lambda name: ByHeart)
    pool, truth = clouds(60)
    probs = label_errors.out_of_sample(pool, np.arange(5, 60), truth[5:], 3, "by_heart", {})
    assert probs == pytest.approx(np.full((55, 3), 1 / 3))


@pytest.mark.parametrize("head", [SPREADING, LINEAR])
def test_probabilities_are_those_of_the_labelled_rows(head: tuple[str, dict[str, float]]) -> None:
    pool, truth = clouds(60)
    rows = np.arange(59, 9, -1)
    probs = label_errors.out_of_sample(pool, rows, truth[rows], 3, *head)
    assert probs.argmax(axis=1).tolist() == truth[rows].tolist()
    assert probs.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-5)


def test_fewer_labels_than_folds() -> None:
    pool, truth = clouds(30)
    for n in (1, 2, 3):
        probs = label_errors.out_of_sample(pool, np.arange(n), truth[:n], 3, *LINEAR)
        assert probs.shape == (n, 3)
        assert np.isfinite(probs).all()


# --- suspicion ----------------------------------------------------------------------------------------------------


def doubts(pool, given, rows=None, n_classes=3, **more):  # type: ignore[no-untyped-def]
    rows = np.arange(len(given)) if rows is None else rows
    more.setdefault("strangers", NOBODY)
    return suspicion.doubts(pool, rows, given, n_classes, (SPREADING, LINEAR), **more)


def test_flipped_labels_in_clouds_are_found_and_named() -> None:
    pool, truth = clouds(90)
    given, flipped = truth.copy(), [3, 20, 41, 64]
    given[flipped] = (truth[flipped] + 1) % 3
    found = doubts(pool, given)
    assert np.flatnonzero(found.suspected).tolist() == flipped
    assert not found.foreign[flipped].any()
    assert found.instead[flipped].tolist() == truth[flipped].tolist()
    assert set(np.argsort(-found.score)[:4]) == set(flipped)
    assert found.noise is not None
    assert found.noise.low <= 4 / 90 <= found.noise.high
    # The head thinks little of the given label and much of the other.
    assert (found.support[flipped, 0] < 0.2).all()
    assert (found.support[flipped, 1] > 0.8).all()


def test_clean_clouds_raise_no_doubt() -> None:
    pool, truth = clouds(90)
    found = doubts(pool, truth)
    assert not found.suspected.any()
    assert found.noise is not None
    assert found.noise.rate < 0.02


def test_the_same_doubts_every_time() -> None:
    pool, truth = clouds(90, spread=1.6)
    one, two = (doubts(pool, truth, seed=4) for _ in range(2))
    assert one.score.tolist() == two.score.tolist()
    assert one.suspected.tolist() == two.suspected.tolist()


def test_the_head_that_names_held_out_labels_best_is_believed() -> None:
    """Two rings, one in the other: a straight line tells them apart no better than chance."""
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    radius = np.where(np.arange(80) % 2, 4.0, 1.0)
    pool = pool_of(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1))
    given = (np.arange(80) % 2).astype(np.int64)
    given[10] = 1 - given[10]
    found = doubts(pool, given, n_classes=2)
    assert found.head == "label_spreading"
    assert np.flatnonzero(found.suspected).tolist() == [10]


def test_a_class_too_small_for_folds_is_judged_by_its_neighbours() -> None:
    pool, truth = clouds(60)
    given = truth.copy()
    given[[0, 3]] = 3  # a class of two labels, both in the midst of class 0
    found = doubts(pool, given, n_classes=4)
    assert found.suspected[[0, 3]].all()
    assert found.instead[[0, 3]].tolist() == [0, 0]
    assert found.score[0] == 1.0
    given[3] = truth[3]  # of its only label nobody can tell
    assert not doubts(pool, given, n_classes=4).suspected[0]


def test_a_few_labels_of_one_class_are_no_reason_to_doubt() -> None:
    pool, truth = clouds(30)
    for given in (truth[:1], truth[:4], np.zeros(12, np.int64)):
        found = doubts(pool, given)
        assert not found.suspected.any()
        assert found.noise is None


def strange_clouds() -> tuple[object, np.ndarray, np.ndarray]:
    """Three clouds, and eight strangers in the middle between them that somebody gave the three classes in turn."""
    rng = np.random.default_rng(2)
    targets = np.arange(90) % 3
    angles = 2 * np.pi * targets / 3
    points = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.4 * rng.normal(size=(90, 2))
    middle = 0.3 * rng.normal(size=(20, 2))
    given = np.concatenate([targets, np.arange(8) % 3])
    return pool_of(np.concatenate([points, middle])), given, np.arange(90, 98)


def test_an_image_of_no_class_is_told_from_one_of_another() -> None:
    pool, given, strange = strange_clouds()
    given[0] = 1
    found = doubts(pool, given)
    assert found.suspected[0]
    assert not found.foreign[0]
    caught = found.suspected[strange]
    assert caught.sum() >= 2  # without an answer "none of these" few stand out enough
    assert found.foreign[strange][caught].all()
    assert not found.foreign[:90].any()


def test_answers_none_of_these_show_what_is_foreign() -> None:
    pool, given, strange = strange_clouds()
    given[0] = 1
    found = doubts(pool, given, strangers=np.arange(98, 110))
    assert found.suspected[strange].all()
    assert found.foreign[strange].all()
    assert not found.foreign[:90].any()
    assert found.instead.max() <= 2  # the class of strangers is no class to relabel to


def test_a_model_unsure_of_everything_knows_no_strangers() -> None:
    probs = np.full((100, 4), 0.25, np.float32)
    probs[:, 0] += np.linspace(0, 0.01, 100, dtype=np.float32)
    assert strangers.foreign(probs, np.arange(100) % 4, 4).sum() <= 10


def test_what_a_network_believed_early_counts_for_the_order_alone() -> None:
    pool, truth = clouds(90)
    given, flipped = truth.copy(), [3, 20, 41, 64]
    given[flipped] = (truth[flipped] + 1) % 3
    early = np.full(90, np.nan, np.float32)
    early[[20, 41]], early[5] = 0.0, 1.0
    plain, told = doubts(pool, given), doubts(pool, given, early=early)
    assert told.suspected.tolist() == plain.suspected.tolist()
    assert told.score[20] == pytest.approx(plain.score[20] / 2)
    assert told.score[5] == pytest.approx((plain.score[5] + 1) / 2)
    assert told.score[3] == plain.score[3]


def test_the_nearest_labelled_images_come_nearest_first_without_the_item() -> None:
    pool = pool_of([[0.0], [1.0], [3.0], [7.0], [100.0]])
    rows = np.array([0, 1, 2, 3])
    near = suspicion.nearest_labelled(pool, rows, np.array([1, 4]), 2)
    assert rows[near].tolist() == [[0, 2], [3, 2]]
    assert suspicion.nearest_labelled(pool, rows[:1], np.array([0]), 2).shape == (1, 0)


# --- what repairs are worth ---------------------------------------------------------------------------------------


def test_a_change_of_accuracy_as_worked_out_by_hand() -> None:
    before = np.repeat([True, True, False, False], [40, 1, 5, 4])
    after = np.repeat([True, False, True, False], [40, 1, 5, 4])
    found = change(before, after)
    assert (found.n, found.before, found.after) == (50, 0.82, 0.9)
    assert found.difference == pytest.approx(0.08)
    # Agresti and Min: counts 5.5 and 1.5 of 52; 4 / 52 +- 1.95996 sqrt(7 - 16 / 52) / 52.
    assert found.low == pytest.approx(4 / 52 - 1.959964 * np.sqrt(7 - 16 / 52) / 52)
    assert found.high == pytest.approx(4 / 52 + 1.959964 * np.sqrt(7 - 16 / 52) / 52)
    # Five of six went one way: (1 + 6) / 2^6, both ends.
    assert found.p == pytest.approx(2 * 7 / 64)


def test_no_change_in_a_hundred_is_not_certain() -> None:
    same = np.ones(100, bool)
    found = change(same, same)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.low < -0.01
    assert found.high > 0.01
