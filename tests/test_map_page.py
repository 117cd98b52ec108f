"""The map's page through its addresses: who sees which point, and what is done with a part of it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from annotator.actions import queueing
from annotator.models import AuditEvent, Item, Job, LabelClass, Membership, ModelVersion, Project, QueueEntry, Split
from tests.cast import make_item
from tests.test_api import Caller
from tests.test_map import blobs, embed

Login = Callable[[User], Client]
EVERYTHING = "0,0;1,0;1,1;0,1"


@pytest.fixture
def drawn(project: Project, model: ModelVersion, settings: Any) -> list[Item]:
    """Ten images of the pool, two random checks and a test image; the pool's first five lie left, all others right.
    The model takes every one for a cat, the later the surer."""
    made = [make_item(project, seed) for seed in range(10)]
    made += [make_item(project, 10 + seed, Split.AUDIT) for seed in range(2)]
    made.append(make_item(project, 20, Split.TEST))
    embed(project, made, blobs(13)[0], settings.ARTIFACT_ROOT)
    folder = settings.ARTIFACT_ROOT / f"{project.pk}/embedding-1-1"
    places = np.array([[0.1 if place < 5 else 0.9, 0.05 * place] for place in range(13)], np.float32)
    np.save(folder / "map.npy", places)
    model.artifact_folder, model.metrics["embedding"] = f"{project.pk}/model-1", f"{project.pk}/embedding-1-1"
    model.save()
    (settings.ARTIFACT_ROOT / model.artifact_folder).mkdir()
    sure = 0.6 + 0.03 * np.arange(13)
    np.save(
        settings.ARTIFACT_ROOT / model.artifact_folder / "probs.npy", np.stack([sure, 1 - sure], 1, dtype=np.float16)
    )
    return made


def unpacked(packed: bytes) -> dict[str, Any]:
    length = int.from_bytes(packed[:4], "little")
    head = json.loads(packed[4 : 4 + length])
    at, found = 4 + length, {}
    for name, kind in (("ids", "<u4"), ("x", "<u2"), ("y", "<u2"), ("label", "u1"), ("said", "u1"), ("packed", "u1")):
        values = np.frombuffer(packed, kind, head["n"], at)
        at += values.nbytes
        found[name] = values
    assert at == len(packed)
    return head | found | {"ids": np.cumsum(found["ids"]), "state": found["packed"] & 15, "sure": found["packed"] >> 4}


def seen(client: Client, project: Project) -> dict[str, Any]:
    response = client.get(f"/projects/{project.pk}/map/points/")
    assert response.status_code == 200
    return unpacked(response.content)


def queued(project: Project, person: User, count: int = 20) -> list[int]:
    return [entry.item_id for entry in queueing.reserve_items(project=project, annotator=person, count=count)]


# --- what is seen ---


def test_points_say_where_each_image_lies_and_what_is_known_of_it(
    login: Login, bob: User, project: Project, drawn: list[Item], dog: LabelClass, answer: Callable[..., Any]
) -> None:
    answer(bob, drawn[1], dog)
    shown = seen(login(bob), project)
    assert shown["ids"].tolist() == [item.pk for item in drawn[:10]]
    assert shown["x"].tolist() == [round(0.1 * 65535)] * 5 + [round(0.9 * 65535)] * 5
    assert [each["name"] for each in shown["classes"]] == ["cat", "dog"]
    assert shown["label"].tolist() == [0, 2, *[0] * 8]
    assert shown["said"].tolist() == [1] * 10
    assert [shown["states"][state] for state in shown["state"]] == ["open", "labelled", *["open"] * 8]
    assert shown["sure"][0] == 9  # 0.6 of 15


def test_nobody_sees_an_open_random_check_and_annotators_none(
    login: Login, alice: User, bob: User, carol: User, project: Project, drawn: list[Item], cat: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    answer(bob, drawn[10], cat)
    for person, count in ((alice, 11), (carol, 11), (bob, 10)):
        shown = seen(login(person), project)
        assert len(shown["ids"]) == count
        assert drawn[11].pk not in shown["ids"] and drawn[12].pk not in shown["ids"]
    shown = seen(login(carol), project)
    assert (shown["label"][10], shown["said"][10], shown["sure"][10]) == (1, 0, 0)
    assert (
        "1 random check that is not answered yet is not drawn" in login(bob).get(f"/projects/{project.pk}/map/").text
    )


def test_what_is_asked_again_blind_tells_neither_its_label_nor_that_it_fits_no_class(
    login: Login, alice: User, bob: User, project: Project, drawn: list[Item], dog: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    for item in drawn[:5]:
        answer(bob, item, dog)
    answer(bob, drawn[5], kind="none_of_these")
    for rank, item in enumerate(drawn[:6]):
        QueueEntry.objects.create(project=project, item=item, rank=rank, reason_code="second_opinion")
    QueueEntry.objects.filter(item=drawn[0]).update(reason_code="returned")
    shown = seen(login(alice), project)
    assert shown["label"].tolist() == [2, *[0] * 9]
    assert shown["said"].tolist() == [1, *[0] * 5, *[1] * 4]
    assert {shown["states"][state] for state in shown["state"][:6]} == {"labelled"}
    # Nor do the parts: where but one of five images may be spoken of, that one is the commonest.
    QueueEntry.objects.filter(item=drawn[0]).update(reason_code="suspect")
    assert "<td>dog</td>" not in login(alice).get(f"/projects/{project.pk}/map/").text


def test_without_javascript_the_parts_are_a_table(
    login: Login, bob: User, project: Project, drawn: list[Item]
) -> None:
    page = login(bob).get(f"/projects/{project.pk}/map/").text
    assert page.count("Label part ") == 2  # of ten images two halves: fewer than eight are not halved again
    assert "Review part" not in page


def test_the_map_is_asked_for_watched_and_refused_with_a_reason(
    login: Login, bob: User, carol: User, project: Project, settings: Any
) -> None:
    address = f"/projects/{project.pk}/map/"
    assert "Not yet: there are no images yet; import some, then draw the map." in login(carol).get(address).text
    assert login(carol).post(address).status_code == 409
    embed(project, [make_item(project, seed) for seed in range(3)], blobs(3)[0], settings.ARTIFACT_ROOT)
    assert "A reviewer or an owner can have it drawn" in login(bob).get(address).text
    assert login(bob).post(address).status_code == 403
    assert login(carol).get(f"{address}points/").status_code == 409
    assert "Draw the map</button>" in login(carol).get(address).text
    assert login(carol).post(address).status_code == 303
    job = Job.objects.get(kind=Job.Kind.MAP)
    assert "The map is being drawn" in login(carol).get(address).text
    headers = {"HX-Request": "true", "HX-Target": "drawing"}
    assert login(carol).get(address, headers=headers).status_code == 200
    Job.objects.filter(pk=job.pk).update(state="failed", finished_at=timezone.now(), error="the disk is full")
    part = login(carol).get(address, headers=headers)
    assert (part.status_code, part["HX-Refresh"]) == (286, "true")
    assert "the disk is full" in login(carol).get(address).text


# --- chosen to label ---


def test_what_is_chosen_comes_first_for_that_person_the_most_doubtful_ahead(
    login: Login, alice: User, bob: User, project: Project, drawn: list[Item]
) -> None:
    Project.objects.filter(pk=project.pk).update(settings_json={"audit_share": 0, "baseline_share": 0})
    project.refresh_from_db()
    queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in drawn[:10]])
    held = queued(project, bob, 2)
    answered = login(bob).post(f"/projects/{project.pk}/map/choose/", {"inside": "0.5,0;1,0;1,1;0.5,1"})
    assert (answered.status_code, answered["Location"]) == (303, f"/projects/{project.pk}/label/")
    right = [item.pk for item in drawn[5:10]]
    assert queued(project, bob, 3) == right[:3]  # and what was held is let go of
    assert held and set(held) & set(queued(project, alice, 5))
    entry = QueueEntry.objects.get(item=right[0])
    assert (entry.reason_code, entry.reason_data["by"]) == ("chosen", bob.pk)
    # A new ranking takes none of them away.
    queueing.fill_queue(project=project, entries=[queueing.Ranked(drawn[0].pk, 0.0, "random")])
    assert QueueEntry.objects.filter(reason_code="chosen").count() == 5
    assert AuditEvent.objects.filter(verb="chose images to label").count() == 1


def test_nobody_else_gets_what_was_chosen_while_there_is_anything_else(
    login: Login, alice: User, bob: User, project: Project, drawn: list[Item]
) -> None:
    Project.objects.filter(pk=project.pk).update(settings_json={"audit_share": 0, "baseline_share": 0})
    project.refresh_from_db()
    queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in drawn[:10]])
    login(bob).post(f"/projects/{project.pk}/map/choose/", {"inside": "0,0;0.5,0;0.5,1;0,1"})
    left = {item.pk for item in drawn[:5]}
    assert not left & set(queued(project, alice, 5))
    assert len(left & set(queued(project, alice, 7))) == 2


def test_chosen_images_are_given_back(login: Login, bob: User, project: Project, drawn: list[Item]) -> None:
    address = f"/projects/{project.pk}/map/"
    login(bob).post(f"{address}choose/", {"inside": EVERYTHING})
    assert "10 images you chose wait to be labelled by you" in login(bob).get(address).text
    login(bob).post(f"{address}choose/", {"do": "give-back"})
    assert not QueueEntry.objects.filter(reason_code="chosen").exists()
    assert "Give them back" not in login(bob).get(address).text


def test_checks_answered_images_and_what_others_hold_are_passed_over(
    login: Login, alice: User, bob: User, project: Project, drawn: list[Item], cat: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    Project.objects.filter(pk=project.pk).update(settings_json={"audit_share": 0, "baseline_share": 0})
    project.refresh_from_db()
    answer(alice, drawn[0], cat)
    queueing.fill_queue(project=project, entries=[queueing.Ranked(drawn[1].pk, 0.0, "random")])
    assert queued(project, alice, 1) == [drawn[1].pk]
    login(bob).post(f"/projects/{project.pk}/map/choose/", {"inside": EVERYTHING})
    chosen = set(QueueEntry.objects.filter(reason_code="chosen").values_list("item_id", flat=True))
    assert chosen == {item.pk for item in drawn[2:10]}
    refused = login(bob).post(f"/projects/{project.pk}/map/choose/", {"inside": "0,0;0.2,0;0.2,0.01;0,0.01"})
    assert refused.status_code == 409
    assert "none of these images can be labelled" in refused.text


@pytest.mark.parametrize(("inside", "why"), [("", "is not a corner"), ("0,0;1,1", "has 3 to 200 corners, not 2")])
def test_a_bad_part_says_why_on_the_page(
    login: Login, bob: User, project: Project, drawn: list[Item], inside: str, why: str
) -> None:
    refused = login(bob).post(f"/projects/{project.pk}/map/choose/", {"inside": inside})
    assert refused.status_code == 422
    assert why in refused.text


def test_who_may_choose(
    login: Login, vera: User, charlie: User, client: Client, project: Project, drawn: list[Item]
) -> None:
    address = f"/projects/{project.pk}/map/choose/"
    assert client.post(address).status_code == 302
    assert login(vera).post(address, {"inside": EVERYTHING}).status_code == 403
    assert "Label these" not in login(vera).get(f"/projects/{project.pk}/map/").text
    assert login(charlie).post(address, {"inside": EVERYTHING}).status_code == 404
    assert login(vera).get(address).status_code == 405


def test_programs_choose_and_give_back(bob: User, vera: User, project: Project, drawn: list[Item]) -> None:
    caller = Caller(bob, project)
    left, right = [item.pk for item in drawn[:2]], [item.pk for item in drawn[5:10]]
    assert caller.post("queue/chosen/", {"items": left}).json() == {"count": 2, "held": 0, "left": 0}
    assert caller.post("queue/chosen/", {"inside": "0.5,0;1,0;1,1;0.5,1"}).json()["count"] == 5
    chosen = QueueEntry.objects.filter(reason_code="chosen")
    assert set(chosen.values_list("item_id", flat=True)) == {*left, *right}
    assert caller.post("queue/chosen/", {}).status_code == 422
    assert caller.post("queue/chosen/", {"items": [drawn[10].pk]}).status_code == 409
    assert caller.delete("queue/chosen/").json() == {"count": 7}
    assert Caller(vera, project).post("queue/chosen/", {"items": left}).status_code == 403


# --- what the model contradicts ---


def test_a_cell_of_the_matrix_opens_the_images_behind_it_and_they_are_decided(
    login: Login, bob: User, carol: User, project: Project, drawn: list[Item], cat: LabelClass, dog: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    for item in (drawn[1], drawn[7], drawn[10]):
        answer(bob, item, dog)
    answer(bob, drawn[2], cat)
    address = f"/projects/{project.pk}/confused/"
    words = {"label": dog.pk, "said": cat.pk}
    page = login(carol).get(address, words)
    assert [row["item"].pk for row in page.context["rows"]] == [drawn[7].pk, drawn[1].pk]  # no random check
    uuid = str(page.context["rows"][0]["uuid"])
    sent = words | {"item": drawn[7].pk, "uuid": uuid, "class": cat.pk}
    assert login(carol).post(address, sent).status_code == 303
    page = login(carol).get(address, words)
    assert [row["item"].pk for row in page.context["rows"]] == [drawn[1].pk]
    for wrong, status, why in (
        (sent | {"class": ""}, 422, "No class was chosen"),
        (sent | {"item": "x"}, 422, "is not an image"),
        (sent | {"item": drawn[10].pk, "uuid": uuid[:-4] + "0000"}, 409, ""),
    ):
        refused = login(carol).post(address, wrong)
        assert refused.status_code == status and why in refused.text
    assert login(carol).get(address, {"label": cat.pk, "said": cat.pk}).status_code == 422
    assert login(carol).get(address, {"label": 10**9, "said": cat.pk}).status_code == 404
    assert login(bob).get(address, words).status_code == 403


# --- numbers ---


def test_every_plot_has_its_numbers_as_a_file(
    login: Login, vera: User, bob: User, project: Project, drawn: list[Item], model: ModelVersion, cat: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    LabelClass.objects.filter(pk=cat.pk).update(name="=1+1")
    model.metrics["audit"] |= {"recall": [[30, 30], [6, 10]], "confused": [[1, 0, 4]]}
    model.save()
    answer(bob, drawn[0], cat, milliseconds=2000)

    def lines(which: str) -> list[str]:
        response = login(vera).get(f"/projects/{project.pk}/numbers/{which}.csv")
        assert response.status_code == 200 and response["Content-Type"].startswith("text/csv")
        assert f"pets-{which}.csv" in response["Content-Disposition"]
        return response.text.splitlines()

    assert lines("accuracy")[1] == "audit,60,0.9,0.77,0.96,40"
    assert lines("classes")[1].startswith("'=1+1,audit,30,30,0.88")  # a spreadsheet runs nothing
    assert lines("confusion-audit") == ["people_say,model_says,images", "dog,'=1+1,4"]
    assert lines("labels-by-class")[1] == "'=1+1,1"
    assert len(lines("answers-by-hour")) == 25 and lines("answers-by-hour")[-1].endswith(",1,0")
    assert len(lines("answers-by-day")) == 15
    assert lines("answers-by-person") == ["person,answers,decided_in_review,median_seconds", "vera,0,0,"]
    for which in ("confusion-test", "confusion-labels", "forecast", "reliability", "confidence", "answers-by-reason"):
        assert lines(which)
    missing = login(vera).get(f"/projects/{project.pk}/numbers/weather.csv")
    assert missing.status_code == 404 and "accuracy, classes" in missing.text


def test_owners_see_everybody_and_others_themselves(
    login: Login, alice: User, bob: User, carol: User, project: Project, drawn: list[Item], cat: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    for person, item in ((bob, drawn[0]), (bob, drawn[1]), (carol, drawn[2])):
        answer(person, item, cat, milliseconds=3000)
    address = f"/projects/{project.pk}/numbers/answers-by-person.csv"
    assert login(alice).get(address).text.splitlines()[1:] == ["bob,2,0,3.0", "carol,1,0,3.0"]
    assert login(carol).get(address).text.splitlines()[1:] == ["carol,1,0,3.0"]
    page = login(carol).get(f"/projects/{project.pk}/?about=work").text
    assert "bob" not in page and "All others" in page
    Membership.objects.filter(project=project, user=carol).update(role="owner")
    assert "bob" in login(carol).get(f"/projects/{project.pk}/?about=work").text
