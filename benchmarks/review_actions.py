"""How many human actions does a label cost in the review grid? A scripted person in a real browser, on the demo.

    python benchmarks/review_actions.py [--answers 100] [--labels 600] [--width 1440] [--height 900]

A Winnow of its own is started in an empty folder. So many of its digits are answered in the order asked for; then
somebody who sees the true digits goes through the review page until so many labels are accepted, or nothing is put up.
On each screen they drag over each run of neighbours that are wrong and of the same true class and press that class's
key; then they press the key that accepts the rest. Whenever a screen is empty, they look again (a reload) once the
model has learnt. Every key press, click, drag, page turn and reload counts as one action; so does opening the page.

Printed: actions for each accepted label, by kind; how many of the accepted labels are true; and the same for somebody
who corrects nothing and only presses the key, which says what the care was worth.
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import Locator, Page, sync_playwright
from sklearn.datasets import load_digits

from tests.running_site import RunningSite

ANSWER = """
import re, time, uuid
from sklearn.datasets import load_digits
from annotator.actions import labeling, queueing
from annotator.models import Job, Membership, Project
truth = load_digits().target
project = Project.objects.get()
owner = Membership.objects.get(project=project, role="owner").user
names = dict(project.classes.values_list("name", "pk"))
def learnt():
    for _ in range(600):
        if not Job.objects.filter(project=project, state__in=["queued", "running"]).exclude(kind="study").exists():
            return
        time.sleep(0.1)
learnt()
for place in range({answers}):
    entry = queueing.reserve_items(project=project, annotator=owner, count=1)[0]
    digit = truth[int(re.findall(r"\\d+", entry.item.source_name)[0])]
    labeling.record_annotation(project=project, annotator=owner, item_id=entry.item_id, uuid=uuid.uuid4(),
                               kind="label", raw_value=names[str(digit)], milliseconds=1500)
    if place % 10 == 9:
        time.sleep(0.3)
        learnt()
print("answered")
"""
PATIENCE_S = 60


@dataclass
class Tally:
    """What it cost, and what came of it."""

    actions: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    right: int = 0
    screens: int = 0

    def told(self, who: str) -> str:
        n = sum(self.actions.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.actions.most_common())
        return (
            f"{who}: {self.accepted} labels on {self.screens} screens by {n} actions ({kinds}):"
            f" {n / max(self.accepted, 1):.3f} for each label; {self.right} of {self.accepted} true"
            f" ({100 * self.right / max(self.accepted, 1):.1f} %)"
        )


class Reviewer:
    """Somebody at the review page who sees what each image truly is."""

    def __init__(self, page: Page, site: RunningSite, *, is_careful: bool) -> None:
        digits = load_digits().target
        rows = site.query("SELECT id, source_name FROM annotator_item")
        self.truth = {pk: str(digits[int(re.findall(r"\d+", name)[0])]) for pk, name in rows}
        self.names = {str(pk): name for pk, name in site.query("SELECT id, name FROM annotator_labelclass")}
        self.page, self.site, self.is_careful = page, site, is_careful
        self.tally = Tally()

    def go_through(self, labels: int) -> Tally:
        address = f"{self.site.address}/projects/{self.site.query('SELECT id FROM annotator_project')[0][0]}/review/"
        self.page.goto(address)
        self.tally.actions["page opened"] += 1
        while self.tally.accepted < labels:
            if not self.tiles() and not self.wait_for_more():
                break
            self.decide()
        return self.tally

    def tiles(self) -> list[tuple[Locator, str, str, int]]:
        """Each tile with the class it proposes, what it truly is, and its place."""
        found = self.page.evaluate(
            "[...document.querySelectorAll('.tile')].map((tile) => [tile.dataset.class, Number(tile.dataset.item)])"
        )
        all_tiles = self.page.locator(".tile")
        return [
            (all_tiles.nth(place), self.names[class_id], self.truth[item], place)
            for place, (class_id, item) in enumerate(found)
        ]

    def decide(self) -> None:
        self.page.wait_for_timeout(700)  # nobody decides sooner
        tiles = self.tiles()
        said = [true if self.is_careful else proposed for _tile, proposed, true, _place in tiles]
        if self.is_careful:
            for run in runs([tile for tile in tiles if tile[1] != tile[2]]):
                self.correct(run)
        before = self.page.locator("#grid").get_attribute("data-place"), [tile[3] for tile in tiles]
        first = self.page.locator(".tile").first.get_attribute("data-tile")
        for _turn in range(20):
            text = self.page.locator("#accept-text").inner_text()
            self.page.keyboard.press("a")
            self.tally.actions["accept key" if "See" not in text else "page turned"] += 1
            self.page.wait_for_timeout(700)
            tile = self.page.locator(".tile").first
            if not tile.count() or tile.get_attribute("data-tile") != first:
                break
        else:
            raise SystemExit(f"the screen {before} was not accepted: {self.page.locator('#notices').inner_text()}")
        self.tally.screens += 1
        self.tally.accepted += len(tiles)
        self.tally.right += sum(word == tile[2] for word, tile in zip(said, tiles, strict=True))

    def correct(self, run: list[Any]) -> None:
        """Drag over the run and press the key of its class."""
        for tile in (run[0][0], run[-1][0]):
            tile.scroll_into_view_if_needed()
        start, end = run[0][0].bounding_box(), run[-1][0].bounding_box()
        assert start is not None and end is not None
        self.page.mouse.move(start["x"] + 20, start["y"] + start["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(end["x"] + end["width"] - 20, end["y"] + end["height"] / 2, steps=6)
        self.page.mouse.up()
        assert self.page.locator(".tile.selected").count() == len(run), "the drag selected something else"
        self.tally.actions["drag"] += 1
        key = self.page.locator(f'#other-classes .choice[data-name="{run[0][2]}"]').get_attribute("data-key")
        assert key is not None
        self.page.keyboard.press(key)
        self.tally.actions["class key"] += 1

    def wait_for_more(self) -> bool:
        """Look again, once, when the model has learnt; whether there is something."""
        busy = "SELECT 1 FROM annotator_job WHERE state IN ('queued', 'running') AND kind IN ('refit', 'embed')"
        deadline = time.monotonic() + PATIENCE_S
        time.sleep(1)
        while self.site.query(busy) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.page.reload()
        self.tally.actions["reload"] += 1
        return bool(self.tiles())


def runs(wrong: list[Any]) -> list[list[Any]]:
    """Neighbours on the screen that are truly of the same class."""
    found: list[list[Any]] = []
    for tile in wrong:
        if found and found[-1][-1][3] == tile[3] - 1 and found[-1][-1][2] == tile[2]:
            found[-1].append(tile)
        else:
            found.append([tile])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--labels", type=int, default=600)
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=900)
    wanted = parser.parse_args()
    chromium = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    for who, is_careful in (("careful", True), ("presses the key alone", False)):
        with tempfile.TemporaryDirectory(prefix="winnow-actions-") as data, sync_playwright() as playwright:
            site = RunningSite(Path(data) / "data").wait()
            try:
                site.manage("shell", "-v0", "-c", ANSWER.replace("{answers}", str(wanted.answers)), timeout_s=600)
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": wanted.width, "height": wanted.height})
                page.goto(site.login_link)
                page.locator("main button").first.click()
                print(Reviewer(page, site, is_careful=is_careful).go_through(wanted.labels).told(who), flush=True)
                browser.close()
            finally:
                site.stop()


if __name__ == "__main__":
    main()
