"""The review page through its addresses, as a browser with and without JavaScript asks for it."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from scipy.stats import beta

from annotator.models import Annotation, Item, LabelClass, ModelVersion, Project, Proposal, QueueEntry
from annotator.queries import CHECKS_AT_LEAST
from annotator.views.review_trust import checks_missing, sureness_of

Login = Callable[[User], Client]
SCRIPTED = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def carols(login: Login, proposals: list[Proposal], carol: User) -> Client:
    """Carol, who reviews, with twelve proposals waiting."""
    return login(carol)


def decide(client: Client, project: Project, shown: list[Proposal], **more: Any) -> HttpResponse:
    """Post a screenful; ``wrong`` and ``corrected`` as the page sends them."""
    extra = {name: more.pop(name) for name in list(more) if name.startswith("HTTP_")}
    fields = {"class": shown[0].label_class_id, "shown": [each.pk for each in shown]} | more
    return client.post(reverse("review", args=[project.pk]), fields, **extra)


def states(proposals: list[Proposal]) -> list[str]:
    return [Proposal.objects.get(pk=each.pk).state for each in proposals]


def test_the_most_doubtful_comes_first(carols: Client, project: Project, proposals: list[Proposal]) -> None:
    page = carols.get(reverse("review", args=[project.pk])).content.decode()
    places = [page.index(f'data-proposal="{each.pk}"') for each in proposals]
    assert places == sorted(places)
    assert "Is each of these <strong>cat</strong>" in page
    assert '<span class="count">12</span>' in page


def test_the_headline_says_how_sure_one_may_be(carols: Client, project: Project) -> None:
    page = carols.get(reverse("review", args=[project.pk])).content.decode()
    assert "30 of 30 random checks" in page
    assert "90.5\xa0%" in page  # 0.05 ** (1 / 30)
    # 1 - 0.99 ** 30 is 26 %: no number to go by.
    assert "Whether 99\xa0% are right is <strong>not known yet</strong>" in page
    assert "26\xa0%" not in page
    assert "<strong>269</strong> more random checks" in page  # 299 without a mistake, less 30
    assert "uncalibrated" not in page


def test_the_headline_goes_by_the_target_of_the_project(carols: Client, project: Project) -> None:
    project.settings_json = {"target_precision": 0.9}
    project.save()
    page = carols.get(reverse("review", args=[project.pk])).content.decode()
    assert "<strong>95\xa0%</strong> sure that 90\xa0% are right" in page  # 1 - 0.9 ** 30
    assert "99\xa0%" not in page


@pytest.mark.parametrize(("checked", "is_said"), [(CHECKS_AT_LEAST - 1, False), (CHECKS_AT_LEAST, True)])
def test_too_few_checks_are_no_headline(
    carols: Client, project: Project, model: ModelVersion, checked: int, is_said: bool
) -> None:
    report = {"above": 0.9, "checked": checked, "right": checked - 1, "low": 0.5, "high": 0.99}
    model.metrics["proposals"] = report
    model.save()
    page = carols.get(reverse("review", args=[project.pk])).content.decode()
    assert ("of such proposals are right" in page) == is_said
    assert (f"only {checked} random checks this confident have been answered" in page) != is_said


def test_uncalibrated_confidences_say_so(
    login: Login, project: Project, model: ModelVersion, proposals: list[Proposal], carol: User
) -> None:
    Proposal.objects.update(is_calibrated=False)
    model.metrics["proposals"] = {"above": 0.9, "checked": 0, "right": 0, "low": None, "high": None}
    model.save()
    page = login(carol).get(reverse("review", args=[project.pk])).content.decode()
    assert "not known yet" in page and "<strong>299</strong> such checks" in page
    assert "until 30 random checks are answered; 40 so far" in page


def test_sureness_agrees_with_the_clopper_pearson_bound() -> None:
    for right, checked in ((30, 30), (298, 300), (97, 100), (1, 1), (0, 4)):
        sureness = sureness_of(0.99, right, checked)
        bound = beta.ppf(1 - sureness, right, checked - right + 1) if right else 0.0
        assert sureness < 1e-9 or bound == pytest.approx(0.99, abs=1e-6)
    # The textbook number: 299 checks without a mistake for 95 % and 99 %, 473 with one.
    assert checks_missing(0.99, 0.95, 0, 0) == 299
    assert checks_missing(0.99, 0.95, 29, 30) == 473 - 30
    assert checks_missing(0.99, 0.95, 300, 300) == 0
    assert checks_missing(0.99, 0.95, 80, 100) is None


def test_a_screenful_is_accepted_but_for_the_marked(
    carols: Client, project: Project, proposals: list[Proposal], carol: User, dog: LabelClass
) -> None:
    wrong, corrected = proposals[:2]
    decided = decide(
        carols, project, proposals, wrong=[wrong.pk, corrected.pk], corrected=[f"{corrected.pk}:{dog.pk}"], **SCRIPTED
    )
    assert decided.status_code == 200
    assert "10 accepted, 1 sent back to the queue, 1 corrected" in decided.content.decode()
    assert states(proposals) == ["rejected", "corrected"] + ["accepted"] * 10
    assert Annotation.objects.get(settles=corrected).value == {"class": dog.pk}
    assert set(Annotation.objects.values_list("annotator", flat=True)) == {carol.pk}


def test_without_scripts_the_page_comes_back_with_what_happened_and_an_undo(
    carols: Client, project: Project, proposals: list[Proposal]
) -> None:
    decided = decide(carols, project, proposals[:5], wrong=[proposals[0].pk])
    assert decided.status_code == 303
    page = carols.get(decided["Location"]).content.decode()
    assert "4 accepted, 1 sent back to the queue" in page
    event = page.split('name="event" value="')[1].split('"')[0]
    carols.post(reverse("review-undo", args=[project.pk]), {"event": event})
    assert set(states(proposals)) == {"pending"}


def test_the_whole_screenful_is_taken_back(carols: Client, project: Project, proposals: list[Proposal]) -> None:
    part = decide(carols, project, proposals, **SCRIPTED).content.decode()
    event = part.split('name="event" value="')[1].split('"')[0]
    undone = carols.post(reverse("review-undo", args=[project.pk]), {"event": event}, **SCRIPTED).content.decode()
    assert "12 decisions taken back" in undone
    assert undone.count("data-proposal=") == 12


@pytest.mark.parametrize("place", ["group=999999.1", "like=999999", "inside=a", "low=x", "show=everything"])
def test_what_is_saved_is_told_though_its_place_reads_no_more(
    carols: Client, project: Project, proposals: list[Proposal], place: str
) -> None:
    undo = reverse("review-undo", args=[project.pk])
    part = decide(carols, project, proposals[:5], place=place, **SCRIPTED)
    assert part.status_code == 200 and "5 accepted" in part.content.decode()
    event = part.content.decode().split('name="event" value="')[1].split('"')[0]
    undone = carols.post(undo, {"event": event}, **SCRIPTED)
    assert undone.status_code == 200 and "5 decisions taken back" in undone.content.decode()
    page = carols.get(decide(carols, project, proposals[:5], place=place)["Location"])
    assert page.status_code == 200 and "5 accepted" in page.content.decode()
    event = page.content.decode().split('name="event" value="')[1].split('"')[0]
    assert carols.get(carols.post(undo, {"event": event})["Location"]).status_code == 200
    assert set(states(proposals)) == {"pending"}


@pytest.mark.parametrize("extra", [SCRIPTED, {}])
def test_what_somebody_else_answered_meanwhile_is_named_with_what_was_said_of_it(
    carols: Client,
    project: Project,
    proposals: list[Proposal],
    items: list[Item],
    bob: User,
    answer: Callable[..., Annotation],
    dog: LabelClass,
    extra: dict[str, str],
) -> None:
    answer(bob, items[0], dog)
    QueueEntry.objects.filter(item=items[1]).update(leased_by=bob, leased_until="2100-01-01T00:00Z")
    decided = decide(carols, project, proposals, corrected=[f"{proposals[1].pk}:{dog.pk}"], **extra).content.decode()
    assert "2 images were left alone" in decided
    assert "<strong>image-0.png</strong>: you said “cat”; somebody answered this image meanwhile" in decided
    assert "<strong>image-1.png</strong>: you said “dog”; bob is answering this image right now" in decided
    assert "10 accepted" in decided
    assert Annotation.objects.get(item=items[0]).annotator == bob


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"shown": []}, 422),
        ({"shown": ["x"]}, 422),
        ({"corrected": ["1:x"]}, 422),
        ({"shown": ["999999"]}, 404),
        ({"wrong": ["9" * 40]}, 422),
    ],
)
def test_malformed_decisions_are_refused_and_nothing_is_saved(
    carols: Client, project: Project, proposals: list[Proposal], fields: dict[str, Any], status: int
) -> None:
    refused = carols.post(reverse("review", args=[project.pk]), fields, **SCRIPTED)
    assert refused.status_code == status
    assert "Nothing was saved" in refused.content.decode()
    assert refused.content.decode().count("data-proposal=") == 12
    assert set(states(proposals)) == {"pending"}


def test_no_proposals_yet_says_what_to_do(login: Login, project: Project, items: list[Item], carol: User) -> None:
    page = login(carol).get(reverse("review", args=[project.pk])).content.decode()
    assert "No proposals yet" in page and "10 more" in page


def test_a_class_that_is_not_there_shows_the_first_that_is(carols: Client, project: Project) -> None:
    for wanted in ("", "999", "x", "-1"):
        assert carols.get(reverse("review", args=[project.pk]), {"class": wanted}).status_code == 200


@pytest.mark.parametrize("name", ["review", "review-undo"])
def test_reviewing_is_for_reviewers(
    login: Login, client: Client, project: Project, bob: User, charlie: User, name: str
) -> None:
    address = reverse(name, args=[project.pk])
    assert client.post(address).status_code == 302
    assert login(charlie).post(address).status_code == 404
    assert login(bob).post(address).status_code == 403
    assert login(bob).delete(address).status_code == 405


def test_nobody_takes_back_what_another_decided(
    carols: Client, project: Project, proposals: list[Proposal], alice: User, login: Login
) -> None:
    part = decide(carols, project, proposals, **SCRIPTED).content.decode()
    event = part.split('name="event" value="')[1].split('"')[0]
    refused = login(alice).post(reverse("review-undo", args=[project.pk]), {"event": event}, **SCRIPTED)
    assert refused.status_code == 404
    assert set(states(proposals)) == {"accepted"}
