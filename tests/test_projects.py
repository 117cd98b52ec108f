"""The list of projects, making one, and the owner's settings and members."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from annotator import algorithms, jobs
from annotator.actions import projects, training
from annotator.errors import InvalidSettings, WinnowError
from annotator.models import (
    AuditEvent,
    Item,
    Job,
    LabelClass,
    Membership,
    Project,
    ProjectSettings,
    Role,
)

Login = Callable[[User], Client]


def settings_form(project: Project, **changes: Any) -> dict[str, Any]:
    """The settings form as the page fills it, with changes; a value of None leaves the field out."""
    form = {"name": project.name, "instructions": project.instructions} | project.settings.to_json() | changes
    return {name: value for name, value in form.items() if value is not None and value is not False}


# --- the list and making one ---


def test_the_list_shows_own_projects_with_their_progress(
    login: Login, bob: User, charlie: User, items: list[Item], cat: LabelClass, answer: Callable[..., Any]
) -> None:
    answer(bob, items[0], cat)
    assert "1 of 12 answered" in login(bob).get("/").text
    page = login(charlie).get("/").text
    assert "Pets" not in page
    assert "No projects yet" in page


def test_a_visitor_is_sent_to_the_login_page(client: Client, project: Project) -> None:
    for path in ("/", "/projects/new/", f"/projects/{project.pk}/settings/"):
        response = client.get(path)
        assert response.status_code == 302
        assert response["Location"].startswith("/login/")


def test_whoever_makes_a_project_owns_it(login: Login, charlie: User) -> None:
    response = login(charlie).post(
        "/projects/new/", {"name": "Birds", "classes": "wren\n\n robin \n", "instructions": "x"}
    )
    made = Project.objects.get(name="Birds")
    assert response.status_code == 303
    assert response["Location"] == f"/projects/{made.pk}/import/"
    assert list(made.classes.values_list("name", "shortcut")) == [("wren", "1"), ("robin", "2")]
    assert made.memberships.get().role == Role.OWNER


@pytest.mark.parametrize(
    ("name", "classes", "field", "sentence"),
    [
        ("", "a", "name", "1 to 120 characters"),
        ("x" * 121, "a", "name", "1 to 120 characters"),
        ("PETS", "a", "name", "already a project called"),
        ("Birds", "wren\nWren", "classes", "already a class called"),
        ("Birds", "y" * 121, "classes", "1 to 120 characters"),
    ],
)
def test_a_refused_project_keeps_what_was_typed(
    login: Login, alice: User, project: Project, name: str, classes: str, field: str, sentence: str
) -> None:
    response = login(alice).post(
        "/projects/new/", {"name": name, "classes": classes, "instructions": "look <closely>"}
    )
    assert response.status_code == 422
    assert sentence in response.text
    assert f'id="{field}-errors"' in response.text
    assert "look &lt;closely&gt;" in response.text
    assert classes in response.text
    assert Project.objects.count() == 1


# --- the settings ---


def test_the_settings_page_has_a_field_for_every_setting(login: Login, alice: User, project: Project) -> None:
    page = login(alice).get(f"/projects/{project.pk}/settings/").text
    names = [each.name for each in fields(ProjectSettings) if each.name != "parameters"]
    told = [f"{of.kind}.{of.name}.{each.name}" for of in algorithms.CATALOGUE for each in of.parameters]
    for name in names + told:
        assert page.count(f'name="{name}"') == 1, name
    assert "Close calls first" in page


def test_the_form_as_shown_changes_nothing(login: Login, alice: User, project: Project) -> None:
    before = project.settings
    response = login(alice).post(f"/projects/{project.pk}/settings/", settings_form(project))
    assert response.status_code == 303
    assert Project.objects.get().settings == before


def test_settings_are_saved(login: Login, alice: User, project: Project) -> None:
    form = settings_form(
        project, name="Cats & dogs", answers_per_refit="25", head="logistic_regression", show_suggestions="on"
    )
    login(alice).post(f"/projects/{project.pk}/settings/", form)
    project.refresh_from_db()
    assert (project.name, project.settings.answers_per_refit) == ("Cats & dogs", 25)
    assert project.settings.head == "logistic_regression"
    assert project.settings.show_suggestions is True
    login(alice).post(f"/projects/{project.pk}/settings/", settings_form(project, show_suggestions=None))
    project.refresh_from_db()
    assert project.settings.show_suggestions is False


def test_every_wrong_field_is_named_and_nothing_typed_is_lost(login: Login, alice: User, project: Project) -> None:
    form = settings_form(
        project,
        name="Kept as typed",
        answers_per_refit="many",
        propose_above="1.5",
        head="crystal_ball",
        show_suggestions="on",
    )
    response = login(alice).post(f"/projects/{project.pk}/settings/", form)
    assert response.status_code == 422
    for field in ("answers_per_refit", "propose_above", "head"):
        assert f'id="{field}-errors"' in response.text
    for typed in ('value="Kept as typed"', 'value="many"', 'value="1.5"'):
        assert typed in response.text
    assert (
        'name="show_suggestions" id="show_suggestions" aria-describedby="show_suggestions-help" checked'
        in response.text
    )
    assert "3 fields need another value" in response.text
    project.refresh_from_db()
    assert (project.name, project.settings) == ("Pets", ProjectSettings())


def test_a_taken_name_is_refused_beside_the_field_while_the_page_keeps_the_old_title(
    login: Login, alice: User, project: Project
) -> None:
    projects.create_project(owner=alice, name="Birds", class_names=[])
    response = login(alice).post(f"/projects/{project.pk}/settings/", settings_form(project, name="birds"))
    assert response.status_code == 422
    assert 'id="name-errors"' in response.text
    assert '<a class="project-name"' in response.text
    assert 'title="Pets"' in response.text


def test_settings_changed_by_somebody_else_meanwhile_are_not_overwritten_unseen(
    login: Login, alice: User, project: Project
) -> None:
    client = login(alice)
    seen = client.get(f"/projects/{project.pk}/settings/").context["seen"]
    projects.save_settings(project=project, actor=alice, raw={"answers_per_refit": 50})
    form = settings_form(project, answers_per_refit="20", seen=seen)
    response = client.post(f"/projects/{project.pk}/settings/", form)
    assert response.status_code == 409
    assert 'value="20"' in response.text
    assert Project.objects.get().settings.answers_per_refit == 50
    again = client.post(f"/projects/{project.pk}/settings/", form | {"seen": response.context["seen"]})
    assert again.status_code == 303
    assert Project.objects.get().settings.answers_per_refit == 20


def test_parameters_are_saved_unless_they_are_the_default(login: Login, alice: User, project: Project) -> None:
    form = settings_form(
        project,
        **{
            "encoder.pretrained.model": " facebook/dinov2-base ",
            "encoder.self_supervised.minutes": "20",
            "encoder.self_supervised.flip": "yes",
            "encoder.self_supervised.colour": "0.50",
            "trainer.fixmatch.threshold": "",
        },
    )
    assert login(alice).post(f"/projects/{project.pk}/settings/", form).status_code == 303
    chosen = {
        "encoder.pretrained.model": "facebook/dinov2-base",
        "encoder.self_supervised.minutes": 20.0,
        "encoder.self_supervised.flip": "yes",
    }
    project.refresh_from_db()
    assert project.settings.parameters == chosen
    assert AuditEvent.objects.latest("pk").detail == {"parameters": chosen}
    told = project.settings.parameters_of("encoder", "self_supervised")
    assert (told["minutes"], told["flip"], told["colour"]) == (20.0, "yes", 0.5)
    page = login(alice).get(f"/projects/{project.pk}/settings/").text
    assert 'value="facebook/dinov2-base"' in page
    assert "<option selected>yes</option>" in page
    assert '<span class="tag">2 changed</span>' in page


def test_an_emptied_parameter_is_the_default_again_and_the_others_stay(alice: User, project: Project) -> None:
    both = {"head.mlp.hidden": 64, "head.mlp.steps": 50}
    projects.save_settings(project=project, actor=alice, raw={"parameters": both})
    projects.save_settings(project=project, actor=alice, raw={"parameters": {"head.mlp.hidden": ""}})
    assert project.settings.parameters == {"head.mlp.steps": 50}


def test_a_wrong_parameter_is_named_beside_its_field_in_an_opened_list(
    login: Login, alice: User, project: Project
) -> None:
    wrong = {"head.mlp.hidden": "wide", "encoder.self_supervised.flip": "perhaps", "trainer.elr.memory": "2"}
    response = login(alice).post(f"/projects/{project.pk}/settings/", settings_form(project, **wrong))
    assert response.status_code == 422
    for name in wrong:
        assert f'id="{name}-errors"' in response.text
    assert 'value="wide"' in response.text
    assert "3 fields need another value" in response.text
    assert response.text.count("<details open>") == 6  # three algorithms, each inside "Parameters of another ..."
    assert Project.objects.get().settings == ProjectSettings()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("head.mlp.depth", "no parameter of this name"),
        ("head.crystal_ball.size", "not a known head"),
        ("foot.mlp.hidden", "not a kind of algorithm"),
        ("head.mlp", "no parameter of this name"),
        ("head", "not a known head"),
    ],
)
def test_a_parameter_of_nothing_is_refused_under_the_name_it_came_with(key: str, sentence: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        ProjectSettings.clean({"parameters": {key: 1}})
    assert list(refused.value.fields) == [key]
    assert sentence in refused.value.fields[key]


def test_parameters_that_are_no_object_are_refused() -> None:
    with pytest.raises(InvalidSettings) as refused:
        ProjectSettings.clean({"parameters": ["head.mlp.hidden"]})
    assert list(refused.value.fields) == ["parameters"]


@pytest.mark.parametrize(
    ("value", "is_taken"), [("0", True), ("8", True), ("512", True), ("7", False), ("513", False)]
)
def test_the_image_size_is_automatic_or_within_bounds(value: str, is_taken: bool) -> None:
    if is_taken:
        assert ProjectSettings.clean({"image_px": value}).image_px == int(value)
    else:
        with pytest.raises(InvalidSettings, match="not between 8 and 512"):
            ProjectSettings.clean({"image_px": value})


@pytest.mark.parametrize(
    ("changes", "embeds"),
    [
        ({"encoder": "self_supervised"}, True),
        ({"image_px": 16}, True),
        ({"encoder.pca_pixels.components": 32}, True),
        ({"encoder.pretrained.model": "facebook/dinov2-base"}, False),
        ({"head": "mlp", "answers_per_refit": 20}, False),
    ],
)
def test_what_changes_the_embedding_asks_for_a_new_one(
    login: Login, alice: User, project: Project, items: list[Item], changes: dict[str, Any], embeds: bool
) -> None:
    form = settings_form(project, **changes)
    page = login(alice).post(f"/projects/{project.pk}/settings/", form, follow=True).text
    waiting = Job.objects.filter(project=project, kind=Job.Kind.EMBED, state=Job.State.QUEUED)
    assert waiting.exists() is embeds
    assert ("The images are being embedded anew" in page) is embeds
    assert all(job.parameters == {"afresh": True} for job in waiting)


def test_a_project_without_images_has_nothing_to_embed(login: Login, alice: User, project: Project) -> None:
    form = settings_form(project, encoder="self_supervised")
    page = login(alice).post(f"/projects/{project.pk}/settings/", form, follow=True).text
    assert not Job.objects.exists()
    assert "embedded anew" not in page


def test_an_embedding_that_waits_already_goes_by_the_new_settings(
    alice: User, project: Project, items: list[Item]
) -> None:
    waiting = training.request_embedding(project=project)
    projects.save_settings(project=project, actor=alice, raw={"encoder": "self_supervised"})
    waiting.refresh_from_db()
    assert waiting.parameters == {"afresh": True}
    assert Job.objects.count() == 1


def test_an_embedding_that_runs_already_is_followed_by_one_that_goes_by_the_new_settings(
    alice: User, project: Project, items: list[Item]
) -> None:
    assert jobs.claim(training.request_embedding(project=project).pk)
    projects.save_settings(project=project, actor=alice, raw={"image_px": 16})
    assert Job.objects.get(state=Job.State.QUEUED).parameters == {"afresh": True}


@pytest.mark.parametrize("changes", [{"head": "mlp"}, {"head.label_spreading.alpha": 0.5}])
def test_another_head_is_said_to_come_with_the_next_model(
    login: Login, alice: User, project: Project, items: list[Item], changes: dict[str, Any]
) -> None:
    form = settings_form(project, **changes)
    page = login(alice).post(f"/projects/{project.pk}/settings/", form, follow=True).text
    assert "The head is used from the next model on." in page
    assert not Job.objects.exists()


def test_a_stored_setting_that_is_none_any_more_can_be_replaced(alice: User, project: Project) -> None:
    Project.objects.filter(pk=project.pk).update(settings_json={"encoder": "of_old"})
    project.refresh_from_db()
    projects.save_settings(project=project, actor=alice, raw={"encoder": "pca_pixels"})
    assert Project.objects.get().settings == ProjectSettings()


# --- the members ---


def test_a_member_is_added_promoted_and_removed(login: Login, alice: User, charlie: User, project: Project) -> None:
    url = f"/projects/{project.pk}/members/"
    login(alice).post(url, {"do": "set", "username": "charlie", "role": "viewer"})
    assert project.memberships.get(user=charlie).role == Role.VIEWER
    login(alice).post(url, {"do": "set", "username": "charlie", "role": "reviewer"})
    assert project.memberships.get(user=charlie).role == Role.REVIEWER
    login(alice).post(url, {"do": "remove", "user": charlie.pk, "username": "charlie", "role": "reviewer"})
    assert not project.memberships.filter(user=charlie).exists()


def test_an_unknown_name_is_refused_and_kept(login: Login, alice: User, project: Project) -> None:
    form = {"do": "set", "username": "nobody-here", "role": "viewer"}
    response = login(alice).post(f"/projects/{project.pk}/members/", form)
    assert response.status_code == 404
    assert 'value="nobody-here"' in response.text
    assert 'id="member-errors"' in response.text


def test_the_last_owner_stays(login: Login, alice: User, project: Project) -> None:
    url = f"/projects/{project.pk}/members/"
    assert login(alice).post(url, {"do": "remove", "user": alice.pk}).status_code == 409
    assert login(alice).post(url, {"do": "set", "username": "alice", "role": "viewer"}).status_code == 409
    assert Membership.objects.get(project=project, user=alice).role == Role.OWNER


def test_an_owner_who_steps_down_is_led_to_a_page_that_still_opens(
    login: Login, alice: User, bob: User, project: Project
) -> None:
    projects.set_member(project=project, actor=alice, username="bob", role=Role.OWNER)
    form = {"do": "set", "username": "alice", "role": "viewer"}
    client = login(alice)
    assert (
        client.post(f"/projects/{project.pk}/members/", form, follow=True)
        .redirect_chain[-1][0]
        .endswith(f"/{project.pk}/")
    )
    projects.set_member(project=project, actor=bob, username="alice", role=Role.OWNER)
    assert client.post(f"/projects/{project.pk}/members/", {"do": "remove", "user": alice.pk})["Location"] == "/"


# --- two owners at once ---


def test_a_setting_saved_meanwhile_is_not_overwritten(alice: User, project: Project) -> None:
    stale = Project.objects.get()
    projects.save_settings(project=project, actor=alice, raw={"answers_per_refit": 50}, name="Animals")
    projects.save_settings(project=stale, actor=alice, raw={"queue_length": 30}, instructions="look closely")
    stored = Project.objects.get()
    assert (stored.name, stored.instructions) == ("Animals", "look closely")
    assert (stored.settings.answers_per_refit, stored.settings.queue_length) == (50, 30)
    assert (stale.name, stale.settings) == (stored.name, stored.settings)


def at_once(*changes: Callable[[], Any]) -> list[str]:
    """Each change on a thread and a connection of its own; what each was refused with, or "done"."""
    ready = threading.Barrier(len(changes))

    def one(change: Callable[[], Any]) -> str:
        try:
            ready.wait()
            change()
        except WinnowError as error:
            return error.message
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(len(changes)) as threads:
        return list(threads.map(one, changes))


@pytest.mark.django_db(transaction=True)
def test_two_projects_made_of_one_name_at_once_are_one_made_and_one_refused(alice: User, bob: User) -> None:
    for name in ("Birds", "Fishes", "Newts", "Toads"):
        said = at_once(
            *(
                partial(projects.create_project, owner=owner, name=name, class_names=["x", "y"])
                for owner in (alice, bob)
            )
        )
        assert sorted(said) == ["done", f"there is already a project called {name!r}; choose another name"]


# --- who may ---


@pytest.mark.parametrize("page", ["settings", "members"])
def test_only_owners_come_in(
    login: Login, bob: User, carol: User, vera: User, charlie: User, project: Project, page: str
) -> None:
    url = f"/projects/{project.pk}/{page}/"
    for member in (bob, carol, vera):
        assert login(member).get(url).status_code == 403
        assert login(member).post(url, {"do": "add", "names": "x"}).status_code == 403
    assert login(charlie).get(url).status_code == 404
    assert login(charlie).post(url, {}).status_code == 404


@pytest.mark.parametrize("page", ["settings", "members"])
def test_other_methods_are_refused(login: Login, alice: User, project: Project, page: str) -> None:
    assert login(alice).put(f"/projects/{project.pk}/{page}/").status_code == 405


@pytest.mark.parametrize("page", ["members"])
def test_a_form_address_opened_by_hand_leads_to_the_settings(
    login: Login, alice: User, project: Project, page: str
) -> None:
    assert (
        login(alice).get(f"/projects/{project.pk}/{page}/")["Location"] == f"/projects/{project.pk}/settings/#{page}"
    )


def test_the_tabs_are_those_of_the_role(
    login: Login, alice: User, bob: User, carol: User, vera: User, project: Project
) -> None:
    def tabs(user: User) -> list[str]:
        page = login(user).get(f"/projects/{project.pk}/").text
        names = ("Dashboard", "Label", "Review", "Training", "Import", "Export", "Settings")
        nav = page.split('<nav class="tabs"', 1)[1].split("</nav>", 1)[0]
        return [name for name in names if f">{name}" in nav]

    assert tabs(vera) == ["Dashboard", "Training", "Export"]
    assert tabs(bob) == ["Dashboard", "Label", "Training", "Export"]
    assert tabs(carol) == ["Dashboard", "Label", "Review", "Training", "Export"]
    assert tabs(alice) == ["Dashboard", "Label", "Review", "Training", "Import", "Export", "Settings"]
