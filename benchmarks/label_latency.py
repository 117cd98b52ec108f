"""From a key press to the next image on the screen, in a real browser against a running site.

    python benchmarks/label_latency.py [--answers 200] [--quick] [--only latency,killed,bytes] [--json FILE]

latency     Images of 28 px, 1 MP and 12 MP (JPEG, smooth colours with the grain of a camera), no network delay and
            150 ms of it (Chromium's own throttling), some three answers a second, for which one has to be quick.
            painted: from the time stamp of the key event to the frame that shows the next image, by two clocks of
            which the later counts: the presentation that Event Timing reports (in steps of 8 ms; what is shorter than
            16 ms is not reported and counts as 16), and the second animation frame after the card was changed. Where
            the next image had not come yet, the wait for it is part of the time.
            presented: by the first clock alone, which is the browser's own word on when the frame was on the screen;
            the second one waits for a frame more, and for whatever else the machine does meanwhile.
            floor: the same clocks on an empty page on which a key colours a box: what browser and machine take by
            themselves while this runs.
            form: the baseline of the same run, what the page needs without our module: the form is posted, the
            redirect followed, the page loaded, its image decoded and painted.
            shift: all layout shifts of the run, those right after a key included, which the usual score leaves out.
killed      Somebody answers while the web server is killed (SIGKILL) five times and started again by its supervisor.
            Every key that answered something is noted with the image it was meant for; afterwards the database is
            asked. lost: noted and not there, or there as another class. doubled: more than one answer to one image.
            strange: there, and not noted.
bytes       What the label page transfers at its first visit, as served: our own scripts, styles and HTML; the vendored
            htmx; pictures.
"""

import argparse
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, CDPSession, Error, Page, sync_playwright

from tests.running_site import RunningSite, wait_until

SIZES = {"28 px": (28, 28), "1 MP": (1216, 832), "12 MP": (4000, 3000)}
DELAYS_MS = (0, 150)
ANSWERS_A_SECOND = 3
FORM_ANSWERS = 10
VIEWPORT = {"width": 1280, "height": 900}

# Notes for each key: the image it was meant for, and how long until the next one was painted.
WATCH = """
(() => {
  window.noted = []; window.shift = 0; window.shifts = []; window.refused = [];
  const byKey = new Map();
  const front = () => document.querySelector("[data-front]");
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const note = entry.name === "keydown" && byKey.get(entry.startTime);
      if (note) note.presented = entry.duration;
    }
  }).observe({ type: "event", durationThreshold: 16, buffered: true });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      window.shift += entry.value;
      for (const { node } of entry.sources) window.shifts.push(node?.className || node?.nodeName);
    }
  }).observe({ type: "layout-shift", buffered: true });
  document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.violatedDirective));
  document.addEventListener("keydown", (event) => {
    const shown = front();
    if (!shown || !/^[0-9]$/.test(event.key)) return;
    const note = { item: Number(shown.dataset.item), key: event.key, at: event.timeStamp };
    byKey.set(event.timeStamp, note);
    const look = () => {
      const next = front();
      if (next === shown) return;  // the key answered nothing
      window.noted.push(note);
      const wait = () => {
        if (!front()) return requestAnimationFrame(wait);
        requestAnimationFrame(() => requestAnimationFrame(() => (note.framed = performance.now() - event.timeStamp)));
      };
      wait();
    };
    queueMicrotask(() => setTimeout(look));
  }, { capture: true });
})()
"""

# A key colours a box, and nothing else happens.
FLOOR = """
<div id="box" style="width: 900px; height: 500px; background: red"></div>
<script>
  window.noted = [];
  const byKey = new Map();
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const note = entry.name === "keydown" && byKey.get(entry.startTime);
      if (note) note.presented = entry.duration;
    }
  }).observe({ type: "event", durationThreshold: 16, buffered: true });
  addEventListener("keydown", (event) => {
    box.style.background = box.style.background === "red" ? "green" : "red";
    const note = {};
    byKey.set(event.timeStamp, note);
    noted.push(note);
    requestAnimationFrame(() => requestAnimationFrame(() => (note.framed = performance.now() - event.timeStamp)));
  });
</script>
"""

# The form by key, without the module: from the key to the image of the page that comes back.
FORM = """
document.addEventListener("DOMContentLoaded", async () => {
  const started = Number(sessionStorage.getItem("started"));
  const picture = document.querySelector("[data-front] img");
  if (started && picture) {
    await picture.decode();
    requestAnimationFrame(() => requestAnimationFrame(() => {
      window.took = performance.timeOrigin + performance.now() - started;
    }));
  }
  document.addEventListener("keydown", (event) => {
    const button = document.querySelector(`[name=answer][data-key="${event.key}"]`);
    if (!button) return;
    sessionStorage.setItem("started", performance.timeOrigin + event.timeStamp);
    button.click();
  });
});
"""


# ---- pictures and projects --------------------------------------------------------------------------------------


def make_photos(folder: Path, size: tuple[int, int], count: int) -> Path:
    """So many different pictures of this size: soft fields of colour under the grain of a sensor."""
    width, height = size
    rng = np.random.default_rng(width)
    folder.mkdir(parents=True)
    fields = Image.fromarray(rng.integers(30, 225, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 7, (height, width, 1)).astype(np.int16)
    photo = np.clip(np.asarray(fields, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
    for number in range(count):
        moved = np.roll(photo, (number * height // count, number * 7), axis=(0, 1))
        moved = np.ascontiguousarray(moved if number % 2 else moved[:, :, ::-1])
        moved[:16, :16] = rng.integers(0, 255, (16, 16, 3))  # no two alike: copies are found and left out
        out = io.BytesIO()
        Image.fromarray(moved).save(out, "JPEG", quality=90)
        (folder / f"photo-{number:04}.jpg").write_bytes(out.getvalue())
    return folder


def make_project(site: RunningSite, name: str, folder: Path) -> int:
    """A project with these images and five classes, embedded and ready; its number."""
    code = (
        "from django.contrib.auth.models import User; from annotator.actions import projects;"
        f"p = projects.create_project(owner=User.objects.get(), name={name!r}, class_names=list('ABCDE'));"
        "projects.save_settings(project=p, actor=User.objects.get(), raw=dict("
        "audit_minimum=0, audit_fraction=0, suspect_share=0, second_opinion_share=0));"
        "print('number', p.pk)"
    )
    found = re.search(r"number (\d+)", site.manage("shell", "-c", code))
    assert found
    site.manage("import_items", name, str(folder), timeout_s=1200)
    active = "SELECT count(*) FROM annotator_job WHERE state IN ('queued', 'running')"
    wait_until(lambda: site.query(active)[0][0] == 0, 1200, f"{name} was embedded")
    return int(found[1])


# ---- answering --------------------------------------------------------------------------------------------------


def sign_in(browser: Browser, site: RunningSite) -> dict[str, Any]:
    """Cookies of the owner. The link works once."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.login_link)
    page.locator("form button").first.click()
    page.wait_for_url(lambda url: "login" not in url)
    state = context.storage_state()
    context.close()
    return dict(state)


def open_desk(context: BrowserContext, site: RunningSite, project: int, delay_ms: int) -> Page:
    page = context.new_page()
    throttle(page, delay_ms)
    page.goto(f"{site.address}/projects/{project}/label/")
    start = page.get_by_role("button", name="Start")
    if start.count():
        start.click()
    page.wait_for_selector("[data-front]", state="visible")
    until(page, "document.querySelectorAll('.card').length >= 5")
    page.wait_for_timeout(1500 + 4 * delay_ms)
    return page


def until(page: Page, expression: str) -> Any:
    """The first true value of it. Playwright's own way evaluates text, which the content policy forbids."""

    def ask() -> Any:
        try:
            return page.evaluate(expression)
        except Error:  # the page is just being replaced
            return None

    return wait_until(ask, 60, f"the page had {expression}")


def throttle(page: Page, delay_ms: int) -> CDPSession:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    if delay_ms:
        conditions = {"offline": False, "latency": delay_ms, "downloadThroughput": -1, "uploadThroughput": -1}
        session.send("Network.emulateNetworkConditions", conditions)
    return session


def answer(page: Page, count: int, rng: random.Random) -> None:
    """So many keys at a human pace: a gap of a third of a second, give or take a third of that."""
    for _ in range(count):
        due = time.monotonic() + rng.uniform(2 / 3, 4 / 3) / ANSWERS_A_SECOND
        page.keyboard.press(str(rng.randint(1, 5)))
        time.sleep(max(0.0, due - time.monotonic()))


def measure_desk(browser: Browser, state: Any, site: RunningSite, project: int, delay_ms: int, count: int) -> dict:
    context = browser.new_context(storage_state=state, viewport=VIEWPORT)
    context.add_init_script(WATCH)
    page = open_desk(context, site, project, delay_ms)
    page.evaluate("window.shift = 0; window.shifts = []")  # Start has made room for the buttons
    answer(page, count, random.Random(project))
    page.wait_for_timeout(2000 + 4 * delay_ms)
    noted = page.evaluate("window.noted")
    painted = [max(each.get("framed", 1e9), each.get("presented", 16)) for each in noted]
    found = {
        "answers": len(noted),
        "unanswered_keys": count - len(noted),
        "p50": float(np.percentile(painted, 50)),
        "p95": float(np.percentile(painted, 95)),
        "worst": max(painted),
        "presented_p95": float(np.percentile([each.get("presented", 16) for each in noted], 95)),
        "shift": page.evaluate("window.shift"),
        "shifted": page.evaluate("[...new Set(window.shifts)]"),
        "refused": page.evaluate("window.refused"),
    }
    context.close()
    return found


def measure_floor(browser: Browser, count: int) -> dict[str, float]:
    page = browser.new_page(viewport=VIEWPORT)
    page.set_content(FLOOR)
    answer(page, count, random.Random(0))
    page.wait_for_timeout(500)
    noted = page.evaluate("window.noted")
    page.close()
    painted = [max(each["framed"], each.get("presented", 16)) for each in noted]
    presented = [each.get("presented", 16) for each in noted]
    return {
        "floor_p95": float(np.percentile(painted, 95)),
        "floor_presented_p95": float(np.percentile(presented, 95)),
    }


def measure_form(browser: Browser, state: Any, site: RunningSite, project: int, delay_ms: int, count: int) -> list:
    """Milliseconds of each answer by the plain form."""
    context = browser.new_context(storage_state=state, viewport=VIEWPORT)
    context.add_init_script(FORM)
    context.route("**/labeling.js", lambda route: route.abort())
    page = context.new_page()
    throttle(page, delay_ms)
    page.goto(f"{site.address}/projects/{project}/label/")
    start = page.get_by_role("button", name="Start")
    if start.count():
        start.click()
    page.wait_for_selector("[data-front]")
    took = []
    for _ in range(count):
        page.wait_for_timeout(300)
        page.evaluate("window.took = null; window.isOld = true")
        page.keyboard.press("1")
        took.append(until(page, "!window.isOld && window.took"))
    context.close()
    return took


# ---- the three parts --------------------------------------------------------------------------------------------


def latency(browser: Browser, state: Any, site: RunningSite, folder: Path, answers: int, forms: int) -> list[dict]:
    rows = []
    for size, pixels in SIZES.items():
        photos = make_photos(folder / size.replace(" ", ""), pixels, answers + forms + 8)
        for delay_ms in DELAYS_MS:
            project = make_project(site, f"{size} {delay_ms} ms", photos)
            row = {"size": size, "delay_ms": delay_ms}
            row |= measure_floor(browser, answers // 2)
            row |= measure_desk(browser, state, site, project, delay_ms, answers)
            took = measure_form(browser, state, site, project, delay_ms, forms)
            row |= {"form_p50": float(np.percentile(took, 50)), "form_p95": float(np.percentile(took, 95))}
            rows.append(row)
            print(
                f"{size:>6} {delay_ms:>4} ms delay: {row['answers']} answers, painted p50 {row['p50']:.0f} ms,"
                f" p95 {row['p95']:.0f} ms, worst {row['worst']:.0f} ms, presented p95 {row['presented_p95']:.0f} ms;"
                f" floor p95 {row['floor_p95']:.0f} ms, presented {row['floor_presented_p95']:.0f} ms;"
                f" form p50 {row['form_p50']:.0f} ms, p95 {row['form_p95']:.0f} ms:"
                f" {row['form_p95'] / row['p95']:.1f} times as long; shift {row['shift']:.4f} {row['shifted'] or ''}"
                f"{row['refused'] or ''}; {row['unanswered_keys']} keys found no image",
                flush=True,
            )
    return rows


def killed(browser: Browser, state: Any, site: RunningSite, folder: Path, answers: int, kills: int) -> dict:
    """Answers given while the web server dies again and again."""
    project = make_project(site, "killed", make_photos(folder / "killed", SIZES["28 px"], answers + 60))
    context = browser.new_context(storage_state=state, viewport=VIEWPORT)
    context.add_init_script(WATCH)
    page = open_desk(context, site, project, 0)
    rng = random.Random(7)
    at = [round((number + rng.uniform(0.3, 0.7)) * answers / kills) for number in range(kills)]
    for number in range(answers):
        if number in at:
            wait_until(lambda: web_server(site), 30, "there was a web server to kill").send_signal(signal.SIGKILL)
        page.wait_for_selector("[data-front]", timeout=60_000)
        answer(page, 1, rng)
    wait_until(lambda: saved(page), 90, "every answer was saved")
    noted = {each["item"]: each["key"] for each in page.evaluate("window.noted")}
    n_noted = page.evaluate("window.noted.length")
    context.close()
    classes = dict(site.query("SELECT id, name FROM annotator_labelclass WHERE project_id = %s", project))
    stored = site.query(
        "SELECT item_id, (value->>'class')::bigint FROM annotator_annotation WHERE project_id = %s"
        " AND kind = 'label' ORDER BY id",
        project,
    )
    by_item = {item: "ABCDE".index(classes[label]) + 1 for item, label in stored}
    counts = Counter(item for item, _ in stored)
    found = {
        "kills": kills,
        "keys": n_noted,
        "stored": len(stored),
        "lost": sum(by_item.get(item) != int(key) for item, key in noted.items()),
        "doubled": sum(count - 1 for count in counts.values()),
        "strange": sum(item not in noted for item in by_item),
    }
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def web_server(site: RunningSite) -> Any:
    """Its process, or None while it is being started again."""
    for each in site.processes():
        with suppress(psutil.Error):
            if "annotator.wsgi" in each.cmdline():
                return each
    return None


def saved(page: Page) -> bool:
    page.wait_for_timeout(500)
    return not page.locator("#unsaved, #passing").filter(visible=True).count()


def transferred(browser: Browser, state: Any, site: RunningSite, folder: Path) -> dict[str, int]:
    project = make_project(site, "bytes", make_photos(folder / "bytes", SIZES["28 px"], 12))
    context = browser.new_context(storage_state=state, viewport=VIEWPORT)
    open_desk(context, site, project, 0).close()
    page = context.new_page()
    session = throttle(page, 0)
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    kinds: dict[str, str] = {}
    sums: Counter[str] = Counter()

    def kind_of(event: dict[str, Any]) -> None:
        url, kind = event["response"]["url"], event["type"]
        name = "htmx" if "/vendor/" in url else {"Script": "scripts", "Stylesheet": "styles"}.get(kind, kind.lower())
        kinds[event["requestId"]] = "html" if kind == "Document" else name

    session.on("Network.responseReceived", kind_of)
    session.on(
        "Network.loadingFinished",
        lambda event: sums.update({kinds.get(event["requestId"], "?"): int(event["encodedDataLength"])}),
    )
    page.goto(f"{site.address}/projects/{project}/label/")
    page.wait_for_timeout(1500)
    context.close()
    found = {name: sums[name] for name in sorted(sums)}
    found["own"] = sums["scripts"] + sums["styles"] + sums["html"]
    print(", ".join(f"{name} {value:,}" for name, value in found.items()), "bytes", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="30 answers, 3 by form, 2 kills")
    parser.add_argument("--only", default="bytes,killed,latency")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    answers, forms, kills = (30, 3, 2) if options.quick else (options.answers, FORM_ANSWERS, 5)
    only = options.only.split(",")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="winnow-latency-") as folder:
        site = RunningSite(Path(folder) / "data", "--no-demo").wait()
        try:
            with sync_playwright() as playwright:
                arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=arguments
                )
                state = sign_in(browser, site)
                if "bytes" in only:
                    found["bytes"] = transferred(browser, state, site, Path(folder))
                if "killed" in only:
                    found["killed"] = killed(browser, state, site, Path(folder), answers, kills)
                if "latency" in only:
                    found["latency"] = latency(browser, state, site, Path(folder), answers, forms)
                browser.close()
        finally:
            site.stop()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
