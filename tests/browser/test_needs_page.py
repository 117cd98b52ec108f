"""The queue and the gate in a browser: shares that three people at once keep, reasons that are true, labels that were
accepted unseen, looked through and given back."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect
from sklearn.datasets import load_digits

from annotator.actions import certifying
from annotator.models import Annotation, AuditEvent, Item, LabelClass, ModelVersion, Project, Proposal, Split
from tests.browser.test_review_page import wait_for_a_look
from tests.cast import make_item
from tests.running_site import RunningSite, wait_until
from tests.test_certifying import Rigged

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]
PEOPLE, ANSWERS = ("ann", "ben", "cleo"), 200
# Each has enough to ask from the first answers on: what the others ask about is there only once it was found.
SHARES = {"audit": 0.2, "baseline": 0.1, "second_opinion": 0.1}
SETTINGS = {f"{need}_share": share for need, share in SHARES.items()} | {"suspect_share": 0, "automatic_share": 0}

# The image on the desk, once every answer given here has been replied to.
READY = """
    Number(document.getElementById("desk").dataset.unsaved ?? 0)
        ? null : document.querySelector("[data-front]")?.dataset.item
"""

JOIN = f"""
from django.contrib.auth.models import User
from annotator.models import Membership, Project
project = Project.objects.get(is_demo=True)
project.settings_json |= {SETTINGS!r}
project.save()
for name in {(*PEOPLE, "dora")!r}:
    Membership.objects.create(project=project, user=User.objects.create_user(name), role="annotator")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    running = RunningSite(tmp_path_factory.mktemp("needs") / "data")
    try:
        running.wait().manage("shell", "--no-imports", "-c", JOIN)
        yield running
    finally:
        status = running.stop()
    assert status == 0, running.output


def desk(browser: Browser, site: RunningSite, name: str) -> Page:
    """This person's labelling page, with the first images on it."""
    page = browser.new_context().new_page()
    page.goto(re.findall(r"http\S+", site.manage("login_link", name))[0])
    page.get_by_role("button", name="Log in as").click()
    page.goto(f"{site.address}/projects/1/label/")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("[data-front]")).to_have_count(1)
    return page


def digits(site: RunningSite) -> dict[str, str]:
    """What a person would see, by item: the name of its file is its place in the collection."""
    targets = load_digits().target
    found = site.query("SELECT id, source_name FROM annotator_item WHERE source_name LIKE 'digit-%%'")
    return {str(pk): str(targets[int(name[6:10])]) for pk, name in found}


def answers(site: RunningSite) -> list[str]:
    rows = "SELECT reason_code FROM annotator_annotation WHERE source = 'person' ORDER BY id LIMIT %s"
    return [reason for (reason,) in site.query(rows, ANSWERS)]


def quiet(site: RunningSite) -> bool:
    """Whether the worker has caught up with the answers."""
    return not site.query("SELECT 1 FROM annotator_job WHERE state IN ('queued', 'running') AND kind = 'refit'")


@pytest.mark.slow
def test_three_people_at_once_keep_the_shares_and_the_reasons_are_true(browser: Browser, site: RunningSite) -> None:
    digit = digits(site)
    pages = [desk(browser, site, name) for name in PEOPLE]
    complaints: list[str] = []
    for page in pages:
        page.on("pageerror", lambda error: complaints.append(str(error)))
    chance = random.Random(7)
    pressed = 0
    while pressed < ANSWERS:
        page = chance.choices(pages, [1, 2, 2])[0]
        # As soon as the answer before has been replied to: no person is faster than that for long.
        item = page.evaluate(READY)
        if item is None:
            page.wait_for_timeout(10)
            continue
        page.keyboard.press(digit[item])
        pressed += 1
    wait_until(lambda: len(answers(site)) == ANSWERS, 30, "every answer arrived")
    served = Counter(answers(site))
    for need, share in SHARES.items():
        assert abs(served[need] - share * ANSWERS) <= 1, served
    assert complaints == []

    wait_until(lambda: quiet(site), 60, "the newest answers were learnt")
    fresh = desk(browser, site, "dora")
    close_calls = 0
    for _ in range(12):
        front = fresh.locator("[data-front]")
        item, why = front.get_attribute("data-item"), front.locator(".why").inner_text()
        assert item
        if why.startswith("Close call: "):
            assert re.findall(r"\d", why) == top_two(site, int(item)), why
            close_calls += 1
        fresh.keyboard.press(digit[item])
        expect(fresh.locator(f'[data-front][data-item="{item}"]')).to_have_count(0)
        expect(fresh.locator("[data-front]")).to_have_count(1)
        if close_calls == 4:  # the next ranking comes after ten answers
            break
    assert close_calls >= 3
    for page in (*pages, fresh):
        page.context.close()


def top_two(site: RunningSite, item_id: int) -> list[str]:
    """The names of the two classes that the current model's stored probabilities put first for an item."""
    newest = "SELECT artifact_folder, class_ids, metrics->>'embedding' FROM annotator_modelversion"
    ((folder, class_ids, embedding),) = site.query(f"{newest} ORDER BY number DESC LIMIT 1")
    names = dict(site.query("SELECT id, name FROM annotator_labelclass"))
    artifacts = next(site.data.glob(f"*/{embedding}")).parent.parent
    row = int(np.searchsorted(np.load(artifacts / embedding / "item_ids.npy"), item_id))
    probs = np.load(artifacts / folder / "probs.npy")[row].astype(np.float32)
    return [names[class_ids[column]] for column in np.argsort(-probs, kind="stable")[:2]]


# --- the gate ---


@pytest.fixture
def rigged(project: Project, cat: LabelClass, dog: LabelClass, alice: User, model: ModelVersion) -> Rigged:
    """260 images with pictures, 60 of them random checks, of which Alice answered half, all rightly."""
    made = [make_item(project, number, Split.AUDIT if number < 60 else Split.POOL) for number in range(260)]
    for number, item in enumerate(made):
        item.source_name = str(number)
    Item.objects.bulk_update(made, ["source_name"])
    rigged = Rigged(project, cat, dog, alice, made, model)
    rigged.choose(auto_accept=True, target_precision=0.8)
    rigged.check(rigged.checks[:36])
    rigged.take_stock()
    return rigged


def test_the_panel_promises_and_what_was_accepted_unseen_is_looked_through(
    visit: Visit, rigged: Rigged, project: Project, carol: User
) -> None:
    given, accepted = rigged.certificate, rigged.accepted()
    assert accepted == given.rest > 0
    page = visit(carol, f"/projects/{project.pk}/?about=worth", viewport={"width": 1280, "height": 3000})
    panel = page.locator("#unseen")
    expect(panel).to_contain_text(f"With 95 % confidence at least 80 % of the {given.rest} images")
    expect(panel).to_contain_text("0 errors in")
    panel.get_by_role("link", name="Look through them").click()
    expect(page.locator("#unseen-labels")).to_contain_text(f"These {accepted} labels were accepted unseen")
    shown = page.locator(".tile").count()
    assert shown == page.locator(".tile img").count() > 1
    wrong = page.locator(".tile").first.get_attribute("data-proposal")
    assert wrong
    wait_for_a_look(page)
    page.locator(f'.tile[data-proposal="{wrong}"] .mark').press("x")
    expect(page.locator("#accept-text")).to_have_text(f"Accept {shown - 1}, send 1 back")
    page.keyboard.press("Enter")
    wait_until(lambda: rigged.accepted() == accepted - shown, 5, "the screenful was decided")
    returned = Proposal.objects.get(pk=wrong)
    assert returned.state == "rejected"
    assert returned.item.state == Item.State.OPEN
    # Taken back, they count unseen again.
    page.keyboard.press("z")
    wait_until(lambda: rigged.accepted() == accepted, 5, "the screenful was taken back")


def test_a_promise_that_broke_is_told_and_its_labels_are_up_for_review(
    visit: Visit, rigged: Rigged, project: Project, carol: User
) -> None:
    accepted = rigged.accepted()
    rigged.check(rigged.checks[36:54], wrongly=True)
    rigged.take_stock()
    assert rigged.accepted() == 0
    page = visit(carol, f"/projects/{project.pk}/?about=worth")
    told = page.locator("#given-back")
    expect(told).to_contain_text(f"{accepted}")
    expect(told).to_contain_text("wrong by now")
    assert AuditEvent.objects.filter(project=project, verb=certifying.GIVEN_BACK).count() == 1
    page.goto(f"/projects/{project.pk}/review/?show=unseen")
    expect(page.get_by_role("heading", name="Nothing is accepted unseen")).to_be_visible()
    page.goto(f"/projects/{project.pk}/review/")
    assert page.locator(".tile").count() > 0
    assert not Annotation.objects.filter(settles__isnull=False).exists()
