"""The first run in a real browser: from no project at all to the first labelled image, on good and bad days."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, Route, expect

from annotator import jobs
from annotator.actions import importing
from annotator.models import Annotation, Item, Job, Project
from tests.browser.accessible import faults
from tests.browser.conftest import sign_in
from tests.cast import png

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 40 images in two folders, with two that are broken, one that is empty, and what nobody meant."""
    root = tmp_path / "photos"
    for folder in ("cats", "dogs"):
        (root / folder).mkdir(parents=True)
        for number in range(20):
            (root / folder / f"{number:02}.png").write_bytes(png(number + (100 if folder == "cats" else 200)))
    (root / "cats" / "03.png").write_bytes(b"not an image")
    (root / "dogs" / "07.png").write_bytes(b"\x89PNG\r\n\x1a\nbut no more")
    (root / "dogs" / "empty.png").touch()
    (root / "notes.txt").write_text("words")
    (root / ".DS_Store").write_bytes(b"litter")
    return root


@pytest.fixture
def importing_page(visit: Callable[..., Page], project: Project, alice: User) -> Iterator[Page]:
    yield visit(alice, f"/projects/{project.pk}/import/", viewport={"width": 1280, "height": 900})


def choose(page: Page, folder: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(folder)


def send(page: Page) -> None:
    page.get_by_role("button", name="Import", exact=True).click()


def run_import() -> Job:
    """What a worker would do with the newest import."""
    claimed = jobs.claim(Job.objects.filter(kind=Job.Kind.IMPORT).latest("id").pk)
    assert claimed is not None
    with jobs.running(claimed) as run:
        importing.run_import(run)
    claimed.refresh_from_db()
    return claimed


def arrived(page: Page) -> None:
    expect(page.locator("#imports article").first).to_contain_text("Waiting for a worker to take it", timeout=20_000)


def test_from_nothing_to_the_first_labelled_image(visit: Callable[..., Page], alice: User, photos: Path) -> None:
    page = visit(alice, "/", viewport={"width": 1280, "height": 900})
    assert faults(page) == []
    clicks = 0

    def click(name: str, role: Any = "button") -> None:
        nonlocal clicks
        clicks += 1
        page.get_by_role(role, name=name, exact=True).click()

    click("Make your first project", "link")
    assert faults(page) == []
    page.keyboard.type("Pets")
    page.get_by_label("Classes").fill("cat\ndog")
    click("Make the project")
    expect(page).to_have_url(re.compile(r"/import/$"))
    expect(page.locator(".first-steps [aria-current=step]")).to_contain_text("Bring images")
    assert faults(page) == []
    with page.expect_file_chooser() as chooser:
        click("Choose a folder")
    chooser.value.set_files(photos)
    said = re.compile(r"^41 files, .* · 1 failed · 2 other files left out$")
    expect(page.locator("#sending-said")).to_have_text(said)
    (photos / "dogs" / "empty.png").unlink()
    click("Import")
    expect(page.get_by_role("button", name="Import the 40 that arrived")).to_be_visible()
    expect(page.locator("#sending-list .failed")).to_contain_text("It is empty.")
    assert faults(page) == []
    click("Import the 40 that arrived")
    arrived(page)
    job = run_import()
    assert (job.result["imported"], job.result["refused_count"]) == (38, 2)
    click("Start labelling")
    expect(page.locator(".card[data-front]")).to_be_visible()
    expect(page.locator("#help-button")).to_be_visible()  # the scripts are there
    page.keyboard.press("1")
    expect(page.locator(".tally")).to_contain_text("1 of", timeout=10_000)
    assert Annotation.objects.filter(source="person").count() == 1
    assert clicks <= 6


def test_a_dropped_file_is_taken_wherever_it_falls(importing_page: Page, photos: Path) -> None:
    page = importing_page
    transfer = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array([1, 2, 3])], "dropped.png", {type: "image/png"}));
            return transfer;
        }"""
    )
    page.dispatch_event("h1", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    page.dispatch_event("h1", "drop", {"dataTransfer": transfer})
    expect(page.locator("#sending-list")).to_contain_text("dropped.png")
    page.get_by_role("button", name="Leave out dropped.png").click()
    expect(page.locator("#sending")).to_be_hidden()


def test_a_folder_is_dropped_with_all_that_is_in_it(importing_page: Page, photos: Path) -> None:
    page = importing_page
    browser = page.context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(photos)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": 500, "y": 500, "data": dragged})
    said = re.compile(r"^41 files, .* · 1 failed · 2 other files left out$")
    expect(page.locator("#sending-said")).to_have_text(said)
    expect(page.locator("#sending-list")).to_contain_text("photos/cats/00.png")
    send(page)
    page.get_by_role("button", name="Import the 40 that arrived").click()
    arrived(page)
    expect(page.locator("#imports h3")).to_have_text("photos: 40 files")
    assert run_import().result["imported"] == 38


def test_two_tabs_import_side_by_side(importing_page: Page, project: Project, photos: Path) -> None:
    other = importing_page.context.new_page()
    other.goto(importing_page.url)
    (photos / "dogs" / "empty.png").unlink()
    for page, folder in ((importing_page, photos / "cats"), (other, photos / "dogs")):
        page.bring_to_front()
        choose(page, folder)
        send(page)
    for page in (importing_page, other):
        arrived(page)
    assert run_import_count() == 2
    assert run_import().result["imported"] == 19
    assert run_import_count() == 2


def test_a_server_in_trouble_is_tried_again(importing_page: Page, photos: Path, complaints: list[str]) -> None:
    page, answers = importing_page, iter([500, 503])

    def fail_twice(route: Route) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            route.fulfill(status=status, body="broken")

    page.route("**/import/files/", fail_twice)
    (photos / "dogs" / "empty.png").unlink()
    choose(page, photos)
    send(page)
    expect(page.locator("#sending-trouble")).to_contain_text("The server has a problem.")
    assert faults(page) == []
    arrived(page)
    assert run_import().result["imported"] == 38
    complaints[:] = [each for each in complaints if not re.search("50[03]", each)]


def test_a_connection_that_breaks_costs_only_time(importing_page: Page, photos: Path, complaints: list[str]) -> None:
    page, n_sent = importing_page, 0

    def cut_after_the_first(route: Route) -> None:
        nonlocal n_sent
        n_sent += 1
        if n_sent == 2:
            page.context.set_offline(True)
        route.continue_()

    page.route("**/import/files/", cut_after_the_first)
    (photos / "dogs" / "empty.png").unlink()
    choose(page, photos)
    send(page)
    expect(page.locator("#sending-trouble")).to_contain_text("The server does not answer.")
    page.context.set_offline(False)
    arrived(page)
    assert run_import().result["imported"] == 38
    assert run_import_count() == 1
    complaints[:] = [each for each in complaints if "ERR_INTERNET_DISCONNECTED" not in each]


def run_import_count() -> int:
    return Job.objects.filter(kind=Job.Kind.IMPORT).count()


def test_a_session_that_ran_out_goes_on_after_signing_in(
    importing_page: Page, photos: Path, live_server: Any, alice: User
) -> None:
    page = importing_page
    page.context.clear_cookies()
    (photos / "dogs" / "empty.png").unlink()
    choose(page, photos)
    send(page)
    expect(page.locator("#sending-trouble")).to_contain_text("You are signed out.")
    expect(page.locator("#sending-trouble").get_by_role("link", name="Sign in")).to_be_visible()
    assert faults(page) == []
    sign_in(page.context, live_server.url, alice)
    page.get_by_role("button", name="Try now").click()
    arrived(page)
    assert run_import().result["imported"] == 38


def test_what_the_server_refuses_holds_up_nobody_else(
    importing_page: Page, photos: Path, complaints: list[str]
) -> None:
    page = importing_page

    def refuse_one(route: Route) -> None:
        if b'filename="05.png"' in (route.request.post_data_buffer or b"") and is_refusing:
            route.fulfill(status=422, content_type="application/json", body='{"message": "no room for this one"}')
        else:
            route.continue_()

    is_refusing = True
    page.route("**/import/files/", refuse_one)
    (photos / "dogs" / "empty.png").unlink()
    choose(page, photos)
    send(page)
    failed = page.locator("#sending-list .failed")
    expect(failed).to_have_count(2, timeout=20_000)  # cats/05.png and dogs/05.png
    expect(failed.first).to_contain_text("No room for this one.")
    expect(page.locator("#sending-said")).to_contain_text("38 of 40 files sent")
    is_refusing = False
    page.get_by_role("button", name="Try the failed ones again").click()
    arrived(page)
    assert run_import().result["imported"] == 38
    complaints[:] = [each for each in complaints if "422" not in each]


def test_a_file_that_vanished_is_named(importing_page: Page, photos: Path) -> None:
    page = importing_page
    choose(page, photos)
    expect(page.locator("#sending-said")).to_contain_text("41 files")
    (photos / "cats" / "11.png").unlink()
    send(page)
    expect(page.locator("#sending-list .failed")).to_have_count(2)
    expect(page.locator("#sending-list")).to_contain_text("It can no longer be read from this disk.")


def test_cancelling_leaves_nothing(importing_page: Page, photos: Path, settings: Any) -> None:
    page = importing_page
    n_seen = 0

    def let_the_second_hang(route: Route) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen != 2:
            route.continue_()

    page.route("**/import/files/", let_the_second_hang)
    choose(page, photos)
    send(page)
    expect(page.locator("#sending-said")).to_contain_text("16 of 41 files sent")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#sending")).to_be_hidden()
    expect(page.locator("#sending-aloud")).to_have_text("Cancelled. Nothing of it was imported.")
    page.wait_for_timeout(500)
    assert not [path for path in Path(settings.MEDIA_ROOT, "uploads").rglob("*") if path.is_file()]
    assert not Job.objects.exists()


def test_the_folders_become_the_classes(importing_page: Page, photos: Path, project: Project) -> None:
    page = importing_page
    (photos / "dogs" / "empty.png").unlink()
    choose(page, photos)
    page.get_by_label("From folders").check()
    send(page)
    arrived(page)
    run_import()
    assert set(project.classes.values_list("name", flat=True)) == {"cat", "dog", "cats", "dogs"}
    assert Item.objects.filter(source_name="cats/00.png").exists()


def test_a_refused_table_loses_no_file(importing_page: Page, photos: Path, complaints: list[str]) -> None:
    page = importing_page
    (photos / "dogs" / "empty.png").unlink()
    choose(page, photos)
    page.get_by_label("From a table").check()
    send(page)
    expect(page.locator("#refused")).to_contain_text("Choose the CSV or JSONL file that names the classes.")
    page.get_by_label("None").check()
    send(page)
    arrived(page)
    complaints[:] = [each for each in complaints if "422" not in each]


# Sends 10,000 files to nobody; how many arrived.
TEN_THOUSAND = """async () => {
    const page = document.querySelector('script[src*="importing.js"]').src;
    const { Upload } = await import(page.replace("importing", "uploading"));
    const named = (n) => ({ file: new File([new Uint8Array(10)], `${n}.png`), path: `${n}.png` });
    const upload = new Upload({ post: async () => ({ outcome: "done" }), look: async () => null, changed() {} });
    upload.add(Array.from({ length: 10000 }, (_, n) => named(n)));
    await upload.run();
    return upload.count("done");
}"""


def test_thousands_of_files_are_counted_not_listed(importing_page: Page) -> None:
    page = importing_page
    n_done = page.evaluate(TEN_THOUSAND)
    assert n_done == 10_000
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            for (let n = 0; n < 500; n++) transfer.items.add(new File([new Uint8Array(10)], `${n}.png`));
            document.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
        }"""
    )
    expect(page.locator("#sending-said")).to_contain_text("500 files")
    assert page.locator("#sending-list li").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(visit: Callable[..., Page], project: Project, alice: User, photos: Path, scheme: Any) -> None:
    page = visit(alice, f"/projects/{project.pk}/import/", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    choose(page, photos)
    expect(page.locator("#sending-list .failed")).to_be_visible()
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
