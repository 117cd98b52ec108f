"""The labelled images beside the reason, in a real browser: they come after the picture and move nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from annotator.models import Item, LabelClass, Project, QueueEntry
from tests.browser.accessible import faults
from tests.embedded_pool import lay_out

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def doubtful(
    project: Project, items: list[Item], answer: Any, bob: User, cat: LabelClass, dog: LabelClass, settings: Any,
    tmp_path: Path,
) -> Project:  # fmt: skip
    """A close call, what is unlike the rest, and what was picked at random, in this order."""
    settings.ARTIFACT_ROOT = tmp_path
    lay_out(project, tmp_path, items, list(range(12)))
    for item, said in zip(items[3:9], [cat, dog] * 3, strict=True):
        answer(bob, item, said)
    QueueEntry.objects.filter(item=items[0]).update(
        reason_code="close_call", reason_data={"classes": [[cat.pk, 0.4], [dog.pk, 0.38]]}
    )
    QueueEntry.objects.filter(item=items[1]).update(reason_code="unlike")
    return project


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)])
def test_the_examples_stand_beside_the_reason(
    visit: Callable[..., Page], doubtful: Project, bob: User, scheme: Any, width: int
) -> None:
    page = visit(bob, f"/projects/{doubtful.pk}/label/", color_scheme=scheme, viewport={"width": width, "height": 800})
    page.get_by_role("button", name="Start", exact=True).click()
    shown = page.locator(".card[data-front] .evidence")
    expect(shown.locator("li")).to_have_text(["cat", "cat", "dog"])
    expect(shown.locator("img")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert faults(page) == []


def test_with_and_without_examples_the_picture_has_the_same_room(
    visit: Callable[..., Page], doubtful: Project, bob: User
) -> None:
    page = visit(bob, f"/projects/{doubtful.pk}/label/", viewport={"width": 1280, "height": 800})
    page.get_by_role("button", name="Start", exact=True).click()
    rooms, has_examples = [], set()
    for _ in range(5):
        card = page.locator(".card[data-front]")
        expect(card).to_be_visible()
        item = card.get_attribute("data-item") or ""
        rooms.append(card.locator(".stage").bounding_box())
        has_examples.add(card.locator(".evidence").count())
        page.keyboard.press("s")
        expect(page.locator(".card[data-front]")).not_to_have_attribute("data-item", item)
    assert has_examples == {0, 1}
    assert all(room == rooms[0] for room in rooms), rooms


def test_the_pictures_to_label_are_asked_for_before_any_example(
    visit: Callable[..., Page], doubtful: Project, items: list[Item], bob: User
) -> None:
    page = visit(bob, f"/projects/{doubtful.pk}/label/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".card[data-front] .evidence img").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    front = next(at for at, url in enumerate(asked) if f"/items/{items[0].pk}/image/" in url)
    assert all(at > front for at, url in enumerate(asked) if url.endswith("/thumbnail/"))
    # Of the cards that wait behind no example is loaded yet: the second one shows three others.
    assert sum(url.endswith("/thumbnail/") for url in asked) == 3
