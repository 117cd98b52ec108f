"""The class pages in a browser: put in order by hand and by keys, merged, discovered by groups; in both colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from annotator import queries
from annotator.actions import classes
from annotator.models import Annotation, Item, LabelClass, Project
from tests.browser.accessible import faults
from tests.cast import make_item
from tests.running_site import wait_until
from tests.test_groups import embed, grouped

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
Visit = Callable[..., Page]


@pytest.fixture
def birds(project: Project, alice: User) -> list[LabelClass]:
    return classes.add_classes(project=project, actor=alice, names=["wren", "tit", "عصفور"])


@pytest.fixture
def pool(project: Project, settings: Any, tmp_path: Path) -> list[Item]:
    made = [make_item(project, 400 + at) for at in range(24)]
    embed(project, made, settings, tmp_path)
    return made


def names(project: Project) -> list[str]:
    return list(project.classes.filter(is_archived=False).values_list("name", flat=True))


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_class_page_is_without_fault(
    visit: Visit, alice: User, bob: User, project: Project, items: list[Item], birds: list[LabelClass],
    cat: LabelClass, answer: Any, colours: str,
) -> None:  # fmt: skip
    for item in items[:4]:
        answer(bob, item, cat)
    answer(bob, items[4], kind="none_of_these")
    classes.add_examples(label_class=cat, actor=alice, item_ids=[items[0].pk])
    classes.archive_class(label_class=birds[1], actor=alice, archived=True)
    here = f"/projects/{project.pk}/classes/"
    page = visit(alice, here, color_scheme=colours)
    assert faults(page) == []
    for address in (f"?class={cat.pk}", f"?class={birds[1].pk}", "discover/", "groups/", f"groups/?of=class:{cat.pk}"):
        page.goto(here + address)
        for summary in page.locator("summary").all():
            summary.click()
        assert faults(page) == [], address


def test_a_class_is_dragged_to_its_place(visit: Visit, alice: User, project: Project, birds: list[LabelClass]) -> None:
    page = visit(alice, f"/projects/{project.pk}/classes/")
    grip = page.locator(f"#class-{birds[0].pk} .grip").bounding_box()
    first = page.locator(".class-row").first.bounding_box()
    assert grip
    assert first
    page.mouse.move(grip["x"] + 8, grip["y"] + 8)
    page.mouse.down()
    page.mouse.move(grip["x"] + 8, first["y"] + 30, steps=6)
    page.mouse.move(grip["x"] + 8, first["y"] + 2, steps=3)
    page.mouse.up()
    wait_until(lambda: names(project)[0] == "wren", 5, "the server knew the new place")
    expect(page.locator("#order-said")).to_have_text("wren is number 1 of 5")
    page.reload()
    expect(page.locator(".class-row .class-name").first).to_have_text("wren")


def test_a_drag_that_is_given_up_changes_nothing(
    visit: Visit, alice: User, project: Project, birds: list[LabelClass]
) -> None:
    page = visit(alice, f"/projects/{project.pk}/classes/")
    grip = page.locator(f"#class-{birds[2].pk} .grip").bounding_box()
    assert grip
    before = names(project)
    page.mouse.move(grip["x"] + 8, grip["y"] + 8)
    page.mouse.down()
    page.mouse.move(grip["x"] + 8, grip["y"] - 90, steps=6)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert page.locator(".class-row .class-name").all_inner_texts() == before
    assert names(project) == before


def test_classes_are_put_in_order_by_keys_alone_and_the_focus_stays(
    visit: Visit, alice: User, project: Project, birds: list[LabelClass]
) -> None:
    page = visit(alice, f"/projects/{project.pk}/classes/")
    page.get_by_role("button", name="Move dog up").focus()
    page.keyboard.press("Enter")
    wait_until(lambda: names(project)[:2] == ["dog", "cat"], 5, "the server knew the new place")
    expect(page.get_by_role("button", name="Move dog down")).to_be_focused()
    expect(page.locator("#order-said")).to_have_text("dog is number 1 of 5")
    page.keyboard.press("Enter")
    wait_until(lambda: names(project)[:2] == ["cat", "dog"], 5, "the server knew the place")
    expect(page.get_by_role("button", name="Move dog down")).to_be_focused()


def test_without_a_script_the_arrows_move_too(
    visit: Visit, alice: User, project: Project, birds: list[LabelClass]
) -> None:
    page = visit(alice, f"/projects/{project.pk}/classes/", java_script_enabled=False)
    page.get_by_role("button", name="Move dog up").click()
    expect(page.locator(".class-row .class-name").first).to_have_text("dog")
    assert names(project)[:2] == ["dog", "cat"]


def test_a_class_is_merged_and_taken_back_from_the_history(
    visit: Visit, alice: User, bob: User, project: Project, items: list[Item], cat: LabelClass, dog: LabelClass,
    answer: Any,
) -> None:  # fmt: skip
    answer(bob, items[0], cat)
    page = visit(alice, f"/projects/{project.pk}/classes/?class={cat.pk}")
    page.get_by_label("It is the same as").select_option("dog")
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(page.get_by_text("cat is merged into dog; 1 answer counts there now")).to_be_visible()
    assert names(project) == ["dog"]
    page.get_by_role("button", name="Take back: merged cat into dog").click()
    expect(page.get_by_text("cat is a class of its own again")).to_be_visible()
    assert names(project) == ["cat", "dog"]


def test_a_group_is_named_by_keys_alone_and_taken_back(
    visit: Visit, alice: User, project: Project, pool: list[Item]
) -> None:
    job = grouped(project, alice, "open")
    first = queries.groups_of(project, job.pk)[0]
    n = len(first.item_ids)
    page = visit(alice, f"/projects/{project.pk}/classes/discover/")
    assert faults(page) == []
    page.locator("#group-tiles input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("#give-text")).to_have_text(f"Give {n - 1} images this class")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#group-tiles input").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("noise")
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"{n - 1} images are noise now")).to_be_visible()
    assert Annotation.objects.filter(annotator=alice).count() == n - 1
    assert page.url.endswith("group=2"), "the next group follows"
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text(f"{n - 1} images are what they were")).to_be_visible()
    assert not Item.objects.filter(project=project, state=Item.State.LABELLED).exists()


def test_a_run_is_ticked_with_shift_and_none_at_once(
    visit: Visit, alice: User, project: Project, pool: list[Item]
) -> None:
    page = visit(alice, f"/projects/{project.pk}/classes/discover/?all=1")
    boxes = page.locator("#group-tiles label")
    expect(page.locator("#give")).to_be_disabled()
    boxes.nth(2).click()
    boxes.nth(8).click(modifiers=["Shift"])
    expect(page.locator("#give-text")).to_have_text("Give 7 images this class")
    page.get_by_role("button", name="Tick none").click()
    expect(page.locator("#give")).to_be_disabled()


@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_nothing_is_wider_than_the_window(
    visit: Visit, alice: User, project: Project, birds: list[LabelClass], pool: list[Item], width: int
) -> None:
    long = classes.add_class(project=project, actor=alice, name="w" * 120)
    grouped(project, alice, "open")
    here = f"/projects/{project.pk}/classes/"
    page = visit(alice, f"{here}?class={long.pk}", viewport={"width": width, "height": 800})
    for address in ("", "discover/"):
        if address:
            page.goto(here + address)
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.evaluate(fits), address
        page.evaluate("document.documentElement.dir = 'rtl'")
        assert page.evaluate(fits), f"{address}, read from the right"
