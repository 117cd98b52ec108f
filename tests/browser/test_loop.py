"""The whole loop in a browser, on the real site: sign in, label by keyboard, let it learn, accept a grid, export."""

import csv
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from sklearn.datasets import load_digits

from tests.running_site import RunningSite, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    running = RunningSite(tmp_path_factory.mktemp("site") / "data")
    try:
        yield running.wait()
    finally:
        status = running.stop()
    assert status == 0, running.output


def fingerprint(ink: np.ndarray) -> bytes:
    """ink (8, 8): 0 for paper to 16 for full ink."""
    return ink.round().astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def digit_of() -> dict[bytes, int]:
    """The digit of each picture: what a person would see, found by its pixels."""
    digits = load_digits()
    return {fingerprint(image): int(target) for image, target in zip(digits.images, digits.target, strict=True)}


def seen_digit(page: Page, digit_of: dict[bytes, int]) -> int:
    """Look at the picture on the page."""
    source = page.locator("[data-front] .stage img").get_attribute("src")
    assert source
    picture = Image.open(io.BytesIO(page.request.get(page.url.split("/projects/")[0] + source).body()))
    return digit_of[fingerprint((255 - np.asarray(picture, float)) * 16 / 255)]


def label(page: Page, digit_of: dict[bytes, int], count: int) -> None:
    """Answer this many images by keyboard."""
    for _ in range(count):
        front = page.locator("[data-front]")
        item = front.get_attribute("data-item")
        page.keyboard.press(str(seen_digit(page, digit_of)))
        expect(page.locator(f'[data-front][data-item="{item}"]')).to_have_count(0)


def test_the_loop(page: Page, site: RunningSite, digit_of: dict[bytes, int]) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    page.goto(site.login_link)
    page.get_by_role("button", name="Log in as").click()
    page.get_by_role("link", name="Handwritten digits").first.click()
    page.goto(page.url.rstrip("/") + "/label/")
    page.get_by_role("button", name="Start").click()

    label(page, digit_of, 12)
    expect(page.locator("#learnt")).to_contain_text("Model 1", timeout=30_000)
    label(page, digit_of, 38)

    wait_until(
        lambda: site.query("SELECT 1 FROM annotator_proposal WHERE state = 'pending' LIMIT 1"), 30, "it proposed"
    )
    base = page.url.split("/label/")[0]
    page.goto(base + "/review/")  # at once: answers still on their way arrive all the same
    answered = "SELECT count(*) FROM annotator_annotation WHERE source = 'person'"
    wait_until(lambda: site.query(answered) == [(50,)], 10, "all answers arrived")
    before = site.query("SELECT count(*) FROM annotator_annotation")[0][0]
    shown = page.locator("[data-proposal]").count()
    assert shown
    page.wait_for_timeout(700)  # longer than a key pressed twice
    page.keyboard.press("a")
    wait_until(
        lambda: site.query("SELECT count(*) FROM annotator_annotation")[0][0] == before + shown,
        15,
        f"{shown} proposals were accepted",
    )

    page.goto(base + "/export/")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    rows = list(csv.DictReader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
    origins = [row["origin"] for row in rows]
    assert origins.count("accepted") == shown
    assert origins.count("human") == 50
    assert errors == []
