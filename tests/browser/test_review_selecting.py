"""Selecting in the review grid: by keyboard alone, by mouse alone, by touch alone. Each does all there is to do."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from annotator.actions import proposing
from annotator.models import Annotation, Flag, Item, LabelClass, ModelVersion, Project, Proposal
from tests.browser.accessible import faults
from tests.browser.test_review_page import expect_states, states, wait_for_a_look
from tests.cast import make_item
from tests.running_site import wait_until

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WORK = {0: "corrected", 1: "corrected", 2: "corrected", 3: "rejected", 4: "rejected", 6: "pending"}


def tile(page: Page, proposal: Proposal) -> Locator:
    return page.locator(f'.tile[data-proposal="{proposal.pk}"]')


def wanted() -> list[str]:
    """Three are dogs, two are no cats, one is left undecided, and the rest is accepted."""
    return [WORK.get(place, "accepted") for place in range(12)]


def check_work(proposals: list[Proposal], dog: LabelClass) -> None:
    expect_states(proposals, wanted())
    given = Annotation.objects.filter(settles__in=proposals[:3])
    assert [each.value for each in given] == [{"class": dog.pk}] * 3


@pytest.fixture
def grid(visit: Visit, project: Project, proposals: list[Proposal], carol: User) -> Page:
    page = visit(carol, f"/projects/{project.pk}/review/")
    wait_for_a_look(page)
    return page


def test_everything_by_keyboard_alone(grid: Page, proposals: list[Proposal], dog: LabelClass) -> None:
    press = grid.keyboard.press
    press("ArrowRight")
    press("Shift+ArrowRight")
    press("Shift+ArrowRight")
    expect(grid.locator(".tile.selected")).to_have_count(3)
    expect(grid.locator("#said")).to_have_text("3 selected")
    press("2")  # all three are dogs
    expect(grid.locator(".tile.corrected")).to_have_count(3)
    expect(grid.locator(".tile.selected")).to_have_count(0)
    press("ArrowRight")
    press("Shift+ArrowRight")
    press("x")
    press("ArrowRight")
    press("ArrowRight")
    press("-")
    press("f")
    expect(grid.locator(".tile.flagged")).to_have_count(1)
    expect(grid.locator("#accept-text")).to_have_text("Accept 6, send 2 back, correct 3, leave 1")
    press("a")
    check_work(proposals, dog)
    assert Flag.objects.get().item_id == proposals[6].item_id
    # The screenful, as one.
    press("z")
    expect_states(proposals, ["pending"] * 12)


def test_everything_by_mouse_alone(grid: Page, proposals: list[Proposal], dog: LabelClass) -> None:
    drag(grid, tile(grid, proposals[0]), tile(grid, proposals[2]))
    expect(grid.locator(".tile.selected")).to_have_count(3)
    assert not grid.locator(".mark:checked").count()  # the end of a drag is no click
    grid.get_by_role("button", name="It is …").click()
    grid.get_by_role("dialog").get_by_role("button", name="dog").click()
    tile(grid, proposals[3]).locator("label").click()
    tile(grid, proposals[4]).locator("label").click()
    tile(grid, proposals[6]).hover()
    tile(grid, proposals[6]).locator(".pick").click()
    grid.get_by_role("button", name="Flag", exact=True).click()
    expect(grid.locator(".tile.flagged")).to_have_count(1)
    tile(grid, proposals[6]).hover()
    tile(grid, proposals[6]).locator(".pick").click()
    grid.get_by_role("button", name="Leave").click()
    expect(grid.locator("#accept-text")).to_have_text("Accept 6, send 2 back, correct 3, leave 1")
    grid.locator("#accept").click()
    check_work(proposals, dog)
    grid.get_by_role("button", name="Undo").click()
    expect_states(proposals, ["pending"] * 12)


def test_everything_by_touch_alone(
    visit: Visit, project: Project, proposals: list[Proposal], carol: User, dog: LabelClass
) -> None:
    phone = visit(carol, f"/projects/{project.pk}/review/", **PHONE)
    wait_for_a_look(phone)
    long_press_and_drag(phone, tile(phone, proposals[0]), tile(phone, proposals[2]))
    expect(phone.locator(".tile.selected")).to_have_count(3)
    assert not phone.locator(".mark:checked").count()
    phone.get_by_role("button", name="It is …").tap()
    phone.get_by_role("dialog").get_by_role("button", name="dog").tap()
    tile(phone, proposals[3]).locator("label").tap()
    tile(phone, proposals[4]).locator("label").tap()
    # Once something is selected, a tap selects more, and nothing is marked by it.
    long_press_and_drag(phone, tile(phone, proposals[6]), tile(phone, proposals[6]))
    tile(phone, proposals[8]).locator("label").tap()
    expect(phone.locator(".tile.selected")).to_have_count(2)
    tile(phone, proposals[8]).locator("label").tap()
    phone.get_by_role("button", name="Leave").tap()
    wait_for_a_look(phone)
    phone.get_by_role("button", name="Accept 6, send 2 back, correct 3, leave 1").tap()
    check_work(proposals, dog)
    phone.get_by_role("button", name="Undo").tap()
    expect_states(proposals, ["pending"] * 12)


def test_a_finger_that_moves_at_once_scrolls_and_selects_nothing(
    visit: Visit, project: Project, model: ModelVersion, carol: User, cat: LabelClass
) -> None:
    many(project, model, cat, 40)
    phone = visit(carol, f"/projects/{project.pk}/review/?tiles=40", **PHONE)
    wait_for_a_look(phone)
    finger = phone.context.new_cdp_session(phone)
    moves = [("touchMove", 600 - 20 * step) for step in range(1, 16)]
    for kind, y in (("touchStart", 600), *moves, ("touchEnd", None)):
        points = [] if y is None else [{"x": 200, "y": y}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    wait_until(lambda: phone.evaluate("scrollY") > 100, 5, "the page scrolled")
    assert not phone.locator(".tile.selected").count()
    assert not phone.locator(".mark:checked").count()


def test_what_is_said_of_a_selection_is_one_step_back(grid: Page, proposals: list[Proposal]) -> None:
    press = grid.keyboard.press
    press("Control+a")
    press("x")
    press("ArrowRight")
    press("2")
    expect(grid.locator("#accept-text")).to_have_text("Accept 0, send 11 back, correct 1")
    press("z")
    expect(grid.locator("#accept-text")).to_have_text("Accept 0, send 12 back")
    press("z")
    expect(grid.locator("#accept-text")).to_have_text("Accept 12")
    assert states(proposals) == ["pending"] * 12


def test_shift_click_selects_the_run_and_escape_none(grid: Page, proposals: list[Proposal]) -> None:
    tile(grid, proposals[2]).locator(".pick").click(force=True)
    tile(grid, proposals[7]).locator("label").click(modifiers=["Shift"])
    expect(grid.locator(".tile.selected")).to_have_count(6)
    tile(grid, proposals[9]).locator("label").click(modifiers=["Control"])
    expect(grid.locator(".tile.selected")).to_have_count(7)
    grid.keyboard.press("Escape")
    expect(grid.locator(".tile.selected")).to_have_count(0)
    assert not grid.locator(".mark:checked").count()


def test_going_on_and_back_decides_nothing_and_keeps_the_marks(
    visit: Visit, project: Project, model: ModelVersion, carol: User, cat: LabelClass
) -> None:
    many(project, model, cat, 50)
    page = visit(carol, f"/projects/{project.pk}/review/?tiles=20&class={cat.pk}")
    wait_for_a_look(page)
    first = page.locator(".tile").first.get_attribute("data-tile")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    fetched = "performance.getEntriesByType('resource').some((each) => each.name.includes('after='))"
    wait_until(lambda: page.evaluate(fetched), 5, "the next screen was fetched")
    page.keyboard.press(".")
    expect(page.locator(".tile").first).not_to_have_attribute("data-tile", str(first))
    assert "after=" in page.url
    second = page.locator(".tile").first.get_attribute("data-tile")
    page.go_back()
    expect(page.locator(".tile").first).to_have_attribute("data-tile", str(first))
    expect(page.locator(".tile .mark").first).to_be_checked()
    page.locator("#screen-next").click()
    expect(page.locator(".tile").first).to_have_attribute("data-tile", str(second))
    page.keyboard.press(",")
    expect(page.locator(".tile").first).to_have_attribute("data-tile", str(first))
    assert set(Proposal.objects.values_list("state", flat=True)) == {"pending"}


def test_the_window_says_how_many_tiles_there_are_and_that_is_remembered(
    visit: Visit, project: Project, model: ModelVersion, carol: User, cat: LabelClass
) -> None:
    many(project, model, cat, 130)
    page = visit(carol, f"/projects/{project.pk}/review/", viewport={"width": 1280, "height": 800})
    wait_until(lambda: page.evaluate("document.cookie.includes('winnow_tiles')"), 5, "what fits was remembered")
    fits = page.locator(".tile").count()
    assert 20 <= fits < 60
    last = page.locator(".tile").last.bounding_box()
    bar = page.locator("#accept-bar").bounding_box()
    assert last is not None and bar is not None and last["y"] + last["height"] <= bar["y"] + 1
    # The next screen goes on where this one ends.
    shown = [each.get_attribute("data-tile") for each in page.locator(".tile").all()]
    in_order = [str(pk) for pk in Proposal.objects.order_by("confidence", "id").values_list("pk", flat=True)]
    assert shown == in_order[:fits]
    page.keyboard.press(".")
    expect(page.locator(".tile").first).to_have_attribute("data-tile", in_order[fits])
    page.go_back()
    expect(page.locator(".tile").first).to_have_attribute("data-tile", in_order[0])
    page.get_by_role("button", name="Smaller images").click()
    wait_until(lambda: page.locator(".tile").count() > fits, 5, "there were more tiles")
    smaller = page.locator(".tile").count()
    page.reload()
    expect(page.locator(".tile")).to_have_count(smaller)


def many(project: Project, model: ModelVersion, cat: LabelClass, count: int) -> None:
    predictions = [
        proposing.Predicted(make_item(project, 200 + n).pk, cat.pk, 0.5 + n / 1000, []) for n in range(count)
    ]
    proposing.store_proposals(project=project, model_version=model, predictions=predictions)


def middle(place: Locator) -> tuple[float, float]:
    box = place.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Page, start: Locator, end: Locator) -> None:
    page.mouse.move(*middle(start))
    page.mouse.down()
    page.mouse.move(*middle(end), steps=8)
    page.mouse.up()


def long_press_and_drag(page: Page, start: Locator, end: Locator) -> None:
    finger = page.context.new_cdp_session(page)
    (x, y), (to_x, to_y) = middle(start), middle(end)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", (x, y))
    expect(page.locator(".tile.selected").first).to_be_visible()
    for step in range(1, 6):
        touch("touchMove", (x + (to_x - x) * step / 5, y + (to_y - y) * step / 5))
    touch("touchEnd")


# --- accessible ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{"viewport": {"width": 1280, "height": 800}}, PHONE])
def test_axe_finds_nothing_with_tiles_a_selection_and_dialogs(
    visit: Visit, project: Project, proposals: list[Proposal], carol: User, scheme: str, options: dict[str, Any]
) -> None:
    page = visit(carol, f"/projects/{project.pk}/review/?class=all&low=1", color_scheme=scheme, **options)
    wait_for_a_look(page)
    top = page.locator(".tile").first.bounding_box()
    assert top is not None and top["y"] < 420  # above the fold
    assert faults(page) == []
    for key in ("ArrowRight", "x", "ArrowRight", "2", "ArrowRight", "-", "ArrowRight", "f"):
        page.keyboard.press(key)
    expect(page.locator(".tile.flagged")).to_have_count(1)
    page.locator("#trust summary").click()
    assert faults(page) == []
    page.keyboard.press("Control+a")
    assert faults(page) == []
    page.keyboard.press("/")
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.locator("#filters summary").click()
    page.keyboard.press("?")
    assert faults(page) == []
    page.keyboard.press("Escape")
    assert faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("query", ["?flagged=1", "?low=x", ""])
def test_axe_finds_nothing_where_there_is_nothing(
    visit: Visit, project: Project, items: list[Item], carol: User, complaints: list[str], scheme: str, query: str
) -> None:
    page = visit(carol, f"/projects/{project.pk}/review/{query}", color_scheme=scheme)
    assert faults(page) == []
    complaints[:] = [each for each in complaints if "422" not in each]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page_of_flags(
    visit: Visit, project: Project, items: list[Item], carol: User, scheme: str
) -> None:
    address = f"/projects/{project.pk}/flags/"
    page = visit(carol, address, color_scheme=scheme)
    assert faults(page) == []
    Flag.objects.create(project=project, item=items[0], raised_by=carol, note="blurred")
    page.goto(address)
    assert faults(page) == []
    page.get_by_role("button", name="Lower the flag on image-0.png").click()
    expect(page.get_by_role("heading", name="Nothing is flagged")).to_be_visible()


def test_nothing_moves_when_a_screen_is_decided(
    visit: Visit, project: Project, model: ModelVersion, carol: User, cat: LabelClass
) -> None:
    many(project, model, cat, 60)
    page = visit(carol, f"/projects/{project.pk}/review/?tiles=20")
    wait_for_a_look(page, longer=True)
    page.keyboard.press("a")  # the line about the last screenful is there from now on
    expect(page.locator("#decided-text")).to_have_text("20 accepted.")
    wait_for_a_look(page, longer=True)
    page.evaluate(
        "window.moved = 0; new PerformanceObserver((list) => { for (const each of list.getEntries())"
        " window.moved += each.value; }).observe({ type: 'layout-shift' })"
    )
    before = page.locator(".tile").first.bounding_box()
    page.keyboard.press("a")
    wait_until(lambda: Proposal.objects.filter(state="accepted").count() == 40, 5, "the second screen was accepted")
    page.wait_for_timeout(300)
    assert page.locator(".tile").first.bounding_box() == before
    assert page.evaluate("window.moved") < 0.01
