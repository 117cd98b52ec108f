"""The class guide through its address: what the classes mean, and what it must not give away."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from annotator.actions import classes
from annotator.models import ClassExample, Item, LabelClass, Project, QueueEntry, Split
from tests.cast import make_item

Login = Callable[[User], Client]


@pytest.fixture
def shown_by(cat: LabelClass, items: list[Item], alice: User) -> list[Item]:
    """Two images nominated to show what a cat is."""
    for item in items[:2]:
        ClassExample.objects.create(label_class=cat, item=item, added_by=alice)
    return items[:2]


def guide(client: Client, project: Project, **more: Any) -> str:
    answer = client.get(reverse("guide", args=[project.pk]), **more)
    assert answer.status_code == 200
    return answer.content.decode()


def thumbnail(item: Item) -> str:
    return reverse("item-thumbnail", args=[item.project_id, item.pk])


def test_every_open_class_is_there_with_its_description_and_examples(
    login: Login, project: Project, shown_by: list[Item], alice: User, vera: User, cat: LabelClass
) -> None:
    classes.update_class(label_class=cat, actor=alice, description="Whiskers, and no interest in you.")
    page = guide(login(vera), project)
    assert "Whiskers, and no interest in you." in page
    assert all(thumbnail(item) in page for item in shown_by)
    assert page.index(">cat<") < page.index(">dog<")


def test_a_class_without_examples_says_so_and_none_is_made_up(
    login: Login, project: Project, items: list[Item], answer: Any, bob: User, dog: LabelClass, alice: User
) -> None:
    answer(bob, items[0], dog)
    page = guide(login(bob), project)
    assert page.count("No description and no example yet.") == 2
    assert "thumbnail" not in page
    classes.update_class(label_class=dog, actor=alice, description="Barks.")
    assert "No example image was nominated yet." in guide(login(bob), project)


def test_an_archived_class_is_not_explained(
    login: Login, project: Project, shown_by: list[Item], alice: User, bob: User, cat: LabelClass
) -> None:
    classes.archive_class(label_class=cat, actor=alice, archived=True)
    page = guide(login(bob), project)
    assert ">cat<" not in page and thumbnail(shown_by[0]) not in page


@pytest.mark.parametrize("split", [Split.AUDIT, Split.TEST])
def test_what_became_a_check_or_a_test_image_is_shown_no_more(
    login: Login, project: Project, shown_by: list[Item], bob: User, split: str
) -> None:
    Item.objects.filter(pk=shown_by[0].pk).update(split=split)
    page = guide(login(bob), project)
    assert thumbnail(shown_by[0]) not in page and thumbnail(shown_by[1]) in page


def test_what_is_asked_blind_just_now_is_not_given_away(
    login: Login, project: Project, shown_by: list[Item], bob: User
) -> None:
    QueueEntry.objects.filter(item=shown_by[0]).update(reason_code="suspect")
    page = guide(login(bob), project)
    assert thumbnail(shown_by[0]) not in page and thumbnail(shown_by[1]) in page


def test_beside_the_image_it_comes_as_a_part(login: Login, project: Project, shown_by: list[Item], bob: User) -> None:
    part = guide(login(bob), project, HTTP_HX_REQUEST="true")
    assert "<html" not in part and 'id="guide-classes"' in part


def test_many_examples_are_counted(login: Login, project: Project, cat: LabelClass, alice: User, bob: User) -> None:
    for seed in range(11):
        ClassExample.objects.create(label_class=cat, item=make_item(project, 200 + seed), added_by=alice)
    assert "3 more examples" in guide(login(bob), project)


def test_only_owners_are_led_to_the_classes(login: Login, project: Project, alice: User, bob: User) -> None:
    assert "Describe the classes and nominate examples" in guide(login(alice), project)
    assert "Describe the classes and nominate examples" not in guide(login(bob), project)


def test_who_is_outside_finds_nothing_and_nobody_posts(
    login: Login, project: Project, charlie: User, bob: User
) -> None:
    assert login(charlie).get(reverse("guide", args=[project.pk])).status_code == 404
    assert login(bob).post(reverse("guide", args=[project.pk])).status_code == 405


def test_the_label_page_leads_to_it_without_scripts(
    login: Login, project: Project, items: list[Item], bob: User
) -> None:
    page = login(bob).get(reverse("label", args=[project.pk])).content.decode()
    assert f'href="{reverse("guide", args=[project.pk])}"' in page


def test_its_cost_does_not_grow_with_the_classes(
    login: Login, project: Project, cat: LabelClass, alice: User, django_assert_max_num_queries: Any
) -> None:
    client = login(alice)
    for number in range(30):
        made = classes.add_class(project=project, actor=alice, name=f"breed {number}")
        ClassExample.objects.create(label_class=made, item=make_item(project, 300 + number), added_by=alice)
    with django_assert_max_num_queries(8):
        guide(client, project)


def test_no_class_takes_its_key(project: Project, cat: LabelClass, alice: User) -> None:
    with pytest.raises(Exception, match="'g' cannot be a class key"):
        classes.update_class(label_class=cat, actor=alice, shortcut="g")
