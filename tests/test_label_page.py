"""The labelling page through its addresses, as a browser with and without JavaScript asks for it."""

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from annotator.actions import classes, labeling, projects, queueing
from annotator.models import Annotation, Item, LabelClass, ModelVersion, Project, QueueEntry
from annotator.views.choices import choices_of
from annotator.wording import percent
from tests.cast import make_item

Login = Callable[[User], Client]
SCRIPTED = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def at_the_desk(login: Login, project: Project, items: list[Item], bob: User) -> Client:
    """Bob with his first images."""
    client = login(bob)
    client.post(reverse("label-next", args=[project.pk]))
    return client


def post_answer(client: Client, project: Project, item: Item, answer: str, **more: Any) -> HttpResponse:
    fields = {"item": item.pk, "uuid": uuid.uuid4(), "answer": answer} | more.pop("fields", {})
    return client.post(reverse("label", args=[project.pk]), fields, **more)


def test_looking_takes_no_work(login: Login, project: Project, items: list[Item], bob: User) -> None:
    page = login(bob).get(reverse("label", args=[project.pk]))
    assert page.status_code == 200
    assert b"Start" in page.content
    assert not QueueEntry.objects.filter(leased_by=bob).exists()


def test_starting_holds_five_and_shows_one_with_its_reason(
    at_the_desk: Client, project: Project, items: list[Item]
) -> None:
    page = at_the_desk.get(reverse("label", args=[project.pk])).content.decode()
    assert page.count('<article class="card"') == 5
    assert page.count(" data-front") == 1
    assert f'data-item="{items[0].pk}" data-front' in page
    assert "Picked at random" in page
    assert 'data-key="1"' in page and 'data-key="2"' in page


def test_an_answer_without_scripts_comes_back_to_the_next_image(
    at_the_desk: Client, project: Project, items: list[Item], bob: User, cat: LabelClass
) -> None:
    answered = post_answer(at_the_desk, project, items[0], f"class:{cat.pk}")
    assert (answered.status_code, answered["Location"]) == (303, reverse("label", args=[project.pk]))
    given = Annotation.objects.get(annotator=bob)
    assert (given.item, given.value, given.milliseconds) == (items[0], {"class": cat.pk}, None)
    page = at_the_desk.get(reverse("label", args=[project.pk])).content.decode()
    assert f'data-item="{items[1].pk}" data-front' in page


def test_an_answer_with_scripts_brings_the_next_cards_and_the_progress(
    at_the_desk: Client, project: Project, items: list[Item], cat: LabelClass
) -> None:
    fields = {"milliseconds": "1234"}
    answered = post_answer(at_the_desk, project, items[0], f"class:{cat.pk}", fields=fields, **SCRIPTED)
    part = answered.content.decode()
    assert answered.status_code == 200
    assert "<html" not in part
    assert part.count('<article class="card"') == 5
    assert f'data-item="{items[5].pk}"' in part
    assert 'id="progress"' in part
    assert Annotation.objects.get().milliseconds == 1234


@pytest.mark.parametrize("kind", ["skip", "none_of_these"])
def test_skip_and_none_of_these_are_answers_too(
    at_the_desk: Client, project: Project, items: list[Item], kind: str
) -> None:
    post_answer(at_the_desk, project, items[0], kind)
    assert Annotation.objects.get().kind == kind


def test_the_same_answer_three_times_is_one_annotation(
    at_the_desk: Client, project: Project, items: list[Item], cat: LabelClass
) -> None:
    fields = {"uuid": uuid.uuid4()}
    for _ in range(3):
        assert post_answer(at_the_desk, project, items[0], f"class:{cat.pk}", fields=fields).status_code == 303
    assert Annotation.objects.count() == 1


def test_answers_that_waited_go_in_together_and_twice_is_once(
    at_the_desk: Client, project: Project, items: list[Item], alice: User, cat: LabelClass
) -> None:
    QueueEntry.objects.filter(item=items[1]).update(leased_by=alice)
    waited = [
        {"uuid": str(uuid.uuid4()), "item": item.pk, "answer": answer, "milliseconds": 900}
        for item, answer in zip(items, [f"class:{cat.pk}", "skip", "maybe", "none_of_these"], strict=False)
    ]
    for _ in range(2):
        part = at_the_desk.post(reverse("label", args=[project.pk]), {"answers": json.dumps(waited)}, **SCRIPTED)
        text = part.content.decode()
        assert part.status_code == 200 and text.count('<article class="card"') == 5
        assert re.findall(r'class="refusal" data-uuid="([^"]+)" data-code="([^"]+)"', text) == [
            (waited[1]["uuid"], "lease_lost"),
            (waited[2]["uuid"], "invalid_annotation"),
        ]
    given = Annotation.objects.order_by("id")
    assert [(each.item, each.kind, each.milliseconds) for each in given] == [
        (items[0], "label", 900),
        (items[3], "none_of_these", 900),
    ]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ("{", "not a JSON list"),
        ("[3]", "not a JSON list"),
        (json.dumps([{}] * 51), "at most 50"),
        ('[{"uuid": "\\ud800"}]', "cannot be kept"),
    ],
)
def test_answers_that_are_no_list_are_refused(at_the_desk: Client, project: Project, answers: str, why: str) -> None:
    refused = at_the_desk.post(reverse("label", args=[project.pk]), {"answers": answers}, **SCRIPTED)
    assert refused.status_code == 422 and why in refused.content.decode()


def test_undo_brings_the_image_back_to_the_front(
    at_the_desk: Client, project: Project, items: list[Item], cat: LabelClass
) -> None:
    post_answer(at_the_desk, project, items[0], f"class:{cat.pk}")
    part = at_the_desk.post(reverse("label-undo", args=[project.pk]), {"uuid": uuid.uuid4()}, **SCRIPTED)
    assert f'data-item="{items[0].pk}" data-returned' in part.content.decode()
    page = at_the_desk.get(reverse("label", args=[project.pk])).content.decode()
    assert f'data-item="{items[0].pk}" data-front' in page


def test_undo_of_an_image_that_another_answer_settles_says_so(
    at_the_desk: Client, project: Project, items: list[Item], alice: User, cat: LabelClass, answer: Any
) -> None:
    post_answer(at_the_desk, project, items[0], "skip")
    answer(alice, items[0], cat)
    part = at_the_desk.post(reverse("label-undo", args=[project.pk]), {"uuid": uuid.uuid4()}, **SCRIPTED)
    text = part.content.decode()
    assert "Your answer is taken back" in text
    assert f'data-item="{items[0].pk}"' not in text


def test_undo_takes_back_the_answer_that_is_named(
    at_the_desk: Client, project: Project, items: list[Item], cat: LabelClass
) -> None:
    for item in items[:2]:
        post_answer(at_the_desk, project, item, f"class:{cat.pk}")
    first = Annotation.objects.earliest("id")
    address = reverse("label-undo", args=[project.pk])
    part = at_the_desk.post(address, {"uuid": uuid.uuid4(), "answer": first.uuid}, **SCRIPTED).content.decode()
    assert f'data-item="{items[0].pk}" data-returned' in part
    again = at_the_desk.post(address, {"uuid": uuid.uuid4(), "answer": first.uuid}, **SCRIPTED)
    assert again.status_code == 409 and "does not count any more" in again.content.decode()
    assert at_the_desk.post(address, {"uuid": uuid.uuid4(), "answer": "7"}, **SCRIPTED).status_code == 422
    current = Annotation.objects.filter(superseded_by__isnull=True).order_by("item")
    assert [each.kind for each in current] == ["retraction", "label"]


def test_nobody_takes_back_what_somebody_else_answered(
    at_the_desk: Client, project: Project, items: list[Item], alice: User, cat: LabelClass, answer: Any
) -> None:
    theirs = answer(alice, items[9], cat)
    fields = {"uuid": uuid.uuid4(), "answer": theirs.uuid}
    assert at_the_desk.post(reverse("label-undo", args=[project.pk]), fields, **SCRIPTED).status_code == 409
    assert Annotation.objects.get() == theirs


def test_an_answer_for_a_class_that_was_merged_meanwhile_counts_as_the_other(
    at_the_desk: Client, project: Project, items: list[Item], cat: LabelClass, dog: LabelClass
) -> None:
    kitten = LabelClass.objects.create(project=project, name="kitten", is_archived=True, merged_into=cat)
    tiny = LabelClass.objects.create(project=project, name="tiny kitten", is_archived=True, merged_into=kitten)
    assert post_answer(at_the_desk, project, items[0], f"class:{tiny.pk}").status_code == 303
    assert Annotation.objects.get(superseded_by__isnull=True).value == {"class": cat.pk}


def test_an_answer_for_a_class_that_was_archived_meanwhile_is_refused_by_its_name(
    at_the_desk: Client, project: Project, items: list[Item], dog: LabelClass
) -> None:
    LabelClass.objects.filter(pk=dog.pk).update(is_archived=True)
    refused = post_answer(at_the_desk, project, items[0], f"class:{dog.pk}", **SCRIPTED)
    text = refused.content.decode()
    assert refused.status_code == 422 and 'data-code="class_archived"' in text
    assert "the class “dog” was archived meanwhile" in text
    assert f'data-item="{items[0].pk}"' in text


def test_undo_without_an_answer_says_so(at_the_desk: Client, project: Project) -> None:
    part = at_the_desk.post(reverse("label-undo", args=[project.pk]), {"uuid": uuid.uuid4()}, **SCRIPTED)
    assert "no answer of yours" in part.content.decode()


def test_an_image_somebody_else_answered_is_a_conflict_that_goes_on(
    at_the_desk: Client, project: Project, items: list[Item], alice: User, cat: LabelClass, dog: LabelClass
) -> None:
    QueueEntry.objects.filter(item=items[0]).update(leased_by=alice)
    for extra, whole in ((SCRIPTED, False), ({}, True)):
        refused = post_answer(at_the_desk, project, items[0], f"class:{cat.pk}", **extra)
        text = refused.content.decode()
        assert refused.status_code == 409
        assert "somebody else has it now" in text
        assert ("<html" in text) is whole
        assert f'data-item="{items[1].pk}"' in text
    assert not Annotation.objects.exists()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"answer": "class:999999"}, "is not one of this project"),
        ({"answer": "maybe"}, "is not one of"),
        ({"uuid": "7"}, "is not a UUID"),
        ({"item": "first"}, "is not a whole number"),
        ({"milliseconds": "-1"}, "is not a whole number"),
    ],
)
def test_a_malformed_answer_is_refused_with_the_reason(
    at_the_desk: Client, project: Project, items: list[Item], fields: dict[str, str], why: str
) -> None:
    refused = post_answer(at_the_desk, project, items[0], "skip", fields=fields, **SCRIPTED)
    assert refused.status_code == 422
    assert why in refused.content.decode()
    assert not Annotation.objects.exists()


def test_renewing_keeps_what_is_held_and_replaces_what_was_lost(
    at_the_desk: Client, project: Project, items: list[Item], alice: User, bob: User
) -> None:
    QueueEntry.objects.filter(item=items[0]).update(leased_by=alice)
    part = at_the_desk.post(reverse("label-renew", args=[project.pk]), **SCRIPTED).content.decode()
    assert f'data-item="{items[0].pk}"' not in part
    assert QueueEntry.objects.filter(leased_by=bob).count() == 5


def test_no_hint_on_a_random_check_even_where_suggestions_are_shown(
    login: Login, project: Project, alice: User, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    projects.save_settings(project=project, actor=alice, raw={"show_suggestions": True})
    asked, check = make_item(project, 100), make_item(project, 101, split="audit")
    guess = {"classes": [[cat.pk, 0.6], [dog.pk, 0.4]]}
    ranked = [queueing.Ranked(asked.pk, 1.0, "close_call", guess), queueing.Ranked(check.pk, 0.0, "audit", guess)]
    queueing.fill_queue(project=project, entries=ranked)
    client = login(bob)
    part = client.post(reverse("label-next", args=[project.pk]), **SCRIPTED).content.decode()
    of_asked, of_check = part.split(f'data-item="{check.pk}"')
    assert "Close call: cat or dog" in of_asked
    assert "model's guess: <strong>cat</strong>, 60\xa0%" in of_asked
    assert "guess" not in of_check.split("</article>")[0]
    post_answer(client, project, asked, f"class:{cat.pk}", fields={"suggestion_shown": "False"})
    post_answer(client, project, check, f"class:{cat.pk}", fields={"suggestion_shown": "True"})
    assert list(Annotation.objects.values_list("suggestion_shown", flat=True)) == [True, False]


def test_what_was_shown_is_what_the_page_showed_whatever_the_queue_says_by_now(
    login: Login, project: Project, alice: User, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    guess = {"classes": [[cat.pk, 0.6], [dog.pk, 0.4]]}
    one, other = make_item(project, 100), make_item(project, 101)
    ranked = [queueing.Ranked(one.pk, 1.0, "close_call", guess), queueing.Ranked(other.pk, 0.0, "random", {})]
    queueing.fill_queue(project=project, entries=ranked)
    client = login(bob)
    part = client.post(reverse("label-next", args=[project.pk]), **SCRIPTED).content.decode()
    shown = dict(re.findall(r'data-item="(\d+)".*? data-shown="([^"]+)"', part))
    # While the answers wait in the browser, the first is ranked for another reason, and suggestions are allowed.
    QueueEntry.objects.filter(item=one).update(reason_code="random", reason_data={})
    QueueEntry.objects.filter(item=other).update(reason_code="close_call", reason_data=guess)
    for item in (one, other):
        fields = {"shown": shown[str(item.pk)]}
        assert post_answer(client, project, item, f"class:{cat.pk}", fields=fields, **SCRIPTED).status_code == 200
    assert list(Annotation.objects.order_by("id").values_list("suggestion_shown", flat=True)) == [True, False]


def test_nobody_makes_up_what_was_shown(at_the_desk: Client, project: Project, items: list[Item], bob: User) -> None:
    QueueEntry.objects.all().update(reason_code="unsure", reason_data={"classes": [[1, 0.4]]})
    page = at_the_desk.get(reverse("label", args=[project.pk])).content.decode()
    of_another_image = re.findall(r' data-shown="([^"]+)"', page)[4].replace("hint", "blind")
    made_up = [of_another_image, f"{bob.pk}:{items[1].pk}:blind:forged", "x" * 3000, ""]
    for item, shown in zip(items, made_up, strict=False):
        post_answer(at_the_desk, project, item, "skip", fields={"shown": shown}, **SCRIPTED)
    assert list(Annotation.objects.values_list("suggestion_shown", flat=True)) == [True] * 4


def test_the_progress_names_the_model_and_its_accuracy(
    at_the_desk: Client, project: Project, model: ModelVersion
) -> None:
    part = at_the_desk.get(reverse("label", args=[project.pk]), **SCRIPTED).content.decode()
    assert "<html" not in part
    assert "Model 1, from 20 answers" in part
    assert "90\xa0%" in part and "77 to 96\xa0%" in part
    assert 'data-model="1"' in part


def test_a_due_refit_without_a_worker_is_said(
    at_the_desk: Client, project: Project, items: list[Item], cat: LabelClass
) -> None:
    for item in items[:10]:
        part = post_answer(at_the_desk, project, item, f"class:{cat.pk}", **SCRIPTED).content.decode()
    assert "No worker is running" in part


def test_an_empty_desk_says_why(login: Login, project: Project, alice: User, bob: User) -> None:
    page = login(bob).get(reverse("label", args=[project.pk])).content.decode()
    assert "No images yet" in page and "An owner of this project" in page
    assert (
        reverse("import", args=[project.pk]) in login(alice).get(reverse("label", args=[project.pk])).content.decode()
    )


def test_a_project_without_classes_says_so(login: Login, alice: User) -> None:
    empty = projects.create_project(owner=alice, name="Nothing", class_names=[])
    make_item(empty)
    assert b"No classes yet" in login(alice).get(reverse("label", args=[empty.pk])).content


def test_what_others_hold_is_named(login: Login, project: Project, items: list[Item], bob: User, carol: User) -> None:
    queueing.reserve_items(project=project, annotator=bob, count=12)
    page = login(carol).post(reverse("label-next", args=[project.pk]), **SCRIPTED).content.decode()
    assert "<strong>bob</strong> holds 12" in page


def test_the_end_offers_the_skipped_ones_again(
    at_the_desk: Client, project: Project, items: list[Item], bob: User, cat: LabelClass
) -> None:
    queueing.reserve_items(project=project, annotator=bob, count=12)
    for item in items:
        kind = {"kind": "skip"} if item is items[3] else {"kind": "label", "raw_value": {"class": cat.pk}}
        labeling.record_annotation(project=project, annotator=bob, item_id=item.pk, uuid=uuid.uuid4(), **kind)
    page = at_the_desk.get(reverse("label", args=[project.pk])).content.decode()
    assert "Nothing left to ask" in page and "1 of them was skipped" in page
    assert reverse("review", args=[project.pk]) not in page.split("<main")[1]
    part = at_the_desk.post(reverse("label-next", args=[project.pk]), {"skipped": "again"}, **SCRIPTED)
    assert f'data-item="{items[3].pk}"' in part.content.decode()


@pytest.mark.parametrize("name", ["label", "label-next", "label-undo", "label-renew"])
def test_the_desk_is_for_annotators(
    login: Login, client: Client, project: Project, vera: User, charlie: User, name: str
) -> None:
    address = reverse(name, args=[project.pk])
    assert client.post(address).status_code == 302
    assert login(charlie).post(address).status_code == 404
    assert login(vera).post(address).status_code == 403


@pytest.mark.parametrize("name", ["label-next", "label-undo", "label-renew"])
def test_taking_work_is_never_a_get(login: Login, project: Project, bob: User, name: str) -> None:
    assert login(bob).get(reverse(name, args=[project.pk])).status_code == 405


def test_a_name_that_is_markup_stays_a_name(login: Login, project: Project, items: list[Item], alice: User) -> None:
    classes.add_class(project=project, actor=alice, name='<script>alert("x")</script>')
    page = login(alice).post(reverse("label-next", args=[project.pk]), follow=True).content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_keys_are_given_once_and_never_the_pages_own(project: Project, alice: User) -> None:
    for number in range(40):
        classes.add_class(project=project, actor=alice, name=f"class {number}", shortcut="")
    LabelClass.objects.filter(name="class 0").update(shortcut="q")
    choices = choices_of(list(project.classes.all()), "asxz?/")
    keys = [choice.key for choice in choices if choice.key]
    assert len(keys) == len(set(keys)) == 31
    assert not set(keys) & set("asxz?/")
    assert {choice.name: choice.key for choice in choices}["class 0"] == "q"


def test_every_key_of_the_page_is_one_that_no_class_gets() -> None:
    scripts = settings.BASE_DIR / "static" / "js"
    page = (settings.BASE_DIR / "templates" / "labeling.html").read_text()
    keys = set(re.findall(r'^  "(.)": ', (scripts / "labeling.js").read_text(), re.MULTILINE))
    keys |= set(re.findall(r'case "(.)"', (scripts / "view.js").read_text()))
    keys |= set(re.findall(r'plainKey\(event\) !== "(.)"', (scripts / "guide.js").read_text()))
    keys |= set(re.findall(r'data-key="(.)"', page))
    assert {"?", "z", "f", "/", "+", "-", ".", ":", "p", "g", "x", "s"} <= keys
    assert keys - classes.PAGE_KEYS == {"0"}  # a class that was given it keeps it
    helped = set(re.findall(r"<kbd>(.)</kbd>", page))
    assert keys - helped == {"="}  # the plus without the shift key


def test_a_rate_never_rounds_up_to_certainty() -> None:
    assert [percent(rate) for rate in (0.0, 0.904, 0.996, 1.0)] == ["0\xa0%", "90\xa0%", ">99\xa0%", "100\xa0%"]
