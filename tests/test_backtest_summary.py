"""What a back-test comes to, by hand on curves of two or three points."""

from typing import Any

import pytest

from ml_worker.backtest_summary import answers_until, baseline, mean_interval, summary


def run(acquisition: str, seed: int, accuracies: dict[int, float | None], **other: Any) -> dict[str, Any]:
    curve = [{"labels": labels, "test_accuracy": accuracy} for labels, accuracy in accuracies.items()]
    whole = {"acquisition": acquisition, "head": "h", "trainer": "none", "seed": seed, "curve": curve, "gates": []}
    return whole | other


def gate(points: list[tuple[float, int, int]], target: float = 0.9) -> dict[str, Any]:
    """points: (share accepted, right, checked), at 10, 20, ... answers."""
    curve = [
        {
            "labels": 10 * place,
            "auto_accepted": share,
            "auto_accepted_precision": right / checked if checked else None,
            "right": right,
            "checked": checked,
        }
        for place, (share, right, checked) in enumerate(points, start=1)
    ]
    return {"target_precision": target, "confidence": 0.95, "threshold_per_class": False, "looks": 1, "curve": curve}


# Margin is ahead by 0.2 at 10 answers and by 0.1 at 20 in seed 0, by 0.2 and 0.2 in seed 1; at 15 each is half way.
TWO_SEEDS = [
    run("margin", 0, {10: 0.6, 15: 0.7, 20: 0.8}),
    run("random_sampling", 0, {10: 0.4, 15: 0.55, 20: 0.7}),
    run("margin", 1, {10: 0.5, 15: 0.7, 20: 0.9}),
    run("random_sampling", 1, {10: 0.3, 15: 0.5, 20: 0.7}),
]


def test_a_mean_has_its_interval_by_students_t() -> None:
    # Mean 2, deviation sqrt(2), half width 12.706 * sqrt(2) / sqrt(2) = 12.706.
    assert mean_interval([1.0, 3.0]) == pytest.approx((2.0, 2.0 - 12.7062, 2.0 + 12.7062), abs=1e-4)
    assert mean_interval([0.7]) == (0.7, None, None)


def test_mean_curve_area_and_paired_difference_by_hand() -> None:
    margin, random_order = summary(TWO_SEEDS, sampled=False, n_measured=200)["curves"]
    assert [point["mean"] for point in margin["curve"]] == pytest.approx([0.55, 0.7, 0.85])
    assert [(point["least"], point["most"]) for point in margin["curve"]] == [(0.5, 0.6), (0.7, 0.7), (0.8, 0.9)]
    assert all(point["low"] >= 0.0 and point["high"] <= 1.0 for point in margin["curve"])
    # The area of a straight line is the height in its middle: 0.7 in both seeds, at random 0.55 and 0.5.
    assert margin["area"] == {"mean": pytest.approx(0.7), "low": pytest.approx(0.7), "high": pytest.approx(0.7)} | {
        "from": 10,
        "to": 20,
    }
    assert random_order["baseline"] is None
    assert random_order["area_difference"] is None
    # Differences 0.15 and 0.2: mean 0.175, half width 12.706 * 0.0353553 / sqrt(2) = 0.31766.
    difference = margin["area_difference"]
    assert (difference["mean"], difference["low"]) == (pytest.approx(0.175), pytest.approx(0.175 - 0.317655, abs=1e-5))
    assert difference["verdict"] == "no better"


def test_labels_saved_are_counted_on_straight_lines_to_the_accuracy_of_the_baseline() -> None:
    margin, random_order = summary(TWO_SEEDS, sampled=False, n_measured=200)["curves"]
    # Random order ends at 0.7 in both seeds. Margin passes 0.7 half way in both: 15 answers instead of 20.
    assert random_order["labels"]["accuracy"] == pytest.approx(0.7)
    assert margin["labels"]["answers"]["mean"] == pytest.approx(15.0)
    five = pytest.approx(5.0)
    assert margin["labels"]["saved"] == {"mean": five, "low": five, "high": five, "verdict": "better"}
    assert random_order["labels"]["saved"] is None


@pytest.mark.parametrize(("accuracy", "answers"), [(0.3, 10.0), (0.5, 15.0), (0.6, 20.0), (0.61, None)])
def test_answers_until_an_accuracy(accuracy: float, answers: float | None) -> None:
    found = answers_until(run("margin", 0, {10: 0.4, 20: 0.6}), accuracy, [10, 20])
    assert found == (None if answers is None else pytest.approx(answers))


def test_a_curve_that_never_comes_so_far_counts_with_all_its_answers_and_says_so() -> None:
    runs = [run("random_sampling", seed, {10: 0.4, 15: 0.6, 20: 0.8}) for seed in (0, 1)]
    runs += [run("margin", 0, {10: 0.5, 15: 0.6, 20: 0.7}), run("margin", 1, {10: 0.8, 15: 0.85, 20: 0.9})]
    margin = summary(runs, sampled=False, n_measured=200)["curves"][1]["labels"]
    assert (margin["reached"], margin["answers"]["mean"]) == (1, 15.0)  # 20 and 10
    assert margin["saved"]["mean"] == 5.0  # 0 and 10
    assert margin["saved"]["verdict"] == "no better"


def test_few_points_or_few_images_to_measure_on_bear_no_verdict() -> None:
    def of(runs: list[dict[str, Any]], n_measured: int) -> dict[str, Any]:
        margin: dict[str, Any] = summary(runs, sampled=False, n_measured=n_measured)["curves"][0]
        return margin

    told = of(TWO_SEEDS, 30)
    assert (told["lack"], told["labels"]["saved"]["verdict"]) == ("", "better")
    few = of(TWO_SEEDS, 29)
    assert few["lack"] == "measured on 29 images, 30 bear a verdict"
    assert (few["area_difference"]["verdict"], few["labels"]["saved"]["verdict"]) == (None, None)
    assert few["area_difference"]["mean"] == told["area_difference"]["mean"]
    # Far apart in both seeds, but nowhere else to compare: random order has no model at 10 and 20.
    pairs = [("margin", 0.9), ("random_sampling", 0.5)]
    late = [
        run(name, seed, {10: None if at == 0.5 else at, 20: None if at == 0.5 else at, 30: at + seed / 100})
        for seed in (0, 1)
        for name, at in pairs
    ]
    alone = of(late, 500)
    assert (alone["area"]["from"], alone["area"]["to"]) == (30, 30)
    assert alone["lack"] == "compared at one number of answers, 3 bear a verdict"
    assert alone["area_difference"]["low"] > 0.3
    assert (alone["area_difference"]["verdict"], alone["labels"]["saved"]["verdict"]) == (None, None)


def test_one_seed_gives_no_interval_and_no_verdict() -> None:
    margin = summary(TWO_SEEDS[:2], sampled=False, n_measured=200)["curves"][0]
    assert margin["area_difference"] == {"mean": pytest.approx(0.15), "low": None, "high": None, "verdict": None}
    assert margin["curve"][0] == {"labels": 10, "mean": 0.6, "low": None, "high": None, "least": 0.6, "most": 0.6}


def test_a_span_without_a_model_counts_for_nobody() -> None:
    runs = [run("margin", 0, {10: 0.9, 20: 0.8, 30: 0.8}), run("random_sampling", 0, {10: None, 20: 0.5, 30: 0.7})]
    margin, random_order = summary(runs, sampled=False, n_measured=200)["curves"]
    assert (margin["area"]["from"], margin["area"]["mean"]) == (20, pytest.approx(0.8))
    assert random_order["curve"][0]["mean"] is None
    nothing = summary([run("margin", 0, {10: None})], sampled=False, n_measured=200)["curves"][0]
    assert (nothing["area"], nothing["labels"]) == (None, None)


def test_what_happened_is_held_against_the_random_checks_and_a_network_against_the_fast_loop() -> None:
    names = ["margin", "random_sampling", "as_it_happened", "random_checks"]
    keys = [(name, "h", "none") for name in names] + [("margin", "h", "fixmatch")]
    assert [baseline(key, keys) for key in keys] == [keys[1], keys[1], keys[3], keys[3], keys[0]]
    assert baseline(("margin", "g", "none"), [("margin", "h", "none"), ("margin", "g", "none")]) == keys[0]
    # Each is compared over the span of those it is compared with.
    runs = [run(name, 0, {10: 0.5, 20: 0.6} if "checks" in name else {10: 0.5, 20: 0.6, 90: 0.9}) for name in names]
    assert [curve["area"]["to"] for curve in summary(runs, sampled=True, n_measured=200)["curves"]] == [90, 90, 20, 20]


def test_a_gate_that_let_too_much_through_at_any_time_is_broken() -> None:
    passed = [
        [(0.0, 0, 0), (0.4, 19, 20)],  # 0.95 of what passed was right
        [(0.2, 8, 10), (0.3, 10, 10)],  # at first only 0.8
        [(0.0, 0, 0), (0.0, 0, 0)],
    ]
    runs = [run("margin", seed, {10: 0.5, 20: 0.6}, gates=[gate(each)]) for seed, each in enumerate(passed)]
    (found,) = summary(runs, sampled=False, n_measured=200)["gates"]
    assert (found["runs"], found["opened"], found["broken"]) == (3, 2, 1)
    assert found["accepted"] == pytest.approx(0.7 / 3)
    assert found["precision"] == pytest.approx(29 / 30)
    assert found["broken_low"] < 1 / 3 < found["broken_high"]
    (sampled,) = summary(runs, sampled=True, n_measured=200)["gates"]
    assert sampled["broken"] is None  # a sample below the target shows no broken promise
    # 29 / 3 right of 30 / 3 checked: 10 of 10 after rounding.
    assert sampled["precision_low"] == pytest.approx(0.7225, abs=1e-4)
