"""A certificate says what it says as often as it says: published tables, and many simulated projects."""

import numpy as np
import pytest

from ml_worker.gate import LADDER, audits_needed, certify, lower_bound

PROJECTS = 500
# 5 % plus three standard deviations of a rate seen in so many projects.
ALLOWED = 0.05 + 3 * np.sqrt(0.05 * 0.95 / PROJECTS)


# Newcombe 1998, Table I, method 5 (Clopper-Pearson, 95 % two-sided, so 2.5 % a side).
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_bounds_are_the_published_ones(k: int, n: int, low: float, high: float) -> None:
    assert lower_bound(k, n, 0.025) == pytest.approx(low, abs=5e-5)
    assert 1 - lower_bound(n - k, n, 0.025) == pytest.approx(high, abs=5e-5)


# Sample sizes for 95 % confidence, as tables for zero, one and two failures have them.
@pytest.mark.parametrize(
    ("target", "errors", "needed"),
    [(0.9, 0, 29), (0.95, 0, 59), (0.95, 1, 93), (0.95, 2, 124), (0.99, 0, 299), (0.99, 1, 473), (0.99, 2, 628)],
)
def test_audits_needed_are_those_of_the_tables(target: float, errors: int, needed: int) -> None:
    assert audits_needed(target, errors=errors) == needed


@pytest.mark.parametrize(("target", "delta", "errors"), [(0, 0.05, 0), (1, 0.05, 0), (0.9, 0, 0), (0.9, 0.05, -1)])
def test_a_target_nobody_can_certify_is_refused(target: float, delta: float, errors: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        audits_needed(target, delta, errors)


def test_a_perfect_audit_opens_the_gate_for_everything_and_a_short_one_for_nothing() -> None:
    confidence = np.linspace(0, 1, 1000, dtype=np.float32)
    assert certify(confidence, confidence[::4], np.ones(250, bool), 0.99) is None
    given = certify(confidence, confidence[::2], np.ones(500, bool), 0.99)
    assert given is not None
    assert (given.n, given.k, given.share) == (500, 500, 1.0)
    assert given.bound == pytest.approx(0.05 ** (1 / 500))


def test_the_walk_stops_at_the_first_region_that_fails() -> None:
    # The surest tenth is wrong, the rest is right: nothing behind the failure may be looked at.
    confidence = np.linspace(0, 1, 1000, dtype=np.float32)
    assert certify(confidence, confidence, confidence < 0.9, 0.8) is None
    # The unsure half is wrong: accepted down to about there and no further.
    given = certify(confidence, confidence, confidence > 0.5, 0.95)
    assert given is not None
    assert given.share == pytest.approx(0.5, abs=0.01)


def test_an_empty_pool_or_audit_opens_nothing() -> None:
    nothing = np.zeros(0, np.float32)
    confidence = np.linspace(0, 1, 100, dtype=np.float32)
    assert certify(nothing, confidence, np.ones(100, bool), 0.5) is None
    assert certify(confidence, nothing, np.zeros(0, bool), 0.5) is None
    assert certify(np.full(100, 0.7, np.float32), np.full(100, 0.7, np.float32), np.ones(100, bool), 0.9) is not None


def naive(confidence: np.ndarray, audited: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """The rule people use: the widest region whose audited precision reaches the target."""
    passed = None
    for share in LADDER:
        threshold = float(np.quantile(confidence, 1 - share, method="lower"))
        inside = audited >= threshold
        if inside.any() and right[inside].mean() >= target:
            passed = threshold
    return passed


def certified(confidence: np.ndarray, audited: np.ndarray, right: np.ndarray, target: float) -> float | None:
    given = certify(confidence, audited, right, target)
    return given.threshold if given else None


def wrong_share(rule: object, flat: bool, n_audit: int = 120, target: float = 0.9) -> float:
    """How often, over many projects, the region a rule accepts holds its promise in no sense: its precision over an
    endless pool lies below the target. flat: confidence tells nothing and precision is just short everywhere."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(PROJECTS):
        confidence = rng.random(2000)
        audited = rng.random(n_audit)

        def precision(at: np.ndarray) -> np.ndarray:
            return np.full_like(at, target - 0.002) if flat else 0.7 + 0.3 * at

        right = rng.random(n_audit) < precision(audited)
        threshold = rule(confidence, audited, right, target)  # type: ignore[operator]
        # Precision is linear in the confidence, so its mean above a threshold is its value half-way up.
        if threshold is not None and precision(np.array([(threshold + 1) / 2]))[0] < target - 1e-9:
            broken += 1
    return broken / PROJECTS


@pytest.mark.parametrize("flat", [True, False])
def test_a_certificate_is_wrong_in_at_most_one_project_of_twenty(flat: bool) -> None:
    assert wrong_share(certified, flat) <= ALLOWED


@pytest.mark.parametrize("flat", [True, False])
def test_trusting_the_audited_precision_would_be_wrong_far_more_often(flat: bool) -> None:
    assert wrong_share(naive, flat) > 3 * ALLOWED


def test_certificates_are_not_merely_withheld() -> None:
    rng = np.random.default_rng(0)
    given = 0
    for _ in range(50):
        audited = rng.random(120)
        right = rng.random(120) < 0.85 + 0.15 * np.sqrt(audited)
        given += certify(rng.random(2000), audited, right, 0.9) is not None
    assert given > 25
