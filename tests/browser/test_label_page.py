"""The labelling desk in a browser: keys, undo, and answers that survive whatever happens to the line."""

import gzip
import io
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.core.files.base import ContentFile
from django.utils import timezone
from PIL import Image
from playwright.sync_api import Page, Route, expect
from pytest_django.live_server_helper import LiveServer

from annotator.actions import importing, projects, queueing
from annotator.models import Annotation, Flag, Item, LabelClass, ModelVersion, Project, QueueEntry
from ml_worker.tasks import run_job
from tests.browser.accessible import faults
from tests.browser.conftest import sign_in
from tests.cast import make_item
from tests.running_site import wait_until

pytestmark = pytest.mark.browser
Visit = Callable[..., Page]


class Line:
    """Holds every answer up on its way to the server until the line is mended."""

    def __init__(self, page: Page) -> None:
        self.is_cut = True
        self.held: list[Route] = []
        page.route("**/label/", self._pass)

    def _pass(self, route: Route) -> None:
        if self.is_cut:
            self.held.append(route)
        else:
            route.continue_()

    def mend(self) -> None:
        self.is_cut = False
        for route in self.held:
            route.continue_()


@pytest.fixture
def desk(visit: Visit, project: Project, items: list[Item], bob: User) -> Page:
    """Bob's desk with the first image on it."""
    page = visit(bob, f"/projects/{project.pk}/label/")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("[data-front]")).to_have_count(1)
    expect_scripts(page)
    return page


def expect_scripts(page: Page) -> None:
    """Keys are heard from here on."""
    expect(page.locator("#help-button")).not_to_have_attribute("hidden", "")


def shown(page: Page) -> int:
    """The item in front."""
    return int(page.locator("[data-front]").get_attribute("data-item") or 0)


def expect_shown(page: Page, item: Item) -> None:
    expect(page.locator(f'[data-front][data-item="{item.pk}"]')).to_be_visible()


KEPT = """
async () => {
  const rows = [];
  for (const { name } of await indexedDB.databases()) {
    const database = await new Promise((resolve) => {
      indexedDB.open(name).onsuccess = (event) => resolve(event.target.result);
    });
    rows.push(...await new Promise((resolve) => {
      database.transaction("rows").objectStore("rows").getAll().onsuccess = (event) => resolve(event.target.result);
    }));
    database.close();
  }
  return rows;
}
"""


def expect_saved(page: Page, count: int) -> None:
    """All answers have arrived, and there are so many; those that were refused wait for the person."""
    wait_until(lambda: all(row.get("refused") for row in page.evaluate(KEPT)), 10, "every answer was saved")
    wait_until(lambda: Annotation.objects.count() == count, 10, f"there were {count} answers")


def test_twelve_images_by_keyboard_alone(
    visit: Visit, project: Project, items: list[Item], bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    page = visit(bob, f"/projects/{project.pk}/label/")
    page.keyboard.press("Enter")  # Start has the focus
    for number, item in enumerate(items):
        expect_shown(page, item)
        page.keyboard.press("12xs"[number % 4])
    expect(page.get_by_role("heading", name="Nothing left to ask")).to_be_visible()
    expect_saved(page, 12)
    given = Annotation.objects.order_by("id")
    assert [each.item_id for each in given] == [item.pk for item in items]
    assert [each.kind for each in given] == ["label", "label", "none_of_these", "skip"] * 3
    assert [each.value for each in given][:2] == [{"class": cat.pk}, {"class": dog.pk}]
    assert all(each.milliseconds is not None for each in given)


def test_the_next_image_is_there_before_the_server_has_answered(desk: Page, items: list[Item]) -> None:
    line = Line(desk)
    for item in items[:5]:
        expect_shown(desk, item)
        desk.keyboard.press("1")
    expect(desk.locator("#waiting")).to_be_visible()
    assert not Annotation.objects.exists()
    expect(desk.locator("#unsaved")).to_contain_text("5 not yet saved")
    line.mend()
    expect_shown(desk, items[5])
    expect_saved(desk, 5)


def test_undo_is_at_once_and_the_server_follows(desk: Page, items: list[Item], dog: LabelClass) -> None:
    desk.keyboard.press("1")
    expect_shown(desk, items[1])
    desk.keyboard.press("z")
    expect_shown(desk, items[0])
    desk.keyboard.press("2")
    expect_shown(desk, items[1])
    expect_saved(desk, 3)
    kinds = list(Annotation.objects.order_by("id").values_list("kind", flat=True))
    assert kinds == ["label", "retraction", "label"]
    assert Annotation.objects.get(superseded_by__isnull=True).value == {"class": dog.pk}


def test_undo_reaches_back_before_the_page_was_opened(desk: Page, items: list[Item]) -> None:
    desk.keyboard.press("1")
    expect_shown(desk, items[1])
    expect_saved(desk, 1)
    desk.reload()
    expect_shown(desk, items[1])
    desk.keyboard.press("z")
    expect_shown(desk, items[0])


def test_keys_meant_for_something_else_answer_nothing(desk: Page, items: list[Item]) -> None:
    desk.keyboard.press("Control+1")
    desk.keyboard.press("Alt+2")
    desk.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true, bubbles: true}))")
    desk.keyboard.press("?")
    expect(desk.get_by_role("dialog")).to_be_visible()
    desk.keyboard.press("1")
    desk.keyboard.press("Escape")
    expect(desk.get_by_role("dialog")).to_be_hidden()
    assert shown(desk) == items[0].pk
    expect_saved(desk, 0)


def test_mouse_and_touch_answer_too(
    visit: Visit, project: Project, items: list[Item], bob: User, dog: LabelClass
) -> None:
    phone = visit(bob, f"/projects/{project.pk}/label/", viewport={"width": 390, "height": 844}, has_touch=True)
    phone.get_by_role("button", name="Start").tap()
    expect_shown(phone, items[0])
    button = phone.get_by_role("button", name="dog")
    box = button.bounding_box()
    assert box and box["height"] >= 44 and box["width"] >= 44 and box["y"] + box["height"] <= 844
    button.tap()
    expect_shown(phone, items[1])
    expect_saved(phone, 1)
    assert Annotation.objects.get().value == {"class": dog.pk}


def test_answers_survive_a_dropped_line_and_a_reload(desk: Page, items: list[Item], complaints: list[str]) -> None:
    desk.route("**/label/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    for item in items[:3]:
        expect_shown(desk, item)
        desk.keyboard.press("1")
    expect(desk.locator("#unsaved")).to_contain_text("3 not yet saved. The server does not answer")
    desk.reload()
    expect(desk.locator("#unsaved")).to_contain_text("3 not yet saved")
    expect_shown(desk, items[3])
    assert not Annotation.objects.exists()
    desk.unroute("**/label/")
    desk.get_by_role("button", name="Try now").click()
    expect_saved(desk, 3)
    expect(desk.locator("#unsaved")).to_be_hidden()
    drop_expected(complaints, "net::ERR_FAILED")


def test_answers_survive_a_failing_server(desk: Page, items: list[Item], complaints: list[str]) -> None:
    desk.route("**/label/", lambda route: route.fulfill(status=500, body="no"))
    desk.keyboard.press("1")
    expect(desk.locator("#unsaved")).to_contain_text("1 not yet saved. The server has a problem (500)")
    desk.unroute("**/label/")
    expect(desk.locator("#unsaved")).to_be_hidden()  # by itself, after a second
    expect_saved(desk, 1)
    drop_expected(complaints, "500")


def test_answers_survive_an_expired_session(
    desk: Page, items: list[Item], bob: User, live_server: LiveServer, complaints: list[str]
) -> None:
    desk.context.clear_cookies()
    desk.keyboard.press("1")
    expect(desk.locator("#unsaved")).to_contain_text("1 not yet saved. You are signed out")
    expect(desk.locator("#unsaved").get_by_role("link", name="Sign in")).to_have_attribute(
        "href", re.compile("/login/")
    )
    sign_in(desk.context, live_server.url, bob)
    desk.get_by_role("button", name="Try now").click()
    expect_saved(desk, 1)
    drop_expected(complaints, "403")


def test_somebody_else_signing_in_does_not_give_these_answers(
    desk: Page, items: list[Item], bob: User, alice: User, live_server: LiveServer, complaints: list[str]
) -> None:
    desk.context.clear_cookies()
    sign_in(desk.context, live_server.url, alice)
    desk.keyboard.press("1")
    expect(desk.locator("#unsaved")).to_contain_text("alice is signed in in this browser now. Sign in as bob")
    assert not Annotation.objects.exists()
    desk.context.clear_cookies()
    sign_in(desk.context, live_server.url, bob)
    desk.get_by_role("button", name="Try now").click()
    expect_saved(desk, 1)
    assert Annotation.objects.get().annotator == bob
    drop_expected(complaints, "403")


def test_the_same_answer_posted_three_times_is_one(desk: Page, items: list[Item], complaints: list[str]) -> None:
    replies: list[Route] = []

    def lose_the_reply(route: Route) -> None:
        replies.append(route)
        if len(replies) > 2:
            route.continue_()
            return
        route.fetch()  # it arrives, but the page never hears of it
        route.fulfill(status=503, body="")

    desk.route("**/label/", lose_the_reply)
    desk.keyboard.press("1")
    expect(desk.locator("#unsaved")).to_contain_text("1 not yet saved")
    desk.get_by_role("button", name="Try now").click()
    expect(desk.locator("#unsaved")).to_be_hidden(timeout=10_000)
    expect_saved(desk, 1)
    assert len(replies) == 3
    drop_expected(complaints, "503")


def test_an_image_lost_to_somebody_else_is_told_and_work_goes_on(
    desk: Page, items: list[Item], alice: User, complaints: list[str]
) -> None:
    QueueEntry.objects.filter(item=items[0]).update(leased_by=alice)
    desk.keyboard.press("1")
    conflict = desk.get_by_role("region", name="Answers that were not saved")
    expect(conflict).to_contain_text("Your answer “cat” was not saved. Your hold on this image ran out")
    expect_shown(desk, items[1])
    desk.keyboard.press("1")
    expect_shown(desk, items[2])
    expect_saved(desk, 1)
    desk.reload()
    expect(conflict).to_contain_text("Your answer “cat” was not saved.")
    assert faults(desk) == []
    conflict.get_by_role("button", name="Leave it").click()
    expect(conflict).to_be_hidden()
    desk.reload()
    expect_shown(desk, items[2])
    expect(conflict).to_be_hidden()
    expect_saved(desk, 1)
    drop_expected(complaints, "409")


def test_a_refused_answer_is_sent_again_once_the_image_is_free(
    desk: Page, items: list[Item], alice: User, bob: User, cat: LabelClass, complaints: list[str]
) -> None:
    QueueEntry.objects.filter(item=items[0]).update(leased_by=alice)
    desk.keyboard.press("1")
    conflict = desk.get_by_role("region", name="Answers that were not saved")
    conflict.get_by_role("button", name="Send it again").click()
    expect(conflict).to_contain_text("was not saved")
    wait_until(lambda: any(row.get("refused") for row in desk.evaluate(KEPT)), 10, "it was refused again")
    QueueEntry.objects.filter(item=items[0]).update(leased_by=None, leased_until=None)
    conflict.get_by_role("button", name="Send it again").click()
    expect(conflict).to_be_hidden()
    expect_saved(desk, 1)
    given = Annotation.objects.get()
    assert (given.item, given.annotator, given.value) == (items[0], bob, {"class": cat.pk})
    drop_expected(complaints, "409")


def test_an_answer_for_a_class_that_was_archived_meanwhile_can_be_given_anew(
    desk: Page, items: list[Item], cat: LabelClass, dog: LabelClass, complaints: list[str]
) -> None:
    LabelClass.objects.filter(pk=dog.pk).update(is_archived=True)
    desk.keyboard.press("2")
    conflict = desk.get_by_role("region", name="Answers that were not saved")
    expect(conflict).to_contain_text("Your answer “dog” was not saved. The class “dog” was archived meanwhile")
    expect_shown(desk, items[1])
    expect(desk.get_by_role("button", name="dog")).to_have_count(0)
    conflict.get_by_role("button", name="Answer again").click()
    expect_shown(desk, items[0])
    desk.keyboard.press("1")
    expect(conflict).to_be_hidden()
    expect_shown(desk, items[1])
    expect_saved(desk, 1)
    given = Annotation.objects.get()
    assert (given.item, given.value) == (items[0], {"class": cat.pk})
    drop_expected(complaints, "422")


def test_undo_of_a_refused_answer_does_not_take_back_the_one_before(
    desk: Page, items: list[Item], alice: User, complaints: list[str]
) -> None:
    desk.keyboard.press("1")
    expect_shown(desk, items[1])
    expect_saved(desk, 1)
    QueueEntry.objects.filter(item=items[1]).update(leased_by=alice)
    line = Line(desk)
    desk.keyboard.press("2")
    desk.keyboard.press("z")
    line.mend()
    expect(desk.get_by_role("alert")).to_contain_text("somebody else has it now")
    expect_saved(desk, 1)
    assert not desk.evaluate(KEPT)  # taken back by the person: nothing is missing
    drop_expected(complaints, "409")


def test_undo_goes_back_to_the_first_answer_in_order_and_across_a_reload(desk: Page, items: list[Item]) -> None:
    for item in items[:8]:
        expect_shown(desk, item)
        desk.keyboard.press("1")
    expect_saved(desk, 8)
    desk.reload()
    expect_shown(desk, items[8])
    desk.keyboard.press("2")
    expect_shown(desk, items[9])
    for _ in range(9):
        desk.keyboard.press("z")  # faster than the server takes them back
    expect_shown(desk, items[0])
    expect_saved(desk, 18)
    taken_back = Annotation.objects.filter(kind="retraction").order_by("id")
    assert [each.item_id for each in taken_back] == [item.pk for item in items[8::-1]]
    desk.keyboard.press("z")
    expect(desk.get_by_role("alert")).to_contain_text("There is no answer of yours to take back")


def test_undo_in_one_tab_leaves_the_answer_of_another_alone(desk: Page, items: list[Item]) -> None:
    other = desk.context.new_page()
    other.goto(desk.url)
    desk.bring_to_front()
    desk.keyboard.press("1")
    expect_shown(other, items[1])
    other.wait_for_timeout(500)
    other.keyboard.press("2")
    expect_shown(desk, items[2])
    expect_saved(desk, 2)
    desk.keyboard.press("z")
    expect_shown(desk, items[0])
    expect_saved(desk, 3)
    current = Annotation.objects.filter(superseded_by__isnull=True).order_by("item")
    assert [each.kind for each in current] == ["retraction", "label"]


def test_an_answer_given_the_moment_before_the_page_goes_is_not_lost(
    desk: Page, items: list[Item], complaints: list[str]
) -> None:
    desk.route("**/label/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    desk.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', bubbles: true})), location.reload()")
    expect_shown(desk, items[1])
    desk.unroute("**/label/")
    expect_saved(desk, 1)
    drop_expected(complaints, "net::ERR_FAILED")


def test_a_browser_that_refuses_storage_keeps_answers_while_the_page_is_open(
    visit: Visit, project: Project, items: list[Item], bob: User, complaints: list[str]
) -> None:
    page = visit(bob, f"/projects/{project.pk}/label/")
    page.add_init_script("IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); }")
    page.reload()
    page.get_by_role("button", name="Start").click()
    expect_shown(page, items[0])
    page.route("**/label/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    page.keyboard.press("1")
    expect(page.locator("#unsaved")).to_contain_text("1 not yet saved. The server does not answer")
    expect(page.locator("#unsaved")).to_contain_text("Keep this page open.")
    page.unroute("**/label/")
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#unsaved")).to_be_hidden()
    wait_until(lambda: Annotation.objects.count() == 1, 10, "it arrived")
    drop_expected(complaints, "net::ERR_FAILED")


def test_two_browsers_never_hold_the_same_image(
    visit: Visit, project: Project, items: list[Item], bob: User, carol: User
) -> None:
    seen: dict[str, set[int]] = {"bob": set(), "carol": set()}
    pages = {who.username: visit(who, f"/projects/{project.pk}/label/") for who in (bob, carol)}
    for page in pages.values():
        page.get_by_role("button", name="Start").click()
    for _ in range(4):
        for name, page in pages.items():
            expect(page.locator("[data-front]")).to_have_count(1)
            seen[name] |= {int(card.get_attribute("data-item") or 0) for card in page.locator(".card").all()}
            page.keyboard.press("1")
    wait_until(lambda: Annotation.objects.count() == 8, 10, "both had saved their four answers")
    assert not seen["bob"] & seen["carol"]


def test_two_tabs_of_one_person_do_not_answer_twice(desk: Page, items: list[Item]) -> None:
    other = desk.context.new_page()
    other.goto(desk.url)
    expect_shown(other, items[0])
    desk.bring_to_front()
    desk.keyboard.press("1")
    expect_shown(other, items[1])
    other.wait_for_timeout(500)  # a key right after the image changed by itself may have been meant for the old one
    other.keyboard.press("2")
    expect_shown(desk, items[2])
    desk.wait_for_timeout(500)
    for item in items[2:7]:
        expect_shown(desk, item)
        desk.keyboard.press("1")
    expect_shown(other, items[7])
    expect_saved(desk, 7)
    assert not Annotation.objects.filter(supersedes__isnull=False).exists()


def test_a_new_model_says_what_it_learnt(desk: Page, project: Project, model: ModelVersion, items: list[Item]) -> None:
    desk.keyboard.press("1")
    toast = desk.get_by_role("status").filter(has_text="Model 1 learnt from 20 answers")
    expect(toast).to_be_visible()
    expect(toast).to_contain_text("90 % right on random checks, 95 % sure: 77 to 96 %")
    model.pk, model.number, model.label_count = None, 2, 30
    model.metrics["audit"] |= {"accuracy": 0.94}
    model.save()
    desk.keyboard.press("1")
    expect(toast.or_(desk.locator("#toast"))).to_contain_text("90 % → 94 % right")


def test_a_picture_that_does_not_load_cannot_be_labelled_unseen(
    visit: Visit, project: Project, items: list[Item], bob: User, complaints: list[str]
) -> None:
    page = visit(bob, f"/projects/{project.pk}/label/")
    page.route("**/image/", lambda route: route.abort())
    page.get_by_role("button", name="Start").click()
    expect(page.locator("[data-front] .broken")).to_be_visible()
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text("did not load")
    page.unroute("**/image/")
    page.get_by_role("button", name="Load again").click()
    expect(page.locator("[data-front] .broken")).to_have_count(0)
    page.keyboard.press("1")
    expect_saved(page, 1)
    drop_expected(complaints, "net::ERR_FAILED")


def test_the_desk_works_without_scripts(
    visit: Visit, project: Project, items: list[Item], bob: User, dog: LabelClass
) -> None:
    page = visit(bob, f"/projects/{project.pk}/label/", java_script_enabled=False)
    page.get_by_role("button", name="Start").click()
    expect_shown(page, items[0])
    expect(page.locator(".card:visible")).to_have_count(1)
    page.get_by_role("button", name="dog").click()
    expect_shown(page, items[1])
    assert Annotation.objects.get().value == {"class": dog.pk}
    page.get_by_role("button", name="Undo").click()
    expect_shown(page, items[0])
    page.get_by_role("button", name="Skip").click()
    expect_shown(page, items[1])


def test_many_classes_are_found_by_typing(
    visit: Visit, project: Project, items: list[Item], alice: User, bob: User
) -> None:
    LabelClass.objects.bulk_create(
        LabelClass(project=project, name=f"breed {number}", position=number + 2) for number in range(30)
    )
    queueing.reserve_items(project=project, annotator=bob)
    page = visit(bob, f"/projects/{project.pk}/label/")
    expect_shown(page, items[0])
    expect_scripts(page)
    page.keyboard.press("/")
    page.keyboard.type("breed 27")
    page.keyboard.press("Enter")
    expect_shown(page, items[1])
    page.keyboard.press("q")  # the first letter after nine digits
    expect_saved(page, 2)
    named = [LabelClass.objects.get(pk=each.value["class"]).name for each in Annotation.objects.order_by("id")]
    assert named == ["breed 27", "breed 7"]


def test_the_most_likely_class_is_found_first_where_the_page_may_say_so(
    visit: Visit, project: Project, alice: User, bob: User, answer: Callable[..., Annotation]
) -> None:
    projects.save_settings(project=project, actor=alice, raw={"show_suggestions": True})
    breeds = LabelClass.objects.bulk_create(
        LabelClass(project=project, name=f"breed {number}", position=number + 2) for number in range(12)
    )
    used, likely = breeds[8], breeds[5]
    asked, check, labelled = make_item(project, 50), make_item(project, 51, split="audit"), make_item(project, 52)
    guess = {"classes": [[likely.pk, 0.6], [breeds[2].pk, 0.3]]}
    ranked = [queueing.Ranked(asked.pk, 1.0, "unsure", guess), queueing.Ranked(check.pk, 0.0, "audit", guess)]
    queueing.fill_queue(project=project, entries=ranked)
    answer(alice, labelled, used)
    queueing.reserve_items(project=project, annotator=bob)
    page = visit(bob, f"/projects/{project.pk}/label/")
    first = page.locator(".choice-list .choice.chosen")
    expect_shown(page, asked)
    page.keyboard.press("/")
    expect(first).to_contain_text("breed 5")
    page.keyboard.press("Escape")
    expect(page.locator(".choice-list .choice").first).to_contain_text("cat")
    page.keyboard.press("s")
    expect_shown(page, check)
    page.keyboard.press("/")
    expect(first).to_contain_text("breed 8")  # the one used most: a random check gives no hint
    page.keyboard.type("breed 1")
    page.keyboard.press("ArrowDown")
    expect(first).to_contain_text("breed 10")
    page.keyboard.press("Enter")
    expect_saved(page, 3)
    assert Annotation.objects.latest("id").value == {"class": breeds[10].pk}
    assert not Annotation.objects.latest("id").suggestion_shown


def test_a_closer_look_ends_with_the_image_and_the_tone_stays(desk: Page, items: list[Item]) -> None:
    picture = desk.locator("[data-front] img.picture")
    desk.keyboard.press("+")
    desk.keyboard.press("+")
    scale = "element => new DOMMatrix(getComputedStyle(element).transform).a"
    assert picture.evaluate(scale) == pytest.approx(2.25)
    start = "element => new DOMMatrix(getComputedStyle(element).transform).e"
    before = picture.evaluate(start)
    desk.keyboard.press("ArrowRight")
    assert picture.evaluate(start) < before
    box = picture.locator("..").bounding_box()
    assert box
    desk.mouse.move(box["x"] + 50, box["y"] + 50)
    desk.mouse.down()
    desk.mouse.move(box["x"] + 90, box["y"] + 50)
    desk.mouse.up()
    assert picture.evaluate(start) > before - 80
    desk.mouse.wheel(0, -400)
    assert picture.evaluate(scale) > 3
    for key in "..;p":
        desk.keyboard.press(key)
    tone = "element => [getComputedStyle(element).filter, getComputedStyle(element).imageRendering]"
    assert picture.evaluate(tone) == ["brightness(1.2) contrast(0.9)", "auto"]
    desk.keyboard.press("1")
    expect_shown(desk, items[1])
    assert picture.evaluate(scale) == 1
    desk.reload()
    expect_shown(desk, items[1])
    assert picture.evaluate(tone) == ["brightness(1.2) contrast(0.9)", "auto"]
    desk.keyboard.press("0")
    assert picture.evaluate(tone) == ["none", "pixelated"]
    desk.get_by_text("View", exact=True).click()
    desk.get_by_role("slider", name="Brightness").fill("50")
    desk.get_by_label("Hard pixels").uncheck()
    assert picture.evaluate(tone) == ["brightness(0.5) contrast(1)", "auto"]
    assert faults(desk) == []
    desk.keyboard.press("2")  # with the slider or the box still in hand
    expect_shown(desk, items[2])
    expect_saved(desk, 2)


def test_two_fingers_enlarge(visit: Visit, project: Project, items: list[Item], bob: User) -> None:
    phone = visit(bob, f"/projects/{project.pk}/label/", viewport={"width": 390, "height": 844}, has_touch=True)
    phone.get_by_role("button", name="Start").tap()
    expect_shown(phone, items[0])
    box = phone.locator("[data-front] .stage").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = phone.context.new_cdp_session(phone)
    for kind, apart in (("touchStart", 30), ("touchMove", 50), ("touchMove", 90)):
        fingers = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    picture = phone.locator("[data-front] img.picture")
    scale = "element => new DOMMatrix(getComputedStyle(element).transform).a"
    assert 2 < picture.evaluate(scale) < 4
    for name in ("Larger", "Smaller", "Flag", "Undo"):
        target = phone.get_by_role("button", name=name).bounding_box()
        assert target and target["height"] >= 44, name


def test_a_large_picture_is_drawn_ahead_and_whole_from_near(
    visit: Visit, project: Project, alice: User, bob: User
) -> None:
    out = io.BytesIO()
    Image.effect_noise((2400, 1600), 60).convert("RGB").save(out, "JPEG")
    uploads = [ContentFile(out.getvalue() + bytes([number]), f"{number}.jpg") for number in range(2)]
    run_job(importing.start_upload_import(project=project, actor=alice, uploads=uploads).pk)
    photos = list(project.items.order_by("id"))
    Item.objects.update(split="pool")
    QueueEntry.objects.all().delete()
    queueing.fill_queue(project=project, entries=[queueing.Ranked(each.pk, 0.0, "random") for each in photos])
    queueing.reserve_items(project=project, annotator=bob)
    page = visit(bob, f"/projects/{project.pk}/label/")
    for card in page.locator(".card").all():
        expect(card.locator("canvas.ahead")).to_have_count(1)
    canvas = page.locator("[data-front] canvas")
    page.wait_for_timeout(800)  # the first card is drawn before the stage has its height
    box = canvas.bounding_box()
    assert box and abs(canvas.evaluate("each => each.height") - (box["height"] - 16)) <= 1
    picture = page.locator("[data-front] img.picture")
    assert picture.evaluate("each => each.naturalWidth") == 2048
    page.keyboard.press("+")
    expect(page.locator("[data-front] .stage.sharp")).to_have_count(1)
    assert picture.evaluate("each => each.naturalWidth") == 2400
    page.keyboard.press("1")
    expect_shown(page, photos[1])


def test_a_flag_goes_up_and_down_with_a_key(desk: Page, items: list[Item], bob: User) -> None:
    button = desk.get_by_role("button", name="Flag")
    desk.keyboard.press("f")
    expect(button).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: Flag.objects.filter(item=items[0], raised_by=bob, lowered_at=None).exists(), 5, "it was raised")
    expect(desk.locator("[data-front][data-flagged]")).to_have_count(1)
    desk.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    wait_until(lambda: not Flag.objects.filter(lowered_at=None).exists(), 5, "it was lowered")
    assert shown(desk) == items[0].pk


def test_breaks_and_hidden_tabs_are_no_work(desk: Page) -> None:
    took = desk.evaluate(
        """async () => {
          const { Stopwatch } = await import("/static/js/stopwatch.js");
          let now = 0;
          const stopwatch = new Stopwatch(() => now);
          const pass = (seconds) => { now += 1000 * seconds; document.dispatchEvent(new Event("pointermove")); };
          const taken = [];
          const measure = (...gaps) => { stopwatch.start(); gaps.forEach(pass); taken.push(stopwatch.read()); };
          measure(2);         // a quick answer
          measure(25);        // thinking, without a move
          measure(3, 600, 4); // a break of ten minutes
          measure(40);        // nothing but a break
          let state = "visible";
          Object.defineProperty(document, "visibilityState", { get: () => state });
          const show = (next) => { state = next; document.dispatchEvent(new Event("visibilitychange")); };
          stopwatch.start();
          now += 3000; show("hidden"); now += 20000; show("visible"); now += 1000;
          taken.push(stopwatch.read());
          return taken;
        }"""
    )
    assert took == [2000, 25_000, 7000, None, 4000]


def test_the_notice_of_slow_answers_does_not_flicker(desk: Page, items: list[Item]) -> None:
    desk.evaluate(
        "window.seen = 0; for (const box of [passing, unsaved])"
        " new MutationObserver(() => (window.seen += !box.hidden)).observe(box, { attributes: true })"
    )
    desk.keyboard.press("1")
    expect_shown(desk, items[1])
    expect_saved(desk, 1)
    assert desk.evaluate("window.seen") == 0
    line = Line(desk)
    desk.keyboard.press("1")
    expect(desk.locator("#passing")).to_contain_text("1 not yet saved.")
    expect(desk.locator("#unsaved")).to_contain_text("1 not yet saved. On the way.")
    line.mend()
    expect(desk.locator("#unsaved")).to_be_hidden()
    expect(desk.locator("#passing")).to_be_hidden()


def test_ten_minutes_offline_end_with_every_answer_once(desk: Page, items: list[Item], complaints: list[str]) -> None:
    desk.clock.install()
    desk.context.set_offline(True)
    for item in items[:5]:
        expect_shown(desk, item)
        desk.keyboard.press("1")
    desk.clock.run_for(600_000)
    QueueEntry.objects.update(leased_until=timezone.now() - timedelta(minutes=5))
    expect(desk.locator("#unsaved")).to_contain_text("5 not yet saved. The server does not answer")
    desk.context.set_offline(False)
    desk.clock.run_for(15_000)
    expect(desk.locator("#unsaved")).to_be_hidden()
    expect_saved(desk, 5)
    assert [each.item_id for each in Annotation.objects.order_by("id")] == [item.pk for item in items[:5]]
    drop_expected(complaints, "ERR_INTERNET_DISCONNECTED")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_desk_is_for_everybody(
    visit: Visit, project: Project, items: list[Item], bob: User, alice: User, scheme: str, complaints: list[str]
) -> None:
    page = visit(bob, f"/projects/{project.pk}/label/", color_scheme=scheme, reduced_motion="reduce")
    assert faults(page) == []
    page.get_by_role("button", name="Start").click()
    expect_shown(page, items[0])
    assert faults(page) == []
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert faults(page) == []
    page.keyboard.press("Escape")
    QueueEntry.objects.filter(item=items[0]).update(leased_by=alice)
    page.keyboard.press("1")
    expect(page.get_by_role("region", name="Answers that were not saved")).to_be_visible()
    assert faults(page) == []
    drop_expected(complaints, "409")


def test_the_page_is_small_still_and_keeps_to_its_policy(
    visit: Visit, project: Project, items: list[Item], bob: User
) -> None:
    queueing.reserve_items(project=project, annotator=bob)
    page = visit(bob, "/")
    page.add_init_script(
        """window.shift = []; window.broken = [];
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) {
            window.shift.push([entry.value, ...entry.sources.map(({ node }) => node?.className ?? node?.nodeName)]);
          }
        }).observe({ type: "layout-shift", buffered: true });
        document.addEventListener("securitypolicyviolation", (event) => window.broken.push(event.blockedURI));"""
    )
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    asked: dict[str, str] = {}
    page_bytes: list[float] = []
    session.on("Network.responseReceived", lambda event: asked.update({event["requestId"]: event["response"]["url"]}))
    session.on("Network.loadingFinished", lambda event: page_bytes.append(event["encodedDataLength"]))
    page.goto(f"/projects/{project.pk}/label/")
    for number, item in enumerate(items[:9]):
        expect_shown(page, item)
        if number == 8:
            break
        page.wait_for_timeout(150)
        page.keyboard.press("12"[number % 2])
    expect_saved(page, 8)
    # The live server hands static files out as they are; a running site compresses them (views/compressing.py).
    own = {re.sub(r".*/static/", "", url) for url in asked.values() if re.search(r"/static/(js|css)/", url)}
    sizes = {name: len(gzip.compress(Path(str(finders.find(name))).read_bytes(), 9)) for name in own}
    assert len(own) > 10 and sum(sizes.values()) + page_bytes[0] < 60_000, sizes
    assert page.evaluate("window.shift") == []
    assert page.evaluate("window.broken") == []


def drop_expected(complaints: list[str], text: str) -> None:
    """Take out what the browser itself logs about a request that was meant to fail."""
    complaints[:] = [each for each in complaints if text not in each]
