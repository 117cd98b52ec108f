"""The page of classes: the list, one of them in full, every change while others answer, grids that give a class."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from annotator import queries
from annotator.actions import classes, merging, projects, proposing
from annotator.errors import InvalidClass
from annotator.models import (
    Annotation,
    AuditEvent,
    ClassExample,
    Item,
    Job,
    LabelClass,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Split,
)
from tests.cast import bare_items, make_item
from tests.test_api import Caller, error
from tests.test_groups import embed, grouped
from tests.test_projects import at_once

pytestmark = pytest.mark.django_db
Login = Callable[[User], Client]
Answer = Callable[..., Annotation]


def test_more_names_than_a_project_has_classes_are_refused_at_once(
    project: Project, alice: User, django_assert_max_num_queries: Any
) -> None:
    names, before = (f"name {n}" for n in range(10_000)), project.classes.count()
    with django_assert_max_num_queries(10), pytest.raises(InvalidClass, match="at most 2,000 classes"):
        classes.add_classes(project=project, actor=alice, names=names)
    assert project.classes.count() == before


@pytest.fixture
def url(project: Project) -> str:
    return f"/projects/{project.pk}/classes/"


# --- the classes ---


def test_classes_are_added_one_per_line_or_not_at_all(login: Login, alice: User, project: Project) -> None:
    url = f"/projects/{project.pk}/classes/"
    assert login(alice).post(url, {"do": "add", "names": "bird\r\nfish"}).status_code == 303
    assert [each.name for each in project.classes.all()] == ["cat", "dog", "bird", "fish"]
    response = login(alice).post(url, {"do": "add", "names": "newt\nCAT"})
    assert response.status_code == 422
    assert "newt\nCAT" in response.text
    assert project.classes.count() == 4
    assert login(alice).post(url, {"do": "add", "names": " \n"}).status_code == 422


def test_a_class_is_renamed_recoloured_and_given_a_key(
    login: Login, alice: User, project: Project, cat: LabelClass
) -> None:
    form = {
        "do": "update",
        "class": cat.pk,
        "name": "house cat",
        "shortcut": "c",
        "colour": "#123456",
        "description": "purrs",
    }
    response = login(alice).post(f"/projects/{project.pk}/classes/", form)
    assert response["Location"] == f"/projects/{project.pk}/classes/?class={cat.pk}#class-{cat.pk}"
    cat.refresh_from_db()
    assert (cat.name, cat.shortcut, cat.colour, cat.description) == ("house cat", "c", "#123456", "purrs")


@pytest.mark.parametrize("changes", [{"name": "dog"}, {"shortcut": "s"}, {"colour": "red"}, {"shortcut": "2"}])
def test_a_refused_class_is_shown_as_typed_with_the_reason(
    login: Login, alice: User, project: Project, cat: LabelClass, changes: dict[str, str]
) -> None:
    form = {
        "do": "update",
        "class": cat.pk,
        "name": "tiger",
        "shortcut": "t",
        "colour": "#000000",
        "description": "roars",
    }
    response = login(alice).post(f"/projects/{project.pk}/classes/", form | changes)
    assert response.status_code == 422
    assert 'id="refusal"' in response.text
    assert "roars" in response.text
    cat.refresh_from_db()
    assert cat.name == "cat"


def test_a_class_moves_past_its_visible_neighbour(
    login: Login, alice: User, project: Project, cat: LabelClass
) -> None:
    for name in ("ghost", "bird"):
        classes.add_class(project=project, actor=alice, name=name)
    classes.archive_class(label_class=project.classes.get(name="ghost"), actor=alice, archived=True)
    bird = project.classes.get(name="bird")
    login(alice).post(f"/projects/{project.pk}/classes/", {"do": "up", "class": bird.pk})
    assert [each.name for each in project.classes.filter(is_archived=False)] == ["cat", "bird", "dog"]
    login(alice).post(f"/projects/{project.pk}/classes/", {"do": "down", "class": cat.pk})
    assert [each.name for each in project.classes.filter(is_archived=False)] == ["bird", "cat", "dog"]
    login(alice).post(f"/projects/{project.pk}/classes/", {"do": "up", "class": bird.pk})
    assert project.classes.filter(is_archived=False).first() == bird


def test_a_class_is_archived_and_brought_back(login: Login, alice: User, project: Project, cat: LabelClass) -> None:
    url = f"/projects/{project.pk}/classes/"
    login(alice).post(url, {"do": "archive", "class": cat.pk})
    assert "Archived</summary>" in login(alice).get(url).text or "(1)</summary>" in login(alice).get(url).text
    login(alice).post(url, {"do": "restore", "class": cat.pk})
    cat.refresh_from_db()
    assert not cat.is_archived


@pytest.mark.parametrize("form", [{}, {"do": "update"}, {"do": "up", "class": "9" * 30}, {"do": "fly", "class": "1"}])
def test_nonsense_about_classes_is_refused(login: Login, alice: User, project: Project, form: dict[str, str]) -> None:
    assert login(alice).post(f"/projects/{project.pk}/classes/", form).status_code in (404, 422)


def test_a_class_of_another_project_is_not_touched(login: Login, alice: User, charlie: User, project: Project) -> None:
    theirs = projects.create_project(owner=charlie, name="Secret", class_names=["x"]).classes.get()
    form = {"do": "archive", "class": theirs.pk}
    assert login(alice).post(f"/projects/{project.pk}/classes/", form).status_code == 404
    theirs.refresh_from_db()
    assert not theirs.is_archived


def test_sixty_classes_with_hostile_names_are_listed(login: Login, alice: User, project: Project) -> None:
    names = [f"<script>{index}</script>" + "w" * 90 for index in range(58)]
    login(alice).post(f"/projects/{project.pk}/classes/", {"do": "add", "names": "\n".join(names)})
    page = login(alice).get(f"/projects/{project.pk}/classes/").text
    assert "60 classes" in page
    assert "<script>0" not in page


# --- two owners at once ---


def test_a_class_renamed_meanwhile_keeps_its_name_when_it_is_archived_or_recoloured(
    alice: User, project: Project, cat: LabelClass
) -> None:
    archiving, recolouring = LabelClass.objects.get(pk=cat.pk), LabelClass.objects.get(pk=cat.pk)
    classes.update_class(label_class=cat, actor=alice, name="house cat")
    classes.archive_class(label_class=archiving, actor=alice, archived=True)
    classes.update_class(label_class=recolouring, actor=alice, colour="#123456")
    stored = LabelClass.objects.get(pk=cat.pk)
    assert (stored.name, stored.is_archived, stored.colour) == ("house cat", True, "#123456")


@pytest.mark.django_db(transaction=True)
def test_two_classes_renamed_to_one_name_at_once_are_one_renamed_and_one_refused(
    alice: User, project: Project, cat: LabelClass, dog: LabelClass
) -> None:
    for name in ("bird", "deer", "newt", "toad"):
        said = at_once(
            *(
                partial(classes.update_class, label_class=each, actor=alice, name=name, shortcut=name[0])
                for each in (cat, dog)
            )
        )
        assert sorted(said) == ["done", f"there is already a class called {name!r}, perhaps among the archived ones"]


# --- archiving and proposals ---


def test_an_archived_class_takes_its_pending_proposals_along(
    login: Login, alice: User, project: Project, cat: LabelClass, proposals: list[Proposal]
) -> None:
    other = proposals[0]
    Proposal.objects.filter(pk=other.pk).update(state=Proposal.State.REJECTED, decided_at=timezone.now())
    login(alice).post(f"/projects/{project.pk}/classes/", {"do": "archive", "class": cat.pk})
    assert set(Proposal.objects.exclude(pk=other.pk).values_list("state", flat=True)) == {Proposal.State.WITHDRAWN}
    assert Proposal.objects.get(pk=other.pk).state == Proposal.State.REJECTED


def test_a_model_made_before_proposes_no_archived_class(
    alice: User, project: Project, items: list[Item], model: ModelVersion, cat: LabelClass, dog: LabelClass
) -> None:
    classes.archive_class(label_class=cat, actor=alice, archived=True)
    predictions = [
        proposing.Predicted(item.pk, each.pk, 0.95, [(each.pk, 0.95)])
        for item, each in zip(items[:2], (cat, dog), strict=True)
    ]
    assert proposing.store_proposals(project=project, model_version=model, predictions=predictions) == 1
    assert Proposal.objects.get().label_class == dog


# --- who may ------------------------------------------------------------------------------------------------


def test_everybody_of_the_project_looks_and_only_owners_change(
    login: Login, bob: User, carol: User, vera: User, charlie: User, project: Project, url: str, cat: LabelClass
) -> None:
    for member in (bob, carol, vera):
        page = login(member).get(f"{url}?class={cat.pk}")
        assert page.status_code == 200
        assert 'name="do" value="update"' not in page.text
        assert 'name="up"' not in page.text
        assert login(member).post(url, {"do": "add", "names": "x"}).status_code == 403
    assert login(charlie).get(url).status_code == 404
    assert login(charlie).post(url, {"do": "add", "names": "x"}).status_code == 404
    assert login(bob).put(url).status_code == 405
    assert project.classes.count() == 2


def test_a_class_that_is_not_there_says_so(login: Login, alice: User, url: str) -> None:
    for raw in ("999999", "x", "²", "-1"):
        assert login(alice).get(url, {"class": raw}).status_code == 404


# --- names and keys -----------------------------------------------------------------------------------------


def test_a_name_keeps_its_letters_and_loses_marks_that_turn_the_line(project: Project, alice: User) -> None:
    made = classes.add_class(project=project, actor=alice, name="\u202eقطة \u2067 😀\u200f")
    assert made.name == "قطة 😀"


@pytest.mark.parametrize("name", ["\u200f", "\u202e\u2066", "\u200b", "a\x07b", "", "x" * 121])
def test_a_name_nobody_could_read_is_refused(login: Login, alice: User, project: Project, url: str, name: str) -> None:
    assert login(alice).post(url, {"do": "add", "names": name}).status_code == 422
    assert project.classes.count() == 2


def test_a_list_is_added_whole_or_not_and_keys_are_given_while_there_are_some(
    login: Login, alice: User, project: Project, url: str
) -> None:
    names = [f"breed {number}" for number in range(12)]
    assert login(alice).post(url, {"do": "add", "names": "\n".join(names)}).status_code == 303
    made = list(project.classes.order_by("position").values_list("name", "shortcut"))
    assert made[2:] == list(zip(names, ["3", "4", "5", "6", "7", "8", "9", "", "", "", "", ""], strict=True))
    refused = login(alice).post(url, {"do": "add", "names": "one more\nbreed 3"})
    assert (refused.status_code, project.classes.count()) == (422, 14)
    assert "breed 3" in refused.text


def test_a_key_the_page_keeps_is_refused_and_one_from_before_may_stay(
    project: Project, alice: User, cat: LabelClass
) -> None:
    LabelClass.objects.filter(pk=cat.pk).update(shortcut="g")
    cat.refresh_from_db()
    classes.update_class(label_class=cat, actor=alice, name="tom", shortcut="g")
    with pytest.raises(classes.InvalidClass, match="the page keeps"):
        classes.update_class(label_class=cat, actor=alice, shortcut="a")
    with pytest.raises(classes.InvalidClass, match="already belongs to dog"):
        classes.update_class(label_class=cat, actor=alice, shortcut="2")
    cat.refresh_from_db()
    assert (cat.name, cat.shortcut) == ("tom", "g")


# --- order --------------------------------------------------------------------------------------------------


def test_a_class_is_put_before_another_or_at_the_end(
    login: Login, alice: User, project: Project, url: str, cat: LabelClass, dog: LabelClass
) -> None:
    bird = classes.add_class(project=project, actor=alice, name="bird")
    client = login(alice)
    assert client.post(url, {"do": "place", "class": bird.pk, "before": cat.pk}).status_code == 303
    assert list(project.classes.values_list("name", flat=True)) == ["bird", "cat", "dog"]
    done = client.post(url, {"do": "place", "class": bird.pk, "before": ""}, headers={"HX-Request": "true"})
    assert done.status_code == 204, "a script shows it already"
    assert list(project.classes.values_list("name", flat=True)) == ["cat", "dog", "bird"]
    client.post(url, {"up": bird.pk})
    assert list(project.classes.values_list("name", flat=True)) == ["cat", "bird", "dog"]
    assert client.post(url, {"do": "place", "class": bird.pk, "before": 10**9}).status_code == 404


# --- examples -----------------------------------------------------------------------------------------------


def test_examples_are_chosen_among_labelled_images_and_taken_away(
    login: Login, alice: User, bob: User, project: Project, url: str, items: list[Item], cat: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    for item in items[:3]:
        answer(bob, item, cat)
    page = login(alice).get(url, {"class": cat.pk}).text
    assert all(f'name="item" value="{item.pk}"' in page for item in items[:3])
    ticked = [items[0].pk, items[1].pk]
    assert login(alice).post(url, {"do": "nominate", "class": cat.pk, "item": ticked}).status_code == 303
    assert set(cat.examples.values_list("item", flat=True)) == set(ticked)
    assert login(alice).post(url, {"do": "withdraw", "class": cat.pk, "item": ticked[:1]}).status_code == 303
    assert list(cat.examples.values_list("item", flat=True)) == ticked[1:]
    assert login(alice).post(url, {"do": "nominate", "class": cat.pk}).status_code == 422


def test_random_checks_and_test_images_never_show_a_class(
    login: Login, alice: User, project: Project, url: str, items: list[Item], cat: LabelClass
) -> None:
    for split in (Split.AUDIT, Split.TEST):
        hidden = make_item(project, 50 + len(split), split)
        refused = login(alice).post(url, {"do": "nominate", "class": cat.pk, "item": hidden.pk})
        assert refused.status_code == 409
        assert "never shown as examples" in refused.text
    ClassExample.objects.create(label_class=cat, item=items[0])
    Item.objects.filter(pk=items[0].pk).update(split=Split.AUDIT)
    assert f"items/{items[0].pk}/thumbnail" not in login(alice).get(url, {"class": cat.pk}).text
    QueueEntry.objects.filter(item=items[1]).update(reason_code="second_opinion")
    ClassExample.objects.create(label_class=cat, item=items[1])
    assert f"items/{items[1].pk}/thumbnail" not in login(alice).get(url, {"class": cat.pk}).text


def test_an_example_is_not_drawn_as_a_random_check(project: Project, alice: User, cat: LabelClass) -> None:
    from annotator.actions import certifying

    pool = bare_items(project, [Split.POOL] * 30)
    classes.add_examples(label_class=cat, actor=alice, item_ids=[item.pk for item in pool[:12]])
    certifying.draw_checks(project=project, actor=alice, count=9)
    drawn = set(Item.objects.filter(project=project, split=Split.AUDIT).values_list("pk", flat=True))
    assert len(drawn) == 9
    assert not drawn & {item.pk for item in pool[:12]}


def test_a_class_has_a_dozen_examples_at_most_and_none_from_elsewhere(
    project: Project, alice: User, charlie: User, cat: LabelClass
) -> None:
    pool = bare_items(project, [Split.POOL] * 13)
    with pytest.raises(classes.Conflict, match="at most 12 examples; cat would have 13"):
        classes.add_examples(label_class=cat, actor=alice, item_ids=[item.pk for item in pool])
    theirs = projects.create_project(owner=charlie, name="Secret", class_names=[])
    (foreign,) = bare_items(theirs, [Split.POOL])
    with pytest.raises(classes.NotFound):
        classes.add_examples(label_class=cat, actor=alice, item_ids=[foreign.pk])
    assert not ClassExample.objects.exists()


# --- merging on the page ------------------------------------------------------------------------------------


def test_a_merge_on_the_page_is_told_in_the_history_and_taken_back_there(
    login: Login, alice: User, bob: User, url: str, items: list[Item], cat: LabelClass, dog: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    answer(bob, items[0], cat)
    done = login(alice).post(url, {"do": "merge", "class": cat.pk, "into": dog.pk}, follow=True)
    assert "cat is merged into dog; 1 answer counts there now" in done.text
    assert "merged cat into dog, with 1 answer" in done.text
    event = AuditEvent.objects.get(verb="merged a class")
    assert login(bob).post(f"{url}undo/", {"event": event.pk}).status_code == 403
    undone = login(alice).post(f"{url}undo/", {"event": event.pk}, follow=True)
    assert "cat is a class of its own again, with 1 answer" in undone.text
    assert login(alice).post(f"{url}undo/", {"event": event.pk}).status_code == 409


@pytest.mark.parametrize("into", ["", "x", "999999"])
def test_a_merge_into_nothing_is_refused(login: Login, alice: User, url: str, cat: LabelClass, into: str) -> None:
    assert login(alice).post(url, {"do": "merge", "class": cat.pk, "into": into}).status_code == 404
    cat.refresh_from_db()
    assert not cat.is_archived


def test_a_class_merged_into_itself_or_an_archived_one_is_refused_in_place(
    login: Login, alice: User, url: str, cat: LabelClass, dog: LabelClass
) -> None:
    refused = login(alice).post(url, {"do": "merge", "class": cat.pk, "into": cat.pk})
    assert (refused.status_code, "into itself" in refused.text) == (409, True)
    classes.archive_class(label_class=dog, actor=alice, archived=True)
    refused = login(alice).post(url, {"do": "merge", "class": cat.pk, "into": dog.pk})
    assert (refused.status_code, "bring it back first" in refused.text) == (409, True)


@pytest.mark.parametrize("event", ["", "x", "999999"])
def test_undoing_nothing_is_refused(login: Login, alice: User, url: str, event: str) -> None:
    assert login(alice).post(f"{url}undo/", {"event": event}).status_code in (404, 422)
    assert login(alice).get(f"{url}undo/").status_code == 405


def test_the_history_tells_each_kind_of_change(
    login: Login, alice: User, bob: User, project: Project, url: str, items: list[Item], cat: LabelClass
) -> None:
    bird = classes.add_class(project=project, actor=alice, name="bird")
    classes.update_class(label_class=bird, actor=alice, name="owl", colour="#123456", shortcut="", description="hoots")
    classes.move_class(label_class=bird, actor=alice, up=True)
    classes.add_examples(label_class=bird, actor=alice, item_ids=[items[0].pk])
    classes.remove_examples(label_class=bird, actor=alice, item_ids=[items[0].pk])
    classes.archive_class(label_class=bird, actor=alice, archived=True)
    classes.archive_class(label_class=bird, actor=alice, archived=False)
    page = " ".join(login(bob).get(url).text.split())
    for said in (
        "added bird", "renamed bird to owl; gave owl another colour; took the key of owl away; described owl",
        "moved owl in the list", "showed owl by 1 more example", "took 1 example of owl away", "archived owl",
        "brought owl back",
    ):  # fmt: skip
        assert said in page


def test_five_hundred_classes_are_one_page_of_moderate_size(
    login: Login, alice: User, project: Project, url: str, django_assert_max_num_queries: Any
) -> None:
    classes.add_classes(project=project, actor=alice, names=[f"breed {number}" for number in range(500)])
    last = project.classes.last()
    assert last is not None
    with django_assert_max_num_queries(36):
        page = login(alice).get(url, {"class": last.pk})
    assert page.text.count('<li class="class-row') == 502
    assert len(page.content) < 1_000_000


# --- groups -------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(project: Project, settings: Any, tmp_path: Path) -> list[Item]:
    """Two clouds of ten real images, embedded."""
    made = [make_item(project, 300 + at) for at in range(20)]
    embed(project, made, settings, tmp_path)
    return made


def test_discovering_from_no_class_to_labels(
    login: Login, alice: User, project: Project, url: str, pool: list[Item]
) -> None:
    project.classes.all().delete()
    client = login(alice)
    assert "Group the look-alikes" in client.get(f"{url}discover/").text
    assert client.post(f"{url}discover/", {"do": "group"}).status_code == 303
    assert "Looking for look-alikes" in client.get(f"{url}discover/").text
    assert Job.objects.filter(kind=Job.Kind.GROUP).update(state=Job.State.CANCELLED) == 1
    job = grouped(project, alice, "open")
    first = queries.groups_of(project, job.pk)[0]
    page = client.get(f"{url}discover/")
    assert page.text.count("checked") == len(first.item_ids)
    ticked = first.item_ids.tolist()[:3]
    done = client.post(f"{url}discover/", {"do": "give", "name": "blob", "item": ticked}, follow=True)
    assert "3 images are blob now" in done.text
    assert Annotation.objects.filter(annotator=alice, reason_code="chosen").count() == 3
    event = AuditEvent.objects.get(verb="gave images a class")
    undone = client.post(f"{url}discover/", {"do": "undo", "event": event.pk}, follow=True)
    assert "3 images are what they were" in undone.text
    assert not Item.objects.filter(project=project, state=Item.State.LABELLED).exists()


def test_an_annotator_discovers_with_the_classes_there_are(
    login: Login, bob: User, vera: User, charlie: User, url: str, items: list[Item], cat: LabelClass
) -> None:
    sent = {"do": "give", "item": items[0].pk, "all": 1}
    refused = login(bob).post(f"{url}discover/", sent | {"name": "fox"})
    assert (refused.status_code, "nly an owner adds classes" in refused.text) == (403, True)
    assert 'value="fox"' in refused.text, "what was typed stays"
    assert login(bob).post(f"{url}discover/", sent | {"name": "cat"}).status_code == 303
    assert login(vera).get(f"{url}discover/").status_code == 403
    assert login(charlie).get(f"{url}discover/").status_code == 404
    assert login(bob).get(f"{url}groups/").status_code == 403


def test_what_fits_no_class_and_a_split_are_a_reviewers(
    login: Login, bob: User, carol: User, url: str, items: list[Item], cat: LabelClass, dog: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    answer(bob, items[0], kind="none_of_these")
    answer(bob, items[1], cat)
    client = login(carol)
    page = client.get(f"{url}groups/").text
    assert f'value="{items[0].pk}"' in page
    assert f'value="{items[1].pk}"' not in page
    sent = {"do": "give", "of": "none_of_these", "item": items[0].pk, "name": "dog"}
    assert client.post(f"{url}groups/", sent).status_code == 303
    assert f'value="{items[1].pk}"' in client.get(f"{url}groups/", {"of": f"class:{cat.pk}"}).text
    sent = {"do": "give", "of": f"class:{cat.pk}", "item": items[1].pk, "name": "dog"}
    assert client.post(f"{url}groups/", sent).status_code == 303
    decided = Annotation.objects.filter(annotator=carol, reason_code=Annotation.DECISION)
    assert decided.filter(value={"class": dog.pk}).count() == 2


@pytest.mark.parametrize("of", ["all", "class:999999", "class:"])
def test_groups_of_nothing_are_404(login: Login, carol: User, url: str, of: str) -> None:
    assert login(carol).get(f"{url}groups/", {"of": of}).status_code == 404


@pytest.mark.parametrize(
    ("form", "status"),
    [({}, 422), ({"do": "give"}, 422), ({"do": "give", "item": "x", "name": "cat"}, 422),
     ({"do": "give", "item": "999999", "name": "cat"}, 404), ({"do": "undo"}, 422), ({"do": "group"}, 409)],
)  # fmt: skip
def test_nonsense_about_groups_is_refused(
    login: Login, alice: User, project: Project, url: str, items: list[Item], form: dict[str, str], status: int
) -> None:
    assert login(alice).post(f"{url}discover/", form).status_code == status
    assert login(alice).put(f"{url}discover/").status_code == 405


def test_a_forged_way_back_leads_nowhere_else(
    login: Login, alice: User, url: str, items: list[Item], cat: LabelClass
) -> None:
    for evil in ("https://evil.example/", "//evil.example", f"{url}\r\nX: y", "/logout/"):
        sent = {"do": "give", "item": items[0].pk, "name": "cat", "next": evil}
        assert login(alice).post(f"{url}discover/", sent)["Location"].startswith(url)
        event = AuditEvent.objects.filter(verb="gave images a class").latest("pk")
        undone = login(alice).post(f"{url}undo/", {"event": event.pk, "back": evil})
        assert undone["Location"].startswith(url)


# --- the API ------------------------------------------------------------------------------------------------


def test_the_api_does_what_the_page_does(
    alice: User, bob: User, carol: User, project: Project, items: list[Item], cat: LabelClass, dog: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    caller = Caller(alice, project)
    made = caller.post("classes/", {"names": ["bird", "fish"]})
    assert [each["name"] for each in made.json()] == ["bird", "fish"]
    bird = made.json()[0]["id"]
    moved = caller.post(f"classes/{bird}/move/", {"before": cat.pk}).json()
    assert [each["name"] for each in moved] == ["bird", "cat", "dog", "fish"]
    answer(bob, items[0], cat)
    assert caller.post(f"classes/{cat.pk}/examples/", {"add": [items[0].pk]}).json() == {"items": [items[0].pk]}
    merged = caller.post(f"classes/{cat.pk}/merge/", {"into": dog.pk}).json()
    assert merged["answers"] == 1
    assert {each["id"]: each["merged_into"] for each in caller.get("classes/").json()}[cat.pk] == dog.pk
    assert error(Caller(carol, project).post("classes/undo/", {"event": merged["event"]})) == (403, "not_allowed")
    assert caller.post("classes/undo/", {"event": merged["event"]}).status_code == 200
    assert error(caller.post("classes/undo/", {"event": merged["event"]})) == (409, "conflict")
    given = caller.post("classes/assign/", {"of": "open", "items": [items[1].pk], "name": "owl"}).json()
    assert (given["given"], given["label_class"]["name"], given["left"]) == (1, "owl", [])
    sent = {"of": f"class:{cat.pk}", "items": [items[0].pk], "class": dog.pk}
    assert error(Caller(bob, project).post("classes/assign/", sent)) == (403, "not_allowed")
    assert Caller(carol, project).post("classes/assign/", sent).json()["given"] == 1
    said = [each["said"] for each in caller.get("classes/history/").json()]
    assert said[0] == "moved 1 image from cat to dog"
    assert error(caller.post("classes/", {"name": "x", "names": ["y"]})) == (422, "invalid_request")


def test_groups_come_through_the_api(alice: User, bob: User, project: Project, pool: list[Item]) -> None:
    caller = Caller(alice, project)
    asked = caller.post("groups/", {"of": "open"})
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    assert error(caller.get(f"groups/{asked.json()['id']}/")) == (404, "not_found")
    assert error(Caller(bob, project).post("groups/", {"of": "none_of_these"})) == (403, "not_allowed")
    assert error(caller.post("groups/", {"of": "what"})) == (422, "invalid_settings")
    job = grouped(project, alice, "open")
    found = Caller(bob, project).get(f"groups/{job.pk}/").json()
    assert sorted(pk for each in found for pk in each["items"]) == [item.pk for item in pool]


def test_a_merged_class_means_the_other_for_an_import(
    project: Project, alice: User, cat: LabelClass, dog: LabelClass
) -> None:
    from annotator.actions import imported_labels
    from annotator.actions.import_report import Report
    from annotator.actions.item_files import Taken

    merging.merge_classes(project=project, actor=alice, source_id=cat.pk, target_id=dog.pk)
    item = make_item(project, 5)
    job = Job.objects.create(
        project=project, kind=Job.Kind.IMPORT, created_by=alice, parameters={"labels": "from-folders"}
    )
    labels = imported_labels.ImportedLabels(job)
    labels.class_ids = {"cat": cat.pk}
    labels.store({item.pk: Taken(name="a.png", label="cat", content=b"", sha256="")}, Report())
    assert Annotation.objects.get(item=item).value == {"class": dog.pk}


def test_a_hundred_classes_have_a_hundred_colours() -> None:
    colours = [classes.colour_of(place) for place in range(100)]
    assert len(set(colours)) == 100
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
