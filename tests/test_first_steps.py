"""From an empty project to its first answer: what each page says to do next, and to whom."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from annotator.actions import classes, labeling, projects, queueing
from annotator.models import Item, Job, Membership, Project, Role
from annotator.views import first_steps
from tests.cast import make_item

Login = Callable[[User], Client]


@pytest.fixture
def empty(alice: User, bob: User) -> Project:
    """A project without images and without classes."""
    made = projects.create_project(owner=alice, name="Birds", class_names=[])
    Membership.objects.create(project=made, user=bob, role=Role.ANNOTATOR)
    return made


def states(project: Project, who: User) -> list[str]:
    return [step.state for step in first_steps.steps(project.memberships.get(user=who))]


def test_the_steps_follow_each_other(empty: Project, alice: User, bob: User) -> None:
    assert states(empty, alice) == ["now", "later", "later"]
    item = make_item(empty)
    assert states(empty, alice) == ["done", "now", "later"]
    made = classes.add_class(project=empty, actor=alice, name="wren")
    assert states(empty, alice) == ["done", "done", "now"]
    queueing.start_queue(project=empty)
    queueing.reserve_items(project=empty, annotator=alice)
    labeling.record_annotation(
        project=empty, annotator=alice, item_id=item.pk, uuid=uuid.uuid4(), kind="label", raw_value=made.pk
    )
    assert states(empty, alice) == []


def test_without_classes_one_may_look_at_groups_of_images_first(login: Login, empty: Project, alice: User) -> None:
    assert first_steps.steps(empty.memberships.get(user=alice))[1].also is None  # there is nothing to group yet
    make_item(empty)
    step = first_steps.steps(empty.memberships.get(user=alice))[1]
    assert step.also is not None
    assert login(alice).get(step.also[1]).status_code == 200
    assert step.also[1] in login(alice).get(reverse("import", args=[empty.pk])).content.decode()


def test_classes_may_come_first(project: Project, alice: User) -> None:
    assert states(project, alice) == ["now", "done", "later"]


def test_an_import_on_its_way_is_watched_not_repeated(empty: Project, alice: User) -> None:
    Job.objects.create(project=empty, kind=Job.Kind.IMPORT, state=Job.State.QUEUED)
    first = first_steps.steps(empty.memberships.get(user=alice))[0]
    assert (first.text, first.link) == ("They are on their way in.", "Watch the import")


def test_who_may_not_do_it_is_told_who_may(empty: Project, bob: User) -> None:
    images, classes, labelling = first_steps.steps(empty.memberships.get(user=bob))
    assert images.text == "An owner of this project can import some." and not images.url
    assert classes.text == "An owner of this project names them." and not classes.url
    assert not labelling.url
    item = make_item(empty)
    assert item and first_steps.steps(empty.memberships.get(user=bob))[0].state == "done"


def test_the_last_step_hands_out_the_first_images(
    login: Login, project: Project, items: list[Item], alice: User
) -> None:
    client = login(alice)
    page = client.get(reverse("import", args=[project.pk])).content.decode()
    assert f'action="{reverse("label-next", args=[project.pk])}"' in page
    answer = client.post(reverse("label-next", args=[project.pk]))
    assert 'class="card"' in client.get(answer["Location"]).content.decode()


def test_a_new_project_leads_to_its_images(login: Login, alice: User) -> None:
    answer = login(alice).post(reverse("project-create"), {"name": "Birds", "classes": "wren\nrobin"})
    made = Project.objects.get(name="Birds")
    assert (answer.status_code, answer["Location"]) == (303, reverse("import", args=[made.pk]))


def test_the_list_of_projects_says_what_to_do_next(login: Login, empty: Project, alice: User, bob: User) -> None:
    assert reverse("import", args=[empty.pk]) in login(alice).get(reverse("projects")).content.decode()
    assert reverse("import", args=[empty.pk]) not in login(bob).get(reverse("projects")).content.decode()


def test_who_has_no_project_is_told_how_to_begin(login: Login, charlie: User) -> None:
    page = login(charlie).get(reverse("projects")).content.decode()
    assert "Make your first project" in page and reverse("project-create") in page


def test_it_costs_five_queries_at_most(empty: Project, alice: User, django_assert_max_num_queries: Any) -> None:
    membership = Membership.objects.select_related("project").get(project=empty, user=alice)
    with django_assert_max_num_queries(5):
        first_steps.steps(membership)
