"""The dashboard in a browser: each question on its own, accessible, light and dark, on a phone and on a desk."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from annotator.actions import projects
from annotator.models import Item, LabelClass, ModelVersion, Project
from tests.browser.accessible import faults

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]
QUESTIONS = ("", "accuracy", "worth", "doubt", "work")


@pytest.fixture
def told(
    project: Project, items: list[Item], model: ModelVersion, cat: LabelClass, dog: LabelClass, bob: User,
    answer: Callable[..., Any],
) -> Project:  # fmt: skip
    """A project of which there is something to say on every question."""
    for place, item in enumerate(items[:6]):
        answer(bob, item, dog if place % 3 else cat, milliseconds=1500 + 100 * place)
    bins = [[20, 0.7, 14, 0.5, 0.85], [20, 0.95, 19, 0.76, 0.99]]
    model.metrics["audit"] |= {"recall": [[30, 31], [6, 9]], "confused": [[1, 0, 3], [0, 1, 1]]}
    model.metrics |= {
        "labels": {"n": 6, "confused": [[0, 1, 1]]},
        "sure": [0, 0, 0, 0, 0, 1, 1, 0, 2, 2],
        "calibration": {
            "n": 40, "ece": 0.05, "ece_low": 0.02, "ece_high": 0.09, "chance": 0.04, "chance_high": 0.08,
            "brier": 0.1, "confidence": 0.82, "accuracy": 0.82, "bins": bins, "class_temperatures": [],
        },
    }  # fmt: skip
    model.save()
    return project


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_question_is_accessible(visit: Visit, told: Project, alice: User, width: int, scheme: str) -> None:
    page = visit(alice, "/", viewport={"width": width, "height": 800}, color_scheme=scheme)
    wrong = {}
    for about in QUESTIONS:
        page.goto(f"/projects/{told.pk}/" + (f"?about={about}" if about else ""))
        for summary in page.locator("main summary").all():
            summary.click()
        if found := faults(page):
            wrong[about] = found
        width_needed = page.evaluate("document.documentElement.scrollWidth")
        assert width_needed <= width, about
    assert wrong == {}


def test_an_empty_project_says_what_to_do_and_is_accessible(visit: Visit, charlie: User) -> None:
    bare = projects.create_project(owner=charlie, name="Bare", class_names=[])
    page = visit(charlie, f"/projects/{bare.pk}/")
    expect(page.get_by_role("link", name="Import images").first).to_be_visible()
    for about in QUESTIONS:
        page.goto(f"/projects/{bare.pk}/" + (f"?about={about}" if about else ""))
        assert faults(page) == []


def test_a_card_leads_to_its_question_and_a_cell_to_its_images(visit: Visit, told: Project, carol: User) -> None:
    page = visit(carol, f"/projects/{told.pk}/")
    page.get_by_role("link", name="How good is it now?").click()
    expect(page.get_by_role("heading", name="Class by class")).to_be_visible()
    expect(page.get_by_role("link", name="How good is it now?")).to_have_attribute("aria-current", "page")
    page.get_by_role("link", name="1 image of cat that the model takes for dog").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Labelled cat, and the model says dog")
    assert faults(page) == []


def test_a_phone_shows_one_question_within_a_few_screens(visit: Visit, told: Project, alice: User) -> None:
    page = visit(alice, "/", viewport={"width": 390, "height": 800})
    for about in QUESTIONS:
        page.goto(f"/projects/{told.pk}/" + (f"?about={about}" if about else ""))
        assert page.evaluate("document.documentElement.scrollHeight") < 4500, about
