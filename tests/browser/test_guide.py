"""The class guide beside the image, in a real browser."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from annotator.actions import classes
from annotator.models import ClassExample, Item, LabelClass, Project
from tests.browser.accessible import faults

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}


@pytest.fixture
def explained(project: Project, cat: LabelClass, items: list[Item], alice: User) -> Project:
    classes.update_class(label_class=cat, actor=alice, description="Whiskers.")
    ClassExample.objects.create(label_class=cat, item=items[11], added_by=alice)
    return project


@pytest.fixture
def label(visit: Callable[..., Page], explained: Project, bob: User) -> Iterator[Callable[..., Page]]:
    def opened(**options: Any) -> Page:
        page = visit(bob, f"/projects/{explained.pk}/label/", **options)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.locator(".card[data-front]")).to_be_visible()
        return page

    yield opened


def test_one_key_opens_and_closes_it_and_the_classes_keep_their_keys(label: Callable[..., Page]) -> None:
    page = label(viewport=WIDE)
    guide = page.locator("#guide")
    expect(guide).to_be_hidden()
    page.keyboard.press("g")
    expect(guide.get_by_text("Whiskers.")).to_be_visible()
    expect(guide.get_by_role("link", name="Example 1 of cat, opens large")).to_be_visible()
    assert faults(page) == []
    # The picture is not covered, and a class is chosen as before.
    picture, beside = page.locator(".card[data-front] .stage").bounding_box(), guide.bounding_box()
    assert picture and beside and picture["x"] + picture["width"] <= beside["x"]
    first = page.locator(".card[data-front]").get_attribute("data-item")
    page.keyboard.press("1")
    expect(page.locator(".card[data-front]")).not_to_have_attribute("data-item", first or "")
    page.keyboard.press("g")
    expect(guide).to_be_hidden()


def test_it_stays_as_it_was_left(label: Callable[..., Page]) -> None:
    page = label(viewport=WIDE)
    page.locator("#guide-button").click()
    expect(page.locator("#guide").get_by_text("Whiskers.")).to_be_visible()
    page.reload()
    expect(page.locator("#guide").get_by_text("Whiskers.")).to_be_visible()
    page.locator("#guide-close").click()
    expect(page.locator("#guide-button")).to_be_focused()
    page.reload()
    expect(page.locator(".card[data-front]")).to_be_visible()
    expect(page.locator("#guide")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_it_is_a_sheet(label: Callable[..., Page], scheme: str) -> None:
    page = label(viewport=PHONE, color_scheme=scheme)
    page.locator("#guide-button").click()
    sheet = page.locator("#guide-sheet")
    expect(sheet.get_by_text("Whiskers.")).to_be_visible()
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.keyboard.press("g")
    expect(sheet.get_by_text("Whiskers.")).to_be_visible()
    page.keyboard.press("g")
    expect(sheet).to_be_hidden()
    # Next time the image is there, not the sheet.
    page.reload()
    expect(page.locator(".card[data-front]")).to_be_visible()
    expect(sheet).to_be_hidden()


def test_what_does_not_load_says_so_and_loads_the_next_time(label: Callable[..., Page], complaints: list[str]) -> None:
    page = label(viewport=WIDE)
    page.route("**/guide/", lambda route: route.abort())
    page.keyboard.press("g")
    expect(page.locator("#guide")).to_contain_text("The class guide did not load. Close it and open it again.")
    page.unroute("**/guide/")
    page.keyboard.press("g")
    page.keyboard.press("g")
    expect(page.locator("#guide").get_by_text("Whiskers.")).to_be_visible()
    complaints[:] = [each for each in complaints if "ERR_FAILED" not in each]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_own_page_is_accessible(visit: Callable[..., Page], explained: Project, bob: User, scheme: str) -> None:
    page = visit(bob, f"/projects/{explained.pk}/guide/", viewport=PHONE, color_scheme=scheme)
    expect(page.get_by_text("Whiskers.")).to_be_visible()
    assert faults(page) == []
