"""Confidence and accuracy, against cases worked out by hand and published tables."""

import numpy as np
import pytest

from ml_worker.calibrate import MIN_AUDIT, softmax, temperature
from ml_worker.evaluate import accuracy_report, expected_calibration_error, wilson


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


def test_a_report_on_nothing_claims_nothing() -> None:
    report = accuracy_report(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    assert report["accuracy"] is None
    assert (report["low"], report["high"], report["recall"]) == (0.0, 1.0, [[0, 0], [0, 0]])
