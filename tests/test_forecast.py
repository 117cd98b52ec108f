"""The learning curve, what it promises, what choosing gained and the errors left: arrays in, numbers out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from ml_worker import errors_left, forecast, gain
from ml_worker.errors_left import Left, Origin
from ml_worker.fast_loop import Answers
from ml_worker.forecast import Points

SIZES = np.array([12, 25, 38, 50, 62, 75, 88, 100])


def curve_points(accuracy: Any, sizes: Any = SIZES, n_checks: int = 100, seed: int = 0) -> Points:
    """A project whose head is right on a check as soon as its accuracy is above the check's own difficulty, drawn at
    random: points that move together, as in a real one."""
    difficulty = np.random.default_rng(seed).random(n_checks)
    return Points(np.asarray(sizes), difficulty[None, :] < np.asarray(accuracy)[:, None])


def power(sizes: Any, a: float, b: float, c: float) -> Any:
    return 1 - (a + b * np.asarray(sizes, float) ** -c)


# --- the fit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "c"), [(0.02, 0.3, 1.0), (0.1, 0.2, 0.5), (0.0, 0.4, 0.8)])
def test_a_curve_without_noise_is_found_again(a: float, b: float, c: float) -> None:
    sizes = SIZES / 100
    found = forecast.fit(sizes, (a + b * sizes**-c)[None, :], np.full(8, 1e8), None)
    # The exponents are a grid, a twentieth apart.
    assert found[2][0] == pytest.approx(c, rel=0.05)
    assert found[0][0] + found[1][0] == pytest.approx(a + b, abs=0.008)
    then = found[0][0] + found[1][0] * 5.0 ** -found[2][0]
    assert then == pytest.approx(a + b * 5.0**-c, abs=0.015)


def test_a_rising_error_is_fitted_by_a_level() -> None:
    """Errors 0.1, 0.2, 0.3, all of one weight: b would be negative, so it is 0 and a their mean."""
    a, b, _ = forecast.fit(np.array([0.25, 0.5, 1.0]), np.array([[0.1, 0.2, 0.3]]), np.ones(3), None)
    assert (a[0], b[0]) == (pytest.approx(0.2), 0.0)


def test_no_floor_lies_below_zero() -> None:
    """Errors that fall steeper than any curve with a floor: a is 0, and b goes through the points by itself."""
    a, b, c = forecast.fit(np.array([0.25, 0.5, 1.0]), np.array([[0.9, 0.2, 0.0]]), np.full(3, 1e4), None)
    x = np.array([0.25, 0.5, 1.0]) ** -c[0]
    assert a[0] == 0.0
    assert b[0] == pytest.approx((0.9 * x[0] + 0.2 * x[1]) / np.square(x).sum())


def test_without_luck_a_point_has_the_posterior_of_its_rate() -> None:
    """90 of 100 right: Beta(90.5, 10.5), whose 5 % and 95 % quantiles the band of today is near."""
    found = forecast.forecast(curve_points([0.9] * 8), left=1000, target=0.99)
    k = curve_points([0.9] * 8).right[-1].sum()
    assert found is not None
    assert found.low == pytest.approx(beta.ppf(0.05, k + 0.5, 100 - k + 0.5), abs=0.02)
    assert found.high == pytest.approx(beta.ppf(0.95, k + 0.5, 100 - k + 0.5), abs=0.02)


# --- what is promised -----------------------------------------------------------------------------------------------


def test_the_band_holds_what_comes_in_simulated_projects() -> None:
    """150 projects of many curves and 60 checks each: the true accuracy 100 answers on lies in the 90 % band in at
    least 80 % of them, and not in all of them, or the band would say nothing."""
    rng = np.random.default_rng(7)
    held, width = [], []
    for seed in range(150):
        a, b, c = rng.uniform(0, 0.1), rng.uniform(0.5, 3.0), rng.uniform(0.3, 1.0)
        lucky = rng.normal(size=8) * 0.005
        points = curve_points(np.clip(power(SIZES, a, b, c) + lucky, 0, 1), n_checks=60, seed=seed)
        found = forecast.forecast(points, left=5000, target=0.99, seed=seed)
        assert found is not None
        step = next(each for each in found.ahead if each.more == 100)
        held.append(step.low <= power(200, a, b, c) <= step.high)
        width.append(step.high - step.low)
    assert 0.8 <= np.mean(held) < 1.0
    assert np.mean(width) < 0.35


def test_more_answers_never_promise_less() -> None:
    found = forecast.forecast(curve_points(power(SIZES, 0.03, 1.0, 0.6)), left=5000, target=0.99)
    assert found is not None
    assert [each.more for each in found.ahead] == [50, 100, 500]
    for name in ("accuracy", "low", "high", "gain", "gain_low", "gain_high"):
        values = [getattr(each, name) for each in found.ahead]
        assert values == sorted(values)
    middles = [middle for _, middle, _, _ in found.curve]
    assert middles == sorted(middles)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_nothing_impossible_is_promised(rate: float) -> None:
    found = forecast.forecast(curve_points([rate] * 8), left=5000, target=0.99)
    assert found is not None
    for each in found.ahead:
        assert 0 <= each.low <= each.accuracy <= each.high <= 1
        assert each.gain <= 1 - found.accuracy + 0.05
    assert all(0 <= low <= middle <= high <= 1 for _, middle, low, high in found.curve)


def test_all_right_is_told_to_stop_and_is_no_certainty() -> None:
    found = forecast.forecast(curve_points([1.0] * 8), left=5000, target=0.99)
    assert found is not None
    assert found.advice == "stop"
    assert found.low < 0.99 and found.ahead[0].low < 1.0


def test_a_steep_curve_is_told_to_go_on() -> None:
    found = forecast.forecast(curve_points(np.linspace(0.3, 0.75, 8)), left=5000, target=0.99)
    assert found is not None
    assert found.advice == "go_on"
    assert next(each for each in found.ahead if each.more == 100).gain > 0.03


def test_a_flat_curve_far_from_perfect_is_not_told_to_stop() -> None:
    """0.4 all along on 60 checks: five hundred answers may well bring three points, as they do on photographs."""
    found = forecast.forecast(
        curve_points([0.38, 0.4, 0.39, 0.4, 0.41, 0.4, 0.4, 0.41], n_checks=60), left=5000, target=0.99
    )
    assert found is not None
    assert found.advice == "open"


@pytest.mark.parametrize(
    ("worth", "later", "answers", "advice"),
    [
        (0.19, 0.04, 60, "stop"),
        (0.2, 0.04, 60, "open"),
        (0.19, 0.05, 60, "open"),
        (0.19, 0.04, 59, "open"),
        (0.49, 0.9, 60, "open"),
        (0.5, 0.9, 60, "go_on"),
    ],
)
def test_the_rule_is_the_one_that_is_written_down(worth: float, later: float, answers: int, advice: str) -> None:
    found = forecast.forecast(curve_points([0.8] * 8), left=5000, target=0.99)
    assert found is not None
    assert replace(found, worth=worth, worth_later=later, answers=answers).advice == advice


def test_nobody_is_told_to_stop_after_a_handful_of_answers() -> None:
    few = forecast.forecast(curve_points([1.0] * 8, SIZES * 59 // 100), left=5000, target=0.99)
    enough = forecast.forecast(curve_points([1.0] * 8, SIZES * 60 // 100), left=5000, target=0.99)
    assert few is not None and enough is not None
    assert (few.advice, enough.advice) == ("open", "stop")


def test_no_more_answers_are_promised_than_there_are_images() -> None:
    found = forecast.forecast(curve_points([0.8] * 8), left=70, target=0.99)
    assert found is not None
    assert [each.more for each in found.ahead] == [50, 70]
    assert found.advised == 70
    none = forecast.forecast(curve_points([0.8] * 8), left=0, target=0.99)
    assert none is not None
    assert none.ahead == []
    assert none.advice == "stop"


@pytest.mark.parametrize(
    ("n_points", "n_checks", "why"),
    [(8, 29, "29 of 30 random checks"), (2, 100, "too few answers"), (0, 0, "0 of 30 random checks")],
)
def test_too_little_is_said_to_be_too_little(n_points: int, n_checks: int, why: str) -> None:
    points = curve_points([0.8] * n_points, SIZES[:n_points], n_checks)
    assert why in forecast.lack(points)
    assert forecast.forecast(points, left=100, target=0.99) is None


def test_the_target_is_reached_sooner_on_a_steeper_curve() -> None:
    def reached(c: float, target: float) -> tuple[int | None, int | None, int | None]:
        found = forecast.forecast(curve_points(power(SIZES, 0.0, 3.0, c), n_checks=400), left=10**6, target=target)
        assert found is not None
        return found.reached

    steep, flat = reached(0.8, 0.93), reached(0.7, 0.93)
    assert steep[0] is not None and flat[0] is not None and steep[0] < flat[0]
    likely, few, many = steep
    assert likely is not None and few is not None
    assert few <= likely and (many is None or likely <= many)
    assert reached(0.8, 0.5) == (0, 0, 0)


def test_an_unreachable_target_is_never_reached() -> None:
    found = forecast.forecast(curve_points([0.7] * 8, n_checks=400), left=10**6, target=0.999)
    assert found is not None
    assert found.reached[0] is None
    assert found.floor < 0.99


# --- the points -----------------------------------------------------------------------------------------------------


def test_the_head_learns_from_the_first_answers_in_their_order() -> None:
    """Sixteen answers, eight parts: 2, 4, ... 16; accepted proposals in between are learnt from and are no steps."""
    seen: list[list[int]] = []

    def right_of(rows: Any, targets: Any) -> Any:
        seen.append(rows.tolist())
        return np.array([True, False])

    rows = np.arange(100, 118)
    given = Answers(rows, np.arange(18) % 2)
    asked = np.ones(18, bool)
    asked[[3, 17]] = False
    points = forecast.measure(given, 2, right_of, asked)
    assert points.sizes.tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    assert seen[0] == [100, 101]
    assert seen[1] == [100, 101, 102, 103, 104]  # 103 was accepted, not asked
    assert seen[-1] == rows.tolist()
    assert points.right.shape == (8, 2)


def test_a_part_of_one_class_is_left_out() -> None:
    given = Answers(np.arange(8), np.array([0, 0, 0, 0, 1, 1, 0, 1]))
    points = forecast.measure(given, 3, lambda rows, targets: np.ones(3, bool))
    assert points.sizes.tolist() == [5, 6, 7, 8]


def test_a_history_keeps_its_rates() -> None:
    points = forecast.of_history(np.array([10, 20]), np.array([1, 3]), 4)
    assert points.right.sum(axis=1).tolist() == [1, 3]


# --- what choosing gained -------------------------------------------------------------------------------------------


def arms(right_chosen: float, right_random: float, n_checks: int = 200) -> Any:
    """Rows below 1000 are random answers, the others chosen; a head is as good as the arm it learnt from."""
    difficulty = np.random.default_rng(3).random(n_checks)

    def right_of(rows: Any, targets: Any, weights: Any = None) -> Any:
        rate = right_random if rows[0] < 1000 else right_chosen
        return difficulty < rate * (len(rows) / 40) ** 0.1

    return right_of


def labels(start: int, n: int) -> Answers:
    return Answers(np.arange(start, start + n), np.arange(n) % 2)


def test_a_gain_is_found_with_its_interval() -> None:
    found = gain.compare(labels(0, 40), labels(1000, 120), 200, arms(0.9, 0.7))
    assert found is not None
    assert found.n == 40
    assert found.difference == pytest.approx(0.2, abs=0.06)
    assert 0 < found.low < found.difference < found.high < 0.4
    assert found.worth is None or found.worth > 40


def test_random_answers_whose_halves_differ_are_trusted_less() -> None:
    """A head that is good only where answer 0 is among those it learnt from, as one of two halves has it."""

    def lucky(rows: Any, targets: Any, weights: Any = None) -> Any:
        return arms(0.9, 0.7)(rows, targets) if rows[0] >= 1000 or 0 in rows else np.zeros(200, bool)

    steady = gain.compare(labels(0, 40), labels(1000, 120), 200, arms(0.9, 0.7))
    shaky = gain.compare(labels(0, 40), labels(1000, 120), 200, lucky)
    assert steady is not None and shaky is not None
    assert shaky.difference == steady.difference
    assert shaky.high - shaky.low > 2 * (steady.high - steady.low)


def test_equal_arms_have_an_interval_about_nothing() -> None:
    found = gain.compare(labels(0, 40), labels(1000, 120), 200, arms(0.8, 0.8))
    assert found is not None
    assert found.difference == 0
    assert found.low < 0 < found.high
    assert found.worth == 40


def test_worse_chosen_answers_are_worth_fewer_random_ones() -> None:
    """Accuracy grows as (n / 40)^0.1: 0.7 of 0.75 of it is random's at 40 x (0.7 / 0.75)^10 = 20 answers, about."""
    found = gain.compare(labels(0, 40), labels(1000, 120), 2000, arms(0.70, 0.75, 2000))
    assert found is not None
    assert found.difference < 0
    assert found.worth is not None and 12 <= found.worth <= 30


@pytest.mark.parametrize(
    ("n_baseline", "n_chosen", "n_checks", "why"),
    [(19, 50, 50, "19 of 20"), (20, 5, 50, "5 of 20 answers to chosen"), (20, 20, 29, "29 of 30"), (20, 20, 30, "")],
)
def test_what_a_comparison_lacks(n_baseline: int, n_chosen: int, n_checks: int, why: str) -> None:
    said = gain.lack(n_baseline, n_chosen, n_checks)
    assert (why in said) if why else said == ""


def test_the_fewer_answers_decide_how_many_are_compared() -> None:
    found = gain.compare(labels(0, 60), labels(1000, 25), 200, arms(0.8, 0.8))
    assert found is not None
    assert found.n == 25


# --- errors left ----------------------------------------------------------------------------------------------------


def test_three_labels_one_of_which_was_checked_for_two() -> None:
    """n = 1 checked and right, rest 2, at 50 %: a tail of 1/4 on either side.

    e wrong among 3: the chance that the one checked is right is 1 - e/3; e = 2 leaves 1/3 > 1/4, e = 3 leaves 0. So at
    most 2 of the rest are wrong, and nothing says that any is.
    """
    assert errors_left.left(Origin("x", 2, 1, 0), 0.5) == Left(0, 0.0, 2)


def test_an_endless_rest_has_the_interval_of_clopper_and_pearson() -> None:
    """2 wrong of 50: between 0.49 % and 13.71 % (tables), most likely 4 %."""
    found = errors_left.left(Origin("x", 10**7, 50, 2))
    assert found is not None
    assert found.low / 10**7 == pytest.approx(0.00488, abs=1e-4)
    assert found.high / 10**7 == pytest.approx(0.13714, abs=1e-4)
    assert found.expected == pytest.approx(0.04 * 10**7)


def test_no_error_in_sixty_is_at_most_six_percent() -> None:
    """(1 - p)^60 = 0.025 at p = 0.0596; as a ceiling, with the whole 5 % above: 0.05 at p = 0.0487."""
    both = errors_left.left(Origin("x", 10**7, 60, 0))
    above = errors_left.left(Origin("x", 10**7, 60, 0, is_ceiling=True))
    assert both is not None and above is not None
    assert both.high / 10**7 == pytest.approx(0.0596, abs=1e-4)
    assert above.high / 10**7 == pytest.approx(0.0487, abs=1e-4)
    assert (above.low, above.expected) == (0, None)


def test_a_sum_adds_the_ends_of_wider_intervals() -> None:
    """Two origins, so each at 97.5 %: no error in 60 is 1 - 0.0125^(1/60) = 7.04 % of each."""
    one, other = Origin("x", 10**7, 60, 0), Origin("y", 10**7, 60, 0)
    found = errors_left.total([one, other, Origin("unmeasured", 500), Origin("empty", 0, 10, 1)])
    assert found is not None
    assert found.high / 2e7 == pytest.approx(0.0704, abs=1e-4)
    assert (found.low, found.expected) == (0, 0.0)


def test_a_sum_with_a_ceiling_has_no_likeliest_value() -> None:
    found = errors_left.total([Origin("x", 100, 50, 5), Origin("y", 100, 50, 5, is_ceiling=True)])
    assert found is not None
    assert found.expected is None
    assert found.low > 0


def test_nothing_measured_is_nothing_told() -> None:
    assert errors_left.left(Origin("x", 100)) is None
    assert errors_left.total([Origin("x", 100)]) is None


def test_everything_checked_leaves_nothing() -> None:
    assert errors_left.left(Origin("x", 0, 50, 5)) == Left(0, 0.0, 0)


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="not possible"):
        Origin("x", 10, 5, 6)
