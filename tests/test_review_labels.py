"""Labels that people gave, looked through in the review grid and decided anew by a reviewer."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from annotator import queries, task_types
from annotator.actions import checking, proposing, queueing, reviewing
from annotator.errors import InvalidAnnotation
from annotator.models import (
    Annotation,
    AuditEvent,
    Flag,
    Item,
    LabelClass,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Suspect,
)
from tests.cast import make_item

Login = Callable[[User], Client]
SCRIPTED = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def labels(
    items: list[Item], answer: Callable[..., Annotation], bob: User, alice: User, cat: LabelClass
) -> list[Item]:
    """Six cats: four labelled by bob, two by alice."""
    for item in items[:4]:
        answer(bob, item, cat)
    for item in items[4:6]:
        answer(alice, item, cat)
    return items[:6]


@pytest.fixture
def carols(login: Login, carol: User, labels: list[Item]) -> Client:
    return login(carol)


def shown(client: Client, project: Project, **filter: str) -> list[int]:
    page = client.get(reverse("review", args=[project.pk]), {"show": "labels", **filter}, **SCRIPTED)
    assert page.status_code == 200
    return [int(pk) for pk in re.findall(r'data-item="(\d+)"', page.content.decode())]


def post(client: Client, project: Project, **fields: Any) -> str:
    address = reverse("review", args=[project.pk])
    answer = client.post(address, {"place": "show=labels", **fields}, **SCRIPTED)
    assert answer.status_code == 200, answer.content.decode()
    return str(answer.content.decode())


def settled(item: Item) -> Any:
    """The class that the item's answers settle on now."""
    value = queries.settled_value(task_types.get("single_label"), queries.current_annotations(item))
    return value and value["class"]


def test_the_newest_labels_come_first_and_by_person(
    carols: Client, project: Project, labels: list[Item], bob: User, dog: LabelClass
) -> None:
    assert shown(carols, project) == [item.pk for item in reversed(labels)]
    assert shown(carols, project, by=str(bob.pk)) == [item.pk for item in reversed(labels[:4])]
    assert shown(carols, project, **{"class": str(dog.pk)}) == []
    page = carols.get(reverse("review", args=[project.pk]), {"show": "labels"}).content.decode()
    assert "Are these labels right?" in page and f'<option value="{bob.pk}">bob</option>' in page


def test_what_is_corrected_counts_from_now_on_and_what_is_doubted_is_flagged(
    carols: Client, project: Project, labels: list[Item], carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    wrong, doubted, *right = labels
    part = post(
        carols, project, shown=[item.pk for item in labels], wrong=[doubted.pk], corrected=[f"{wrong.pk}:{dog.pk}"]
    )
    assert "4 right, 1 flagged, 1 corrected." in part
    assert settled(wrong) == dog.pk and {settled(item) for item in [doubted, *right]} == {cat.pk}
    decision = Annotation.objects.get(annotator=carol)
    assert (decision.reason_code, decision.reason_data) == (Annotation.DECISION, {"was": "checked"})
    assert (Flag.objects.get().item, Flag.objects.get().raised_by) == (doubted, carol)
    # bob's answer is still there: a decision outweighs it and replaces nothing.
    assert Annotation.objects.filter(item=wrong, superseded_by__isnull=True).count() == 2


def test_a_screenful_of_corrections_is_taken_back_as_one(
    carols: Client, project: Project, labels: list[Item], cat: LabelClass, dog: LabelClass
) -> None:
    corrected = [f"{item.pk}:{dog.pk}" for item in labels[:3]]
    part = post(carols, project, shown=[item.pk for item in labels], corrected=corrected, wrong=[labels[4].pk])
    event = part.split('name="event" value="')[1].split('"')[0]
    undone = carols.post(reverse("review-undo", args=[project.pk]), {"event": event}, **SCRIPTED).content.decode()
    assert "4 decisions taken back" in undone
    assert {settled(item) for item in labels} == {cat.pk}
    assert not queries.raised_flags(project).exists()


def test_sending_the_same_twice_writes_once(
    project: Project, labels: list[Item], carol: User, dog: LabelClass
) -> None:
    for _time in range(2):
        decision = checking.check_labels(
            project=project, reviewer=carol, corrected={labels[0].pk: dog.pk}, doubted=[labels[1].pk]
        )
        assert (decision.corrected, decision.rejected) == (1, 1)
    assert Annotation.objects.filter(annotator=carol).count() == 1
    assert Flag.objects.count() == 1
    assert AuditEvent.objects.filter(verb=reviewing.CHECKED).count() == 1


def test_a_decision_of_labels_and_one_of_proposals_are_undone_one_behind_the_other(
    project: Project, labels: list[Item], carol: User, dog: LabelClass, model: ModelVersion, items: list[Item]
) -> None:
    proposing.store_proposals(
        project=project, model_version=model, predictions=[proposing.Predicted(items[8].pk, dog.pk, 0.9, [])]
    )
    first = reviewing.decide(project=project, reviewer=carol, accepted=[Proposal.objects.get().pk])
    second = checking.check_labels(project=project, reviewer=carol, corrected={labels[0].pk: dog.pk})
    assert first.event_id and second.event_id
    reviewing.undo_decision(project=project, reviewer=carol, event_id=second.event_id)
    before = reviewing.decision_before(project=project, reviewer=carol, event_id=second.event_id)
    assert before is not None and before.pk == first.event_id


def test_random_checks_and_checks_of_a_running_round_are_never_shown_nor_decided(
    carols: Client, project: Project, labels: list[Item], carol: User, model: ModelVersion, cat: LabelClass,
    dog: LabelClass,
) -> None:  # fmt: skip
    Item.objects.filter(pk=labels[0].pk).update(split="audit")
    running = Round.objects.create(
        project=project, number=1, model_version=model, threshold=0.9, share=0.5, size=100, target=0.9,
        confidence=0.95, spent=0.01, stages=[[40, 0, 0.01]],
    )  # fmt: skip
    RoundCheck.objects.create(round=running, item=labels[1], position=0, predicted=cat, place=0.1)
    assert shown(carols, project) == [item.pk for item in reversed(labels[2:])]
    for filter in ({"flagged": "1"}, {"by": "1"}):
        assert not {labels[0].pk, labels[1].pk} & set(shown(carols, project, **filter))
    part = post(carols, project, corrected=[f"{item.pk}:{dog.pk}" for item in labels[:2]])
    assert "2 images were left alone" in part and "waits for no decision" in part
    assert not Annotation.objects.filter(annotator=carol).exists()


def test_what_is_asked_again_blind_or_held_by_somebody_is_not_shown(
    carols: Client, project: Project, labels: list[Item], bob: User
) -> None:
    for rank, reason in enumerate(("second_opinion", "suspect", "returned", "returned")):
        QueueEntry.objects.create(project=project, item=labels[rank], rank=rank, reason_code=reason)
    held = QueueEntry.objects.filter(item=labels[2])
    held.update(leased_by=bob, leased_until="2100-01-01T00:00Z")
    assert shown(carols, project) == [item.pk for item in (labels[5], labels[4], labels[3])]
    held.update(leased_until="2000-01-01T00:00Z")
    assert shown(carols, project) == [item.pk for item in (labels[5], labels[4], labels[3], labels[2])]


def test_what_the_study_doubts_can_be_chosen(
    carols: Client, project: Project, labels: list[Item], dog: LabelClass
) -> None:
    given = Annotation.objects.get(item=labels[2])
    Suspect.objects.create(
        project=project, item=labels[2], annotation=given, doubt="mislabelled", label_class=dog, score=0.9
    )
    assert shown(carols, project, disagree="study") == [labels[2].pk]
    page = carols.get(reverse("review", args=[project.pk]), {"show": "labels", "disagree": "study"}).content.decode()
    assert "rather dog" in page and f'data-listed="{dog.pk}"' in page


def test_what_somebody_holds_is_left_alone(
    carols: Client, project: Project, labels: list[Item], bob: User, dog: LabelClass
) -> None:
    QueueEntry.objects.create(
        project=project, item=labels[0], rank=1, reason_code="second_opinion", leased_by=bob,
        leased_until="2100-01-01T00:00Z",
    )  # fmt: skip
    part = post(carols, project, corrected=[f"{labels[0].pk}:{dog.pk}"])
    assert "1 image was left alone" in part and "somebody is answering this image right now" in part


def test_after_a_screen_of_labels_the_next_one_comes(
    login: Login, carol: User, project: Project, answer: Callable[..., Annotation], bob: User, cat: LabelClass
) -> None:
    made = [make_item(project, 300 + n) for n in range(45)]
    queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in made])
    for item in made:
        answer(bob, item, cat)
    client = login(carol)
    page = client.get(reverse("review", args=[project.pk]), {"show": "labels", "tiles": "20"}, **SCRIPTED)
    last = re.search(r'name="last" value="([^"]*)"', page.content.decode())
    assert last is not None
    fields = {"place": "show=labels&tiles=20", "last": last[1], "shown": [item.pk for item in made[25:]]}
    after = client.post(reverse("review", args=[project.pk]), fields, **SCRIPTED).content.decode()
    assert [int(pk) for pk in re.findall(r'data-item="(\d+)"', after)] == [item.pk for item in made[24:4:-1]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "0 labels at once"),
        ({"right": [1], "doubted": [1]}, "named twice"),
        ({"right": list(range(1, 1002))}, "1001 labels at once"),
    ],
)
def test_a_malformed_check_says_why(project: Project, carol: User, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidAnnotation, match=said):
        checking.check_labels(project=project, reviewer=carol, **fields)


def test_a_class_that_is_not_there_corrects_nothing(
    carols: Client, project: Project, labels: list[Item], carol: User
) -> None:
    address = reverse("review", args=[project.pk])
    refused = carols.post(address, {"place": "show=labels", "corrected": [f"{labels[0].pk}:999999"]}, **SCRIPTED)
    assert refused.status_code == 422 and "Nothing was saved" in refused.content.decode()
    assert not Annotation.objects.filter(annotator=carol).exists()
