"""The map in a browser: drawn, moved and selected by pointer, by keyboard and by touch."""

from collections.abc import Callable

import numpy as np
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Locator, Page, expect

from annotator.models import Item, ModelVersion, Project, QueueEntry
from tests.browser.accessible import faults
from tests.cast import make_item
from tests.test_map import blobs, embed

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]


@pytest.fixture
def drawn(project: Project, model: ModelVersion, settings: object) -> list[Item]:
    """A hundred images: fifty in a heap on the left, fifty on the right; the model takes the left ones for cats."""
    made = [make_item(project, seed) for seed in range(100)]
    root = settings.ARTIFACT_ROOT  # type: ignore[attr-defined]
    embed(project, made, blobs(100)[0], root)
    noise = np.random.default_rng(0).normal(scale=0.03, size=(100, 2))
    heaps = np.where(np.arange(100)[:, None] < 50, [[0.25, 0.5]], [[0.75, 0.5]])
    np.save(root / f"{project.pk}/embedding-1-1/map.npy", (heaps + noise).astype(np.float32))
    model.artifact_folder, model.metrics["embedding"] = f"{project.pk}/model-1", f"{project.pk}/embedding-1-1"
    model.save()
    (root / model.artifact_folder).mkdir()
    sure = np.where(np.arange(100) < 50, 0.9, 0.2)
    np.save(root / model.artifact_folder / "probs.npy", np.stack([sure, 1 - sure], 1).astype(np.float16))
    return made


def opened(visit: Visit, who: User, project: Project, **options: object) -> Page:
    page = visit(who, f"/projects/{project.pk}/map/", **options)
    expect(page.locator("#map[data-ready]")).to_be_visible()
    return page


def drag(page: Page, canvas: Locator, *corners: tuple[float, float]) -> None:
    """By mouse, over shares of the sheet's width and height."""
    box = canvas.bounding_box()
    assert box
    for place, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        if place == 0:
            page.mouse.down()
    page.mouse.up()


def test_a_lasso_round_the_left_heap_labels_it_next(
    visit: Visit, project: Project, drawn: list[Item], bob: User
) -> None:
    page = opened(visit, bob, project, viewport={"width": 1280, "height": 1000})
    expect(page.locator("#map-legend")).to_contain_text("cat")
    page.get_by_role("button", name="Lasso").click()
    # The sheet is wider than it is high: its middle square holds the map.
    drag(page, page.locator(".sheet canvas"), (0.2, 0.1), (0.5, 0.1), (0.5, 0.9), (0.2, 0.9), (0.2, 0.15))
    expect(page.locator("#map-selected")).to_have_text("50 images selected, 50 of them open")
    page.locator("#map-selection").get_by_role("button", name="Label these").click()
    expect(page).to_have_url(f"{page.url.split('/projects')[0]}/projects/{project.pk}/label/")
    chosen = QueueEntry.objects.filter(reason_code="chosen").values_list("item_id", flat=True)
    assert set(chosen) == {item.pk for item in drawn[:50]}


def test_by_keyboard_alone_a_part_is_seen_selected_and_reviewed(
    visit: Visit, project: Project, drawn: list[Item], carol: User
) -> None:
    page = opened(visit, carol, project, viewport={"width": 1280, "height": 1000})
    page.locator(".sheet").focus()
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#map-under")).to_contain_text("the model: ")
    expect(page.locator("#map-under img")).to_have_js_property("complete", True)
    page.keyboard.press("v")
    expect(page.locator("#map-selected")).to_have_text("100 images selected, 100 of them open")
    page.keyboard.press("Escape")
    expect(page.locator("#map-selection")).to_be_hidden()
    for _press in range(5):
        page.keyboard.press("+")
    for _press in range(12):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("v")
    expect(page.locator("#map-selected")).to_have_text("50 images selected, 50 of them open")
    link = page.locator("#map-selection").get_by_role("link", name="Review these")
    assert "inside=" in (link.get_attribute("href") or "")


def test_a_rectangle_by_touch_and_the_list_picks_out_a_class(
    visit: Visit, project: Project, drawn: list[Item], bob: User
) -> None:
    page = opened(visit, bob, project, viewport={"width": 390, "height": 800}, has_touch=True)
    page.get_by_role("button", name="Rectangle").tap()
    drag(page, page.locator(".sheet canvas"), (0.02, 0.02), (0.5, 0.98))
    expect(page.locator("#map-selected")).to_have_text("50 images selected, 50 of them open")
    line = page.locator("#map-legend").get_by_role("button", name="dog")
    line.tap()
    expect(line).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Colour by").select_option("doubt")
    expect(page.locator("#map-legend")).to_contain_text("sure")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_map_is_accessible(
    visit: Visit, project: Project, drawn: list[Item], carol: User, width: int, scheme: str
) -> None:
    page = opened(visit, carol, project, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.locator(".sheet").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("v")
    assert faults(page) == []


def test_of_a_hundred_thousand_points_those_inside_the_outline_are_selected(
    visit: Visit, project: Project, drawn: list[Item], bob: User
) -> None:
    """An outline of 200 corners round a circle: what lies well inside and well outside is told from it by distance."""
    page = opened(visit, bob, project, viewport={"width": 1280, "height": 1000})
    wrong, selected = page.evaluate(
        """async () => {
            const { inside } = await import("/static/js/map_points.js");
            const n = 100000, random = () => Float32Array.from({ length: n }, () => Math.random());
            const points = { n, x: random(), y: random() };
            const found = inside(points, Array.from({ length: 200 }, (_, i) =>
                [0.5 + 0.4 * Math.cos(i * Math.PI / 100), 0.5 + 0.4 * Math.sin(i * Math.PI / 100)]));
            const far = [...points.x.keys()].map((i) => Math.hypot(points.x[i] - 0.5, points.y[i] - 0.5));
            return [far.filter((at, i) => (at < 0.399 && !found[i]) || (at > 0.4 && found[i])).length,
                    found.reduce((sum, each) => sum + each, 0)];
        }"""
    )
    assert wrong == 0
    assert 48_000 < selected < 52_500  # half of the square: pi times 0.16
