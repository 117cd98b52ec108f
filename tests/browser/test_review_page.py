"""The review grid in a browser: marks, corrections and one key for the rest."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from annotator.models import Annotation, Item, LabelClass, ModelVersion, Project, Proposal
from tests.running_site import wait_until

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]


@pytest.fixture
def grid(visit: Visit, project: Project, proposals: list[Proposal], carol: User) -> Page:
    """Carol's grid of twelve cats."""
    page = visit(carol, f"/projects/{project.pk}/review/")
    expect(page.locator(".tile")).to_have_count(12)
    return page


def box(page: Page, proposal: Proposal) -> Locator:
    return page.locator(f'.tile[data-proposal="{proposal.pk}"] .mark')


def states(proposals: list[Proposal]) -> list[str]:
    return [Proposal.objects.get(pk=each.pk).state for each in proposals]


def expect_states(proposals: list[Proposal], wanted: list[str]) -> None:
    wait_until(lambda: states(proposals) == wanted, 5, f"the proposals were {wanted}")


def test_a_screenful_is_accepted_by_one_key_and_taken_back_by_another(grid: Page, proposals: list[Proposal]) -> None:
    wait_for_a_look(grid)
    grid.keyboard.press("a")
    expect(grid.locator("#decided-text")).to_have_text("12 accepted.")
    assert states(proposals) == ["accepted"] * 12
    expect(grid.locator("#said")).to_contain_text("12 accepted.")
    grid.keyboard.press("z")
    expect(grid.locator(".tile")).to_have_count(12)
    assert states(proposals) == ["pending"] * 12


def test_marks_and_corrections_by_keyboard_alone(grid: Page, proposals: list[Proposal], dog: LabelClass) -> None:
    wait_for_a_look(grid)
    grid.keyboard.press("ArrowRight")  # into the grid
    grid.keyboard.press("Space")
    grid.keyboard.press("ArrowRight")
    expect(box(grid, proposals[1])).to_be_focused()
    grid.keyboard.press("2")  # a dog
    grid.keyboard.press("ArrowRight")
    grid.keyboard.press("x")
    grid.keyboard.press("x")  # right after all
    grid.keyboard.press("ArrowRight")
    grid.keyboard.press("2")
    grid.keyboard.press("1")  # a cat after all
    expect(grid.locator("#accept-text")).to_have_text("Accept 10, send 1 back, correct 1")
    grid.keyboard.press("Enter")
    expect_states(proposals, ["rejected", "corrected"] + ["accepted"] * 10)
    assert Annotation.objects.get(settles=proposals[1]).value == {"class": dog.pk}


def test_which_begins_with_what_is_listed_for_the_image(
    grid: Page, project: Project, proposals: list[Proposal], model: ModelVersion, cat: LabelClass, dog: LabelClass
) -> None:
    _, fish = (
        LabelClass.objects.create(project=project, name=name, colour="#112233", position=place)
        for place, name in ((2, "bird"), (3, "fish"))
    )
    model.metrics["short_list"] = {
        "promise": 0.9, "n": 40, "own": 2, "classes": 4, "inside": 28, "judged": 31, "low": 0.75, "high": 0.97,
        "sizes": [0.0, 0.8, 0.2, 0.0], "test": None, "by_class": [],
    }  # fmt: skip
    model.save()
    Proposal.objects.filter(pk=proposals[0].pk).update(short_list=[[cat.pk, 0.5], [fish.pk, 0.3], [dog.pk, 0.1]])
    grid.reload()
    wait_for_a_look(grid)
    first, second = (grid.locator(f'.tile[data-proposal="{each.pk}"]') for each in proposals[:2])
    expect(first.locator(".others")).to_have_text("or fish, dog")
    expect(second.locator(".others")).to_have_count(0)
    choices = grid.locator("#other-classes .choice")
    first.locator(".picture").click()
    expect(first.locator(".others")).to_be_hidden()
    first.locator(".which").click()
    assert [each.get_attribute("data-name") for each in choices.all()] == ["fish", "dog", "cat", "bird"]
    expect(grid.locator("#other-classes .choice.listed")).to_have_count(2)
    choices.first.click()
    expect(first.locator(".verdict")).to_have_text("fish")
    second.locator(".picture").click()
    second.locator(".which").click()
    assert [each.get_attribute("data-name") for each in choices.all()] == ["cat", "dog", "bird", "fish"]
    expect(grid.locator("#other-classes .choice.listed")).to_have_count(0)
    grid.keyboard.press("4")
    grid.keyboard.press("a")
    expect_states(proposals, ["corrected"] * 2 + ["accepted"] * 10)
    assert Annotation.objects.get(settles=proposals[0]).value == {"class": fish.pk}


def test_arrows_move_by_rows_and_only_one_tile_is_in_the_tab_order(grid: Page, proposals: list[Proposal]) -> None:
    grid.set_viewport_size({"width": 600, "height": 800})
    columns = grid.evaluate("getComputedStyle(document.getElementById('tiles')).gridTemplateColumns.split(' ').length")
    grid.keyboard.press("ArrowDown")
    grid.keyboard.press("ArrowDown")
    expect(box(grid, proposals[columns])).to_be_focused()
    grid.keyboard.press("ArrowUp")
    expect(box(grid, proposals[0])).to_be_focused()
    grid.keyboard.press("End")
    expect(box(grid, proposals[-1])).to_be_focused()
    assert grid.locator('.mark[tabindex="0"]').count() == 1


def test_a_phone_marks_by_tapping_and_corrects_by_choosing(
    visit: Visit, project: Project, proposals: list[Proposal], carol: User, dog: LabelClass
) -> None:
    phone = visit(carol, f"/projects/{project.pk}/review/", viewport={"width": 390, "height": 844}, has_touch=True)
    tile = phone.locator(f'.tile[data-proposal="{proposals[2].pk}"]')
    tile.locator("label").tap()
    tile.get_by_role("button", name="instead").tap()
    phone.get_by_role("dialog").get_by_role("button", name="dog").tap()
    wait_for_a_look(phone)
    phone.get_by_role("button", name="Accept 11, correct 1").tap()
    expect_states(proposals, ["accepted"] * 2 + ["corrected"] + ["accepted"] * 9)


def test_a_key_pressed_twice_does_not_accept_what_nobody_has_seen(
    visit: Visit,
    project: Project,
    model: object,
    proposals: list[Proposal],
    carol: User,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    Proposal.objects.filter(pk__in=[each.pk for each in proposals[6:]]).update(
        label_class=dog, value={"class": dog.pk}
    )
    page = visit(carol, f"/projects/{project.pk}/review/?class={cat.pk}")
    wait_for_a_look(page)
    page.keyboard.press("a")
    expect(page.locator("#tiles")).to_have_attribute("aria-label", "Proposals for dog")
    page.keyboard.press("a")
    page.wait_for_timeout(300)
    assert states(proposals) == ["accepted"] * 6 + ["pending"] * 6


def test_only_what_has_been_on_the_screen_is_accepted(
    visit: Visit, project: Project, proposals: list[Proposal], carol: User
) -> None:
    page = visit(carol, f"/projects/{project.pk}/review/", viewport={"width": 390, "height": 500})
    expect(page.locator("#accept-text")).to_contain_text("See ")
    for _ in range(10):
        wait_for_a_look(page, longer=True)
        if "Accept" in page.locator("#accept-text").inner_text():
            break
        page.keyboard.press("a")
        assert set(states(proposals)) == {"pending"}
    expect(page.locator("#accept-text")).to_have_text("Accept 12")
    page.keyboard.press("a")
    expect_states(proposals, ["accepted"] * 12)


def test_taking_back_goes_on_to_the_screenful_before(
    visit: Visit, project: Project, proposals: list[Proposal], carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    Proposal.objects.filter(pk__in=[each.pk for each in proposals[6:]]).update(
        label_class=dog, value={"class": dog.pk}
    )
    page = visit(carol, f"/projects/{project.pk}/review/?class={cat.pk}")
    wait_for_a_look(page)
    page.keyboard.press("a")
    expect(page.locator("#tiles")).to_have_attribute("aria-label", "Proposals for dog")
    wait_for_a_look(page, longer=True)
    page.keyboard.press("a")
    expect_states(proposals, ["accepted"] * 12)
    page.keyboard.press("z")
    expect_states(proposals, ["accepted"] * 6 + ["pending"] * 6)
    expect(page.locator("#decided-text")).to_have_text("Before that: 6 accepted.")
    page.keyboard.press("z")
    expect_states(proposals, ["pending"] * 12)


def test_undo_pressed_while_the_decision_is_on_its_way_takes_it_back(grid: Page, proposals: list[Proposal]) -> None:
    grid.route("**/review/", lambda route: (grid.wait_for_timeout(300), route.continue_()))
    wait_for_a_look(grid)
    grid.keyboard.press("a")
    grid.keyboard.press("z")
    expect(grid.locator("#said")).to_contain_text("12 decisions taken back.")
    expect(grid.locator(".tile")).to_have_count(12)
    assert states(proposals) == ["pending"] * 12


def test_marks_outlive_a_failed_request_and_a_reload(
    grid: Page, proposals: list[Proposal], complaints: list[str]
) -> None:
    wait_for_a_look(grid)
    box(grid, proposals[3]).press("2")
    box(grid, proposals[4]).press("x")
    grid.route("**/review/", lambda route: route.abort())
    grid.keyboard.press("a")
    expect(grid.get_by_role("alert")).to_contain_text("Your marks are kept")
    grid.unroute("**/review/")
    grid.reload()
    expect(grid.locator("#accept-text")).to_have_text("Accept 10, send 1 back, correct 1")
    wait_for_a_look(grid)
    grid.keyboard.press("a")
    expect_states(proposals, ["accepted"] * 3 + ["corrected", "rejected"] + ["accepted"] * 7)
    complaints[:] = [each for each in complaints if "net::ERR_FAILED" not in each]


def test_what_somebody_else_did_meanwhile_is_listed(
    grid: Page,
    proposals: list[Proposal],
    items: list[Item],
    bob: User,
    answer: Callable[..., Annotation],
    dog: LabelClass,
) -> None:
    answer(bob, items[0], dog)
    told = "image-0.png: you said “cat”; somebody answered this image meanwhile"
    wait_for_a_look(grid)
    grid.keyboard.press("a")
    expect(grid.locator(".left")).to_contain_text(told)
    expect(grid.locator("#decided-text")).to_have_text("11 accepted, 1 left alone.")


def test_the_grid_works_without_scripts(
    visit: Visit, project: Project, proposals: list[Proposal], carol: User
) -> None:
    page = visit(carol, f"/projects/{project.pk}/review/", java_script_enabled=False)
    page.locator(f'.tile[data-proposal="{proposals[0].pk}"] label').click()
    page.get_by_role("button", name="Accept all 12").click()
    expect(page.locator("#decided-text")).to_have_text("11 accepted, 1 sent back to the queue.")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".tile")).to_have_count(12)
    assert states(proposals) == ["pending"] * 12


def wait_for_a_look(page: Page, *, longer: bool = False) -> None:
    """Scripts and pictures are there, and the page knows which tiles are in sight. longer: than a double press."""
    expect(page.locator("#help-button")).not_to_have_attribute("hidden", "")
    if longer:
        page.wait_for_timeout(700)
    loaded = "[...document.querySelectorAll('.tile img')].every((picture) => picture.complete)"
    wait_until(lambda: page.evaluate(loaded), 5, "the pictures were there")
    # Observers are told in the order of their making: the page's own has heard of this frame before this one.
    page.evaluate("new Promise((told) => new IntersectionObserver(told).observe(document.querySelector('.tile')))")
