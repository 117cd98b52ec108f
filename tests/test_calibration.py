"""Confidence and accuracy, against cases worked out by hand and published tables."""

import numpy as np
import pytest

from ml_worker.calibrate import MIN_AUDIT, Temperatures, cross_fitted, doubt, softmax, temperature, temperatures
from ml_worker.evaluate import accuracy_report, calibration_report, expected_calibration_error, wilson
from ml_worker.fast_loop import Answers, LoopSettings, learn
from tests.pools import clouds


def audited(n: int, right: int, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (gap, 0) for n items, of which the first class is right so often."""
    logits = np.tile(np.array([gap, 0.0], np.float32), (n, 1))
    return logits, (np.arange(n) >= right).astype(np.int64)


def test_the_temperature_makes_confidence_match_accuracy() -> None:
    # All logits are (2, 0) and 75 of 100 are right: 1 / (1 + exp(-2 / T)) = 0.75 gives T = 2 / ln 3 = 1.8205.
    degrees = temperature(*audited(100, 75))
    assert degrees == pytest.approx(1.8205, abs=1e-3)
    assert softmax(audited(100, 75)[0], degrees)[0, 0] == pytest.approx(0.75, abs=1e-3)


def test_a_small_audit_moves_the_temperature_only_part_of_the_way() -> None:
    # Forty answers, 30 right: ln T = ln(2 / ln 3) * 40 / (40 + 50).
    assert temperature(*audited(40, 30)) == pytest.approx(np.exp(np.log(2 / np.log(3)) * 40 / 90), abs=1e-3)


def test_without_thirty_audit_answers_there_is_no_temperature() -> None:
    assert MIN_AUDIT == 30
    assert temperature(*audited(29, 20)) is None
    assert temperature(*audited(30, 20)) is not None


@pytest.mark.parametrize("right", [0, 100])
def test_answers_that_all_agree_leave_the_temperature_within_bounds(right: int) -> None:
    degrees = temperature(*audited(100, right))
    assert degrees is not None
    assert np.exp(-2) <= degrees <= np.exp(3) * 1.001


def test_a_temperature_never_changes_which_class_is_likeliest() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    for degrees in (0.2, 1.0, 9.0):
        assert (softmax(logits, degrees).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_softmax_of_huge_logits_is_finite_and_sums_to_one() -> None:
    probs = softmax(np.array([[1e4, 0.0, -1e4], [1e4, 1e4, 1e4]], np.float32))
    np.testing.assert_allclose(probs, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-6)


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3.
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_the_published_ones(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_from_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_calibration_error_is_the_mean_gap_over_bins() -> None:
    # Thirty items, two to a bin: confidence 0.6 with one of two right (gap 0.1) in ten bins, 0.9 with two of two
    # right (gap 0.1) in five.
    confidence = np.array([0.6] * 20 + [0.9] * 10, np.float32)
    correct = np.array([True, False] * 10 + [True] * 10)
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.1, abs=1e-6)
    assert expected_calibration_error(confidence[:0], correct[:0]) == 0.0


def test_a_report_counts_by_class() -> None:
    probs = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.3, 0.3, 0.4]], np.float32)
    report = accuracy_report(probs, np.array([0, 1, 1, 2]))
    assert (report["n"], report["correct"], report["accuracy"]) == (4, 3, 0.75)
    assert (report["low"], report["high"]) == wilson(3, 4)
    assert report["recall"] == [[1, 1], [1, 2], [1, 1]]
    assert report["confused"] == [[1, 0, 1]]


def test_a_report_on_nothing_claims_nothing() -> None:
    report = accuracy_report(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    assert report["accuracy"] is None
    assert (report["low"], report["high"], report["recall"]) == (0.0, 1.0, [[0, 0], [0, 0]])


# --- a temperature for each class


def drawn(rng: np.random.Generator, n: int, degrees: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of n items, and truths as often as the softmax at the temperature of the predicted class says."""
    logits = (2 * rng.normal(size=(n, len(degrees)))).astype(np.float32)
    probs = softmax(logits, np.array(degrees, np.float32)[logits.argmax(axis=1)])
    return logits, (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def two_classes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n items predicted as each of two classes, all with a gap of 2: 9 of 10 right of the one, 6 of 10 of the other.

    Which are right is spread evenly, so that every fifth of them is like the whole.
    """
    logits = np.repeat(np.array([[2.0, 0.0], [0.0, 2.0]], np.float32), n, axis=0)
    block = np.arange(n) // 5 % 10
    return logits, np.concatenate([block >= 9, block < 6]).astype(np.int64)


def test_a_class_that_is_right_less_often_gets_a_temperature_of_its_own() -> None:
    # By hand: 1.5 of 2 right gives T = 2 / ln 3 for both; 0.9 gives 2 / ln 9, 0.6 gives 2 / ln 1.5, each drawn towards
    # the common one by 50 of 250 answers.
    found = temperatures(*two_classes(200))
    assert found.common == pytest.approx(2 / np.log(3), abs=1e-3)
    own = {0: 2 / np.log(9), 1: 2 / np.log(1.5)}
    assert set(found.by_class) == {0, 1}
    for column, degrees in found.by_class.items():
        expected = 0.8 * np.log(own[column]) + 0.2 * np.log(2 / np.log(3))
        assert np.log(degrees) == pytest.approx(expected, abs=1e-3)


def test_a_class_predicted_fewer_than_thirty_times_has_the_common_temperature() -> None:
    logits, targets = two_classes(200)
    kept = np.r_[0:200, 200:229]
    found = temperatures(logits[kept], targets[kept])
    assert 1 not in found.by_class and found.common is not None


def test_classes_that_need_none_of_their_own_hardly_ever_get_one() -> None:
    rng = np.random.default_rng(0)
    without = sum(len(temperatures(*drawn(rng, 600, (1.5,) * 6)).by_class) for _ in range(20))
    needed = sum(len(temperatures(*drawn(rng, 600, (0.8, 0.8, 0.8, 2.5, 2.5, 2.5))).by_class) for _ in range(20))
    assert without <= 12  # of 120
    assert needed >= 108


def test_a_class_of_its_own_changes_its_items_alone_and_never_their_likeliest_class() -> None:
    logits = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    probs = Temperatures(2.0, {1: 0.5}).probs(logits)
    mine = logits.argmax(axis=1) == 1
    np.testing.assert_allclose(probs[mine], softmax(logits[mine], 0.5), atol=1e-6)
    np.testing.assert_allclose(probs[~mine], softmax(logits[~mine], 2.0), atol=1e-6)
    assert (probs.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_without_thirty_audit_answers_there_is_no_temperature_of_any_kind() -> None:
    assert temperatures(*audited(29, 20)) == Temperatures(None, {})
    np.testing.assert_allclose(Temperatures(None).probs(np.zeros((1, 2), np.float32)), [[0.5, 0.5]])


def test_the_loop_calibrates_every_item_by_the_class_it_is_predicted_as() -> None:
    # Of the audit answers among the items of class 1, every third says class 2 instead: of that class alone, the model
    # is too sure.
    pool, targets = clouds(450)
    rng = np.random.default_rng(3)
    order = rng.permutation(450)
    train, audit = np.sort(order[:30]), np.sort(order[30:330])
    answers = targets[audit]
    wrong = np.flatnonzero(answers == 1)[::3]
    answers[wrong] = 2
    settings = LoopSettings("logistic_regression", {"inverse_penalty": 1.0}, "margin")
    learned = learn(pool, Answers(train, targets[train]), Answers(audit, answers), 3, settings)
    assert learned.temperature is not None and learned.class_temperatures is not None
    own = learned.class_temperatures
    assert own[1] > learned.temperature > max(own[0], own[2])
    guesses = learned.logits.argmax(axis=1)
    for column in range(3):
        mine = guesses == column
        np.testing.assert_allclose(learned.probs[mine], softmax(learned.logits[mine], own[column]), atol=1e-6)


def test_a_class_no_network_has_heard_of_does_not_spoil_the_others() -> None:
    logits, targets = drawn(np.random.default_rng(2), 300, (1.5, 1.5, 1.5))
    unknown = np.concatenate([logits, np.full((300, 1), -np.inf, np.float32)], axis=1)
    assert temperatures(unknown, targets).common == pytest.approx(temperatures(logits, targets).common, rel=1e-5)


@pytest.mark.parametrize("by_class", [True, False])
def test_cross_fitted_probabilities_know_nothing_of_their_own_answer(by_class: bool) -> None:
    logits, targets = drawn(np.random.default_rng(3), 400, (0.8, 2.5, 2.5))
    probs = cross_fitted(logits, targets, by_class=by_class)
    other = targets.copy()
    other[7] = (other[7] + 1) % 3
    changed = np.flatnonzero((cross_fitted(logits, other, by_class=by_class) != probs).any(axis=1))
    assert len(changed) and not np.any(changed % 5 == 7 % 5)
    assert (probs.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_cross_fitting_takes_the_flattery_away() -> None:
    rng = np.random.default_rng(4)
    fitted, held_out, fresh = [], [], []
    for _ in range(60):
        logits, targets = drawn(rng, 60, (1.5, 1.5, 1.5))
        found = temperatures(logits, targets)

        def surprise(probs: np.ndarray, truth: np.ndarray) -> float:
            return float(-np.log(probs[np.arange(len(truth)), truth]).mean())

        fitted.append(surprise(found.probs(logits), targets))
        held_out.append(surprise(cross_fitted(logits, targets, by_class=True), targets))
        more, truth = drawn(rng, 2000, (1.5, 1.5, 1.5))
        fresh.append(surprise(found.probs(more), truth))
    assert np.mean(fitted) < np.mean(held_out)
    assert abs(np.mean(held_out) - np.mean(fresh)) < np.mean(fresh) - np.mean(fitted) + 0.02


# --- the report


def test_a_report_by_hand() -> None:
    # Confidences 0.8 (right), 0.6 (wrong): two bins of one, gaps 0.2 and 0.6. Squared distances: 2 * 0.2^2, 2 * 0.6^2.
    report = calibration_report(np.array([[0.8, 0.2], [0.6, 0.4]], np.float32), np.array([0, 1]))
    assert report["ece"] == pytest.approx(0.4)
    assert report["brier"] == pytest.approx((0.08 + 0.72) / 2)
    assert (report["accuracy"], report["n"]) == (0.5, 2) and report["confidence"] == pytest.approx(0.7)
    # A perfect model of these confidences: right with 0.8 and 0.6, so gaps of 0.2 or 0.8 and of 0.4 or 0.6.
    assert report["chance"] == pytest.approx((0.8 * 0.2 + 0.2 * 0.8 + 0.6 * 0.4 + 0.4 * 0.6) / 2, abs=0.03)
    assert report["bins"] == [[2, pytest.approx(0.7), 1, *map(pytest.approx, wilson(1, 2))]]


def test_the_report_and_the_plain_error_agree() -> None:
    for n in (1, 14, 15, 16, 100, 333):
        logits, targets = drawn(np.random.default_rng(n), n, (1.0, 1.0, 1.0))
        probs = softmax(logits)
        plain = expected_calibration_error(probs.max(axis=1), probs.argmax(axis=1) == targets)
        assert calibration_report(probs, targets)["ece"] == pytest.approx(plain, abs=1e-6)


def test_a_perfect_model_shows_an_error_and_the_report_says_that_chance_explains_it() -> None:
    rng = np.random.default_rng(5)
    reports = []
    for _ in range(60):
        logits, targets = drawn(rng, 200, (1.5, 1.5, 1.5, 1.5))
        reports.append(calibration_report(softmax(logits, 1.5), targets))
    assert np.mean([each["ece"] for each in reports]) == pytest.approx(
        np.mean([each["chance"] for each in reports]), rel=0.1
    )
    assert np.mean([each["ece"] <= each["chance_high"] for each in reports]) >= 0.88
    logits, targets = drawn(rng, 200, (1.5, 1.5, 1.5, 1.5))
    sure = calibration_report(softmax(logits, 0.3), targets)
    assert sure["ece"] > 2 * sure["chance_high"] and sure["confidence"] > sure["accuracy"] + 0.1


def test_the_interval_holds_the_error_of_many_answers() -> None:
    # The model is too sure by a factor of 2: with 20,000 answers chance adds next to nothing to the error.
    rng = np.random.default_rng(6)
    logits, targets = drawn(rng, 20_000, (2.0, 2.0, 2.0))
    true = expected_calibration_error(softmax(logits).max(axis=1), softmax(logits).argmax(axis=1) == targets)
    held = []
    for _ in range(80):
        logits, targets = drawn(rng, 400, (2.0, 2.0, 2.0))
        report = calibration_report(softmax(logits), targets)
        assert report["ece_low"] <= report["ece"] <= report["ece_high"]
        held.append(report["ece_low"] <= true <= report["ece_high"])
    assert np.mean(held) >= 0.85


def test_the_interval_is_the_bootstrap_moved_down_by_what_it_adds() -> None:
    logits, targets = drawn(np.random.default_rng(9), 60, (1.5, 1.5))
    probs = softmax(logits)
    report = calibration_report(probs, targets)
    order = np.argsort(probs.max(axis=1), kind="stable")
    confidence, hit = probs.max(axis=1)[order], (probs.argmax(axis=1) == targets)[order]
    again = [
        expected_calibration_error(confidence[rows], hit[rows])
        for rows in np.random.default_rng(0).integers(0, 60, (400, 60))
    ]
    moved = np.quantile(again, [0.025, 0.975]) - (np.mean(again) - report["ece"])
    assert (report["ece_low"], report["ece_high"]) == pytest.approx(np.clip(moved, 0, 1), abs=0.01)
    assert np.mean(again) > report["ece"]


def test_the_bins_hold_every_answer_once_and_rise() -> None:
    logits, targets = drawn(np.random.default_rng(7), 137, (1.0, 1.0))
    probs = softmax(logits)
    bins = calibration_report(probs, targets)["bins"]
    assert len(bins) == 10 and sum(each[0] for each in bins) == 137
    assert sum(each[2] for each in bins) == int((probs.argmax(axis=1) == targets).sum())
    confidences = [each[1] for each in bins]
    assert confidences == sorted(confidences)
    assert all(low - 1e-9 <= right / n <= high + 1e-9 for n, _, right, low, high in bins)
    assert len(calibration_report(probs[:35], targets[:35])["bins"]) == 3


# --- the two kinds of doubt


def test_members_that_agree_have_no_epistemic_doubt_and_sure_ones_no_aleatoric() -> None:
    # Item 0: all say half and half, ln 2 of ambiguity. Item 1: each is certain, of another class, ln 2 of
    # contradiction. Item 2: all are certain of the same.
    said = np.array([[[0.5, 0.5], [1, 0], [1, 0]], [[0.5, 0.5], [0, 1], [1, 0]]], np.float32)
    aleatoric, epistemic = doubt(said)
    np.testing.assert_allclose(aleatoric, [np.log(2), 0, 0], atol=1e-6)
    np.testing.assert_allclose(epistemic, [0, np.log(2), 0], atol=1e-6)


def test_the_two_parts_are_never_negative_and_add_up() -> None:
    said = np.random.default_rng(8).dirichlet(np.ones(5), (4, 300)).astype(np.float32)
    aleatoric, epistemic = doubt(said)
    mean = said.mean(axis=0)
    np.testing.assert_allclose(aleatoric + epistemic, -(mean * np.log(mean)).sum(axis=1), atol=1e-5)
    assert (aleatoric >= 0).all() and (epistemic >= 0).all()
    assert doubt(said[::-1])[1] == pytest.approx(epistemic, abs=1e-6)
