"""Why this image: the sentence, the labelled images that speak for it, and what of it counts as a hint."""

import re
import uuid
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from annotator import queries, task_types
from annotator.actions import projects, queueing
from annotator.models import Annotation, Item, LabelClass, Project, QueueEntry, Split
from tests.cast import bare_items, make_item
from tests.embedded_pool import lay_out

Login = Callable[[User], Client]
evidence = import_module("annotator.queries.evidence")  # the package has a function of this name
SCRIPTED = {"HTTP_HX_REQUEST": "true"}


@pytest.fixture
def embed(project: Project, settings: Any, tmp_path: Path) -> Callable[..., None]:
    """Lay these items on a line, or anywhere: ``embed(items, [0, 1, 3])``."""
    settings.ARTIFACT_ROOT = tmp_path
    return partial(lay_out, project, tmp_path)


def ask(item: Item, code: str, **told: Any) -> QueueEntry:
    """The item is asked about for this reason."""
    QueueEntry.objects.filter(item=item).delete()
    return QueueEntry.objects.create(project=item.project, item=item, rank=0, reason_code=code, reason_data=told)


def examples(project: Project, entry: QueueEntry) -> list[tuple[int, int]]:
    """(item id, class id) of what speaks for one question."""
    found = queries.evidence(project, [entry]).get(entry.item_id)
    return [(each.item_id, each.class_id) for each in found.examples] if found else []


def close(cat: LabelClass, dog: LabelClass) -> dict[str, Any]:
    return {"classes": [[cat.pk, 0.4], [dog.pk, 0.38]]}


def test_a_close_call_shows_the_nearest_of_both_classes_and_the_next(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    # The question lies at 0; cats at 1, 2 and 3, dogs at 5 and 6.
    embed(items[:6], [0, 1, 2, 3, 5, 6])
    for item, said in zip(items[1:6], [cat, cat, cat, dog, dog], strict=True):
        answer(bob, item, said)
    entry = ask(items[0], "close_call", **close(cat, dog))
    assert examples(project, entry) == [(items[1].pk, cat.pk), (items[2].pk, cat.pk), (items[4].pk, dog.pk)]
    turned = ask(items[0], "close_call", classes=[[dog.pk, 0.4], [cat.pk, 0.38]])
    assert [class_id for _, class_id in examples(project, turned)] == [dog.pk, cat.pk, cat.pk]


def test_the_search_for_a_scarce_class_shows_that_class_alone(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    embed(items[:4], [0, 1, 2, 3])
    for item, said in zip(items[1:4], [cat, cat, dog], strict=True):
        answer(bob, item, said)
    assert examples(project, ask(items[0], "scarce", **{"class": dog.pk})) == [(items[3].pk, dog.pk)]


def test_an_image_unlike_the_rest_shows_the_nearest_and_says_how_far(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    # Six images close together at 0 to 5, of which 0, 2 and 4 are labelled: most lie 1 or 2 from the nearest labelled
    # one. The question lies at 24, 20 from it.
    embed(items[:7], [0, 1, 2, 3, 4, 5, 24])
    for item in (items[0], items[2], items[4]):
        answer(bob, item, dog)
    entry = ask(items[6], "unlike")
    found = queries.evidence(project, [entry])[items[6].pk]
    assert [each.item_id for each in found.examples] == [items[4].pk, items[2].pk, items[0].pk]
    assert found.sentence == "The nearest labelled images, more than three times as far as usual"


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (1.0, "images"),
        (1.5, "half as far again as usual"),
        (2.0, "twice as far as usual"),
        (3.0, "three times as far as usual"),
        (9.0, "more than three times as far as usual"),
    ],
)
def test_how_far_is_said_in_words(times: float, said: str) -> None:
    assert evidence._how_far(4.0 * times, 4.0).endswith(said)


@pytest.mark.parametrize("code", [*queries.BLIND, "random", "baseline", "typical", "chosen", "returned"])
def test_what_is_asked_blind_or_at_random_comes_without_examples(
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    cat: LabelClass,
    dog: LabelClass,
    code: str,
) -> None:
    embed(items[:3], [0, 1, 2])
    answer(bob, items[1], cat)
    assert examples(project, ask(items[0], code, **close(cat, dog))) == []


def test_a_random_check_is_blind_whatever_the_queue_says_of_it(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    check = make_item(project, 70, split=Split.AUDIT)
    embed([*items[:2], check], [0, 1, 0.5])
    answer(bob, items[0], cat)
    answer(bob, items[1], dog)
    entry = ask(check, "close_call", **close(cat, dog))
    assert examples(project, entry) == []
    assert not queries.shows_examples(project, entry)


def test_random_checks_and_test_images_are_never_examples(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    check = make_item(project, 71, split=Split.AUDIT)
    answer(bob, check, cat)
    answer(bob, items[1], cat)
    answer(bob, items[2], dog)
    embed([*items[:3], check], [0, 5, 6, 0.1])
    entry = ask(items[0], "close_call", **close(cat, dog))
    assert [item_id for item_id, _ in examples(project, entry)] == [items[1].pk, items[2].pk]
    # One that was drawn into the test set after it was seen as labelled.
    Item.objects.filter(pk=items[1].pk).update(split=Split.TEST)
    assert [item_id for item_id, _ in examples(project, entry)] == [items[2].pk]


def test_an_image_that_somebody_is_asked_about_again_is_no_example(
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    carol: User,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    embed(items[:3], [0, 1, 2])
    answer(bob, items[1], cat)
    answer(bob, items[2], dog)
    entry = ask(items[0], "close_call", **close(cat, dog))
    assert len(examples(project, entry)) == 2
    ask(items[1], "suspect")
    assert [item_id for item_id, _ in examples(project, entry)] == [items[2].pk]


def test_what_changed_since_the_last_look_is_shown_as_it_is_now(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    embed(items[:4], [0, 1, 2, 3])
    answer(bob, items[1], cat)
    answer(bob, items[2], dog)
    entry = ask(items[0], "close_call", **close(cat, dog))
    assert examples(project, entry) == [(items[1].pk, cat.pk), (items[2].pk, dog.pk)]
    answer(bob, items[1], dog)
    assert examples(project, entry) == [(items[1].pk, dog.pk), (items[2].pk, dog.pk)]
    answer(bob, items[1], kind="none_of_these")
    answer(bob, items[3], cat)
    assert examples(project, entry) == [(items[3].pk, cat.pk), (items[2].pk, dog.pk)]


def test_an_image_that_people_answered_differently_is_no_example(
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    carol: User,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    embed(items[:3], [0, 1, 2])
    answer(bob, items[1], cat)
    held = ask(items[1], "second_opinion")
    queueing.reserve_items(project=project, annotator=carol, count=20)
    answer(carol, items[1], dog)
    QueueEntry.objects.filter(pk=held.pk).delete()
    QueueEntry.objects.filter(item=items[1]).delete()
    assert queries.is_disputed(task_types.get(project.task_type), queries.current_annotations(items[1]))
    assert examples(project, ask(items[0], "disputed")) == []


def test_a_full_bank_keeps_every_class_and_looks_at_the_known_neighbours_too(
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    cat: LabelClass,
    dog: LabelClass,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(evidence, "BANK", 4)
    embed(items, list(range(12)))
    answer(bob, items[1], dog)
    for item in items[2:12]:
        answer(bob, item, cat)
    entry = ask(items[0], "close_call", **close(cat, dog))
    # The bank kept the dog and the newest cats; the nearest cats are known from the neighbours.
    assert examples(project, entry) == [(items[2].pk, cat.pk), (items[3].pk, cat.pk), (items[1].pk, dog.pk)]
    # The same when it filled up one answer at a time.
    answer(bob, items[2], dog)
    assert {class_id for _, class_id in examples(project, entry)} == {cat.pk, dog.pk}


def test_what_came_after_the_embedding_has_no_examples_and_is_none(
    project: Project, items: list[Item], embed: Any, answer: Any, bob: User, cat: LabelClass, dog: LabelClass
) -> None:
    embed(items[:2], [0, 1])
    answer(bob, items[1], cat)
    answer(bob, items[3], cat)
    assert examples(project, ask(items[2], "close_call", **close(cat, dog))) == []
    assert examples(project, ask(items[0], "close_call", **close(cat, dog))) == [(items[1].pk, cat.pk)]


def test_five_questions_cost_four_queries(
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    cat: LabelClass,
    dog: LabelClass,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    embed(items, list(range(12)))
    for item, said in zip(items[5:], [cat, dog] * 4, strict=False):
        answer(bob, item, said)
    entries = [ask(item, "close_call", **close(cat, dog)) for item in items[:3]]
    entries += [ask(item, "unlike") for item in items[3:5]]
    with django_assert_num_queries(4):
        assert len(queries.evidence(project, entries)) == 5
    with django_assert_num_queries(3):  # nothing was answered since
        queries.evidence(project, entries)
    with django_assert_num_queries(0):
        assert queries.evidence(project, [ask_nothing(items[0])]) == {}


def ask_nothing(item: Item) -> QueueEntry:
    return QueueEntry(project=item.project, item=item, reason_code="random", reason_data={})


# ---- on the page ----------------------------------------------------------------------------------------------------


def at_the_desk(client: Client, project: Project) -> str:
    return client.post(reverse("label-next", args=[project.pk]), **SCRIPTED).content.decode()


def test_the_card_shows_the_examples_with_their_classes(
    login: Login,
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    embed(items[:3], [0, 1, 2])
    answer(bob, items[1], cat)
    answer(bob, items[2], dog)
    QueueEntry.objects.all().delete()
    ask(items[0], "close_call", **close(cat, dog))
    page = at_the_desk(login(bob), project)
    shown = re.findall(r'<img[^>]*src="([^"]*thumbnail/)"[^>]*>\s*<span[^>]*>([^<]*)</span>', page)
    address = [reverse("item-thumbnail", args=[project.pk, item.pk]) for item in items[1:3]]
    assert shown == [(address[0], "cat"), (address[1], "dog")]
    for picture in re.findall(r"<img[^>]*thumbnail/[^>]*>", page):
        assert 'loading="lazy"' in picture and 'fetchpriority="low"' in picture
        assert re.search(r'width="\d+" height="\d+"', picture), "the room for it is kept"


@pytest.mark.parametrize(("code", "is_shown"), [("unlike", True), ("disputed", True), ("random", False)])
def test_an_answer_given_beside_examples_says_so(
    login: Login,
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    bob: User,
    cat: LabelClass,
    code: str,
    is_shown: bool,
) -> None:
    embed(items[:2], [0, 1])
    answer(bob, items[1], cat)
    QueueEntry.objects.all().delete()
    ask(items[0], code)
    client = login(bob)
    page = at_the_desk(client, project)
    assert ('class="evidence"' in page) == is_shown
    client.post(
        reverse("label", args=[project.pk]), {"item": items[0].pk, "uuid": uuid.uuid4(), "answer": f"class:{cat.pk}"}
    )
    assert Annotation.objects.get(item=items[0]).suggestion_shown == is_shown


def test_without_a_labelled_image_nothing_was_shown(
    login: Login, project: Project, items: list[Item], embed: Any, bob: User, cat: LabelClass
) -> None:
    embed(items[:2], [0, 1])
    QueueEntry.objects.all().delete()
    ask(items[0], "unlike")
    client = login(bob)
    assert 'class="evidence"' not in at_the_desk(client, project)
    client.post(
        reverse("label", args=[project.pk]), {"item": items[0].pk, "uuid": uuid.uuid4(), "answer": f"class:{cat.pk}"}
    )
    assert Annotation.objects.get().suggestion_shown is False


def test_a_blind_question_shows_no_class_anywhere_in_its_card(
    login: Login,
    project: Project,
    items: list[Item],
    embed: Any,
    answer: Any,
    alice: User,
    bob: User,
    carol: User,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    projects.save_settings(project=project, actor=alice, raw={"show_suggestions": True})
    embed(items[:3], [0, 1, 2])
    answer(bob, items[1], cat)
    answer(bob, items[2], dog)
    QueueEntry.objects.all().delete()
    for item, code in zip(items[3:7], queries.BLIND, strict=True):
        ask(item, code, **close(cat, dog))
    page = at_the_desk(login(carol), project)
    cards = re.findall(r'<article class="card".*?</article>', page, re.DOTALL)
    assert cards
    for card in cards:
        assert not re.search(r"\b(cat|dog)\b", card) and 'class="evidence"' not in card
        assert not any(reverse("item-thumbnail", args=[project.pk, each.pk]) in card for each in items[1:3])


def test_the_sentence_of_a_doubt_names_its_classes_and_a_second_look_nobody(
    items: list[Item], cat: LabelClass, dog: LabelClass
) -> None:
    names = {cat.pk: "cat", dog.pk: "dog"}
    said = {
        code: queries.reason_text(QueueEntry(item=items[0], reason_code=code, reason_data=told), names)
        for code, told in [
            ("close_call", close(cat, dog)),
            ("second_opinion", {"people": 2}),
            ("unlike", {}),
            ("automatic", {}),
        ]
    }
    assert said["close_call"] == "Close call: cat or dog"
    assert said["second_opinion"] == "Two people disagreed about this image; you decide afresh"
    assert said["unlike"] == "Unlike anything labelled so far"
    assert said["automatic"].startswith("Check of automatic labels")


def test_every_reason_has_a_sentence(items: list[Item], cat: LabelClass, dog: LabelClass) -> None:
    told = close(cat, dog) | {"class": cat.pk}
    said = [
        queries.reason_text(QueueEntry(item=items[0], reason_code=code, reason_data=told), {})
        for code in QueueEntry.Reason
    ]
    assert all(said) and not [each for each in said if "%(" in each]


def test_examples_are_those_of_the_own_project(
    project: Project,
    items: list[Item],
    embed: Any,
    alice: User,
    bob: User,
    answer: Any,
    cat: LabelClass,
    dog: LabelClass,
) -> None:
    other = projects.create_project(owner=alice, name="Elsewhere", class_names=["a"])
    [stranger] = bare_items(other, ["pool"])
    embed([*items[:2], stranger], [0, 2, 0.5])
    answer(bob, items[1], cat)
    Annotation.objects.create(
        uuid=uuid.uuid4(), project=other, item=stranger, annotator=alice, kind="label", value={"class": cat.pk}
    )
    Item.objects.filter(pk=stranger.pk).update(state="labelled")
    assert examples(project, ask(items[0], "close_call", **close(cat, dog))) == [(items[1].pk, cat.pk)]
