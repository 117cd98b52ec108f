"""Numbers in, markup out."""

import re
import xml.dom.minidom

import pytest

from annotator.charts import (
    Estimate,
    Part,
    accuracy_chart,
    amount_bar,
    nice_step,
    share_bar,
    training_chart,
    trend,
)

CURVE = [Estimate(100 * step, 0.7 + step / 50, 0.6 + step / 50, 0.8 + step / 50, 40) for step in range(1, 8)]


def numbers(svg: str, attribute: str) -> list[float]:
    return [float(each) for each in re.findall(rf' {attribute}="([-\d.]+)"', svg)]


@pytest.mark.parametrize(("span", "at_most", "step"), [(1, 5, 1), (7, 5, 2), (26, 5, 10), (100, 5, 20), (1e6, 4, 5e5)])
def test_a_step_is_a_round_number(span: float, at_most: int, step: float) -> None:
    assert nice_step(span, at_most) == step


def test_no_points_make_no_chart() -> None:
    assert accuracy_chart([], []) == ""


def test_a_chart_is_well_formed_and_stays_inside_its_frame() -> None:
    svg = accuracy_chart(CURVE, CURVE[2:], width=320, height=200)
    xml.dom.minidom.parseString(svg)
    assert all(0 <= x <= 320 for x in numbers(svg, "cx"))
    assert all(0 <= y <= 200 for y in numbers(svg, "cy"))
    assert "newest on random checks: 84.0\xa0% at 700 answers" in svg


def test_a_higher_accuracy_is_drawn_higher() -> None:
    heights = numbers(accuracy_chart(CURVE, []), "cy")
    assert heights == sorted(heights, reverse=True)


def test_the_axis_begins_at_the_tenth_below_the_interval() -> None:
    svg = accuracy_chart([Estimate(40, 0.95, 0.83, 0.99, 40)], [])
    assert re.findall(r'text-anchor="end">(\d+)\xa0%<', svg) == ["100", "90", "80"]


def test_a_perfect_and_a_hopeless_model_can_be_drawn() -> None:
    for value in (0.0, 1.0):
        xml.dom.minidom.parseString(accuracy_chart([Estimate(0, value, value, value, 1)], []))


def test_a_single_estimate_shows_its_interval_as_a_whisker() -> None:
    svg = accuracy_chart(CURVE[:1], [])
    assert 'class="whisker"' in svg
    assert "band" not in svg


def test_many_models_keep_the_newest_mark() -> None:
    many = [Estimate(step, 0.5, 0.4, 0.6, 40) for step in range(1, 500)]
    svg = accuracy_chart(many, [])
    assert svg.count("<circle") <= 40
    assert "after 499 answers" in svg.rsplit("<circle", 1)[1]


HISTORY = [{"seconds": 30.0 * n, "loss": 2.0 / n, "audit_accuracy": 0.4 + n / 20} for n in range(1, 5)]


def test_a_training_leaves_room_for_the_time_that_is_left() -> None:
    svg = training_chart(HISTORY, budget_s=240, width=412, height=200)
    xml.dom.minidom.parseString(svg)
    assert numbers(svg, "cx") == [225.0]  # half of the 350 between the margins of 50 and 12
    assert 'aria-label="Accuracy on the random checks while it trains: 60\xa0% after 2.0 minutes"' in svg


@pytest.mark.parametrize("budget_s", [0.0, 1.2, 59.0, 300.0, 86400.0])
def test_a_training_of_any_length_has_a_few_round_ticks(budget_s: float) -> None:
    svg = training_chart([{"seconds": 0.5, "audit_accuracy": 0.5}], budget_s=budget_s)
    xml.dom.minidom.parseString(svg)
    assert 2 <= svg.count('text-anchor="middle"') <= 9


def test_a_training_without_an_evaluation_is_not_drawn() -> None:
    assert training_chart([{"seconds": 1.0, "loss": 2.0}], budget_s=60) == ""
    assert trend(HISTORY, "kept", budget_s=60) == ""


def test_a_trend_falls_where_the_number_falls() -> None:
    points = re.findall(r'points="([^"]+)"', trend(HISTORY, "loss", budget_s=240, width=100, height=44))[0]
    assert points == "12.5,2.0 25.0,22.0 37.5,28.7 50.0,32.0"  # 2, 1, 2/3 and 1/2 of at most 2, over 40 pixels


def test_the_parts_of_a_bar_fill_it() -> None:
    svg = share_bar([Part("Labelled", 1, "labelled"), Part("Skipped", 0, "skipped"), Part("Open", 3, "open")], "Pool")
    assert re.findall(r'class="(\w+)" x="([\d.]+)%" width="([\d.]+)%"', svg) == [
        ("labelled", "0.000", "25.000"),
        ("open", "25.000", "75.000"),
    ]
    assert 'aria-label="Pool: 1 labelled, 0 skipped, 3 open"' in svg


def test_an_empty_bar_is_drawn_without_dividing_by_zero() -> None:
    xml.dom.minidom.parseString(share_bar([Part("Open", 0, "open")], "Pool"))
    assert 'width="0%"' in amount_bar(0, 0, "#888888")


def test_names_are_escaped() -> None:
    svg = share_bar([Part('<script>"', 1, "open")], '"><script>')
    assert "<script>" not in svg
    xml.dom.minidom.parseString(svg)
    assert '"><x' not in amount_bar(1, 1, '"><x')
