"""What the dashboard says, to whom, and that it never calls a biased number accuracy."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from annotator import jobs
from annotator.access import OWN
from annotator.actions import projects, reviewing
from annotator.models import Item, Job, LabelClass, ModelVersion, Project, Proposal, Role, Split
from annotator.queries import CHECKS_AT_LEAST
from annotator.views.dashboard import REVIEW_ENOUGH, Standing, next_step
from tests.cast import make_item

Login = Callable[[User], Client]
JOBS = {"HX-Request": "true", "HX-Target": "jobs"}


def show(client: Client, project: Project) -> str:
    response = client.get(f"/projects/{project.pk}/")
    assert response.status_code == 200
    return " ".join(response.text.split())


def running_job(project: Project, **columns: Any) -> Job:
    now = timezone.now()
    columns = {"kind": "refit", "state": "running", "attempt": 1, "heartbeat_at": now, "started_at": now} | columns
    return Job.objects.create(project=project, **columns)


@pytest.mark.parametrize(
    ("standing", "title"),
    [
        (Standing(0, 0, 0, 0), "Import images"),
        (Standing(10, 0, 0, 0), "Add classes"),
        (Standing(10, 0, 0, 2), "Label the first image"),
        (Standing(100, 5, REVIEW_ENOUGH - 1, 2), "Keep labelling"),
        (Standing(100, 5, REVIEW_ENOUGH, 2), "Review proposals"),
        (Standing(10, 10, 1, 2), "Review proposals"),
        (Standing(10, 10, 0, 2), "Export the labels"),
    ],
)
def test_there_is_one_next_step(project: Project, standing: Standing, title: str) -> None:
    step = next_step(project, OWN, standing)
    assert step.title == title
    assert step.url


def test_an_import_under_way_is_what_to_watch(login: Login, alice: User, project: Project) -> None:
    job = Job.objects.create(project=project, kind="import")
    page = show(login(alice), project)
    assert "Images are being imported" in page
    assert f'href="/projects/{project.pk}/jobs/{job.pk}/">Watch the import' in page


def test_a_step_beyond_the_role_is_named_without_a_button(project: Project) -> None:
    step = next_step(project, Role.VIEWER, Standing(0, 0, 0, 0))
    assert step.url == ""
    assert "role owner" in step.why
    assert next_step(project, Role.ANNOTATOR, Standing(100, 5, 90, 2)).title == "Keep labelling"
    assert next_step(project, Role.ANNOTATOR, Standing(100, 100, 90, 2)).url == ""


def test_an_empty_project_has_a_dashboard(login: Login, charlie: User) -> None:
    bare = projects.create_project(owner=charlie, name="Bare", class_names=[])
    page = show(login(charlie), bare)
    for sentence in (
        "Import images",
        "No classes yet",
        "Nobody yet",
        "None yet. The first one learns after 10 answers",
    ):
        assert sentence in page
    assert '<svg class="chart"' not in page


def test_answers_are_counted_by_split_and_state(
    login: Login,
    alice: User,
    bob: User,
    project: Project,
    items: list[Item],
    cat: LabelClass,
    answer: Callable[..., Any],
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[1], kind="skip")
    make_item(project, 50, split=Split.AUDIT)
    page = show(login(alice), project)
    assert '2 <span class="of">of 13</span>' in page
    assert 'aria-label="Pool: 1 labelled, 0 none of these, 1 skipped, 10 not labelled"' in page
    assert 'aria-label="Random checks: 0 labelled' in page


def test_too_few_random_checks_give_a_count_and_no_number(
    login: Login, alice: User, project: Project, model: ModelVersion, items: list[Item]
) -> None:
    model.metrics["audit"] |= {"n": CHECKS_AT_LEAST - 1, "accuracy": 0.987}
    model.save()
    page = show(login(alice), project)
    assert f"<strong>0 of {CHECKS_AT_LEAST}</strong>" in page
    assert "holds only 0 random checks" in page
    assert "99 %" not in page
    assert "Estimated" not in page


def test_enough_random_checks_give_the_estimate_with_its_interval(
    login: Login, alice: User, project: Project, model: ModelVersion
) -> None:
    page = show(login(alice), project)
    assert (
        "Estimated <strong>90 %</strong> (95 % interval 77 % to 96 %) for model 1, from 40 answered random checks"
        in page
    )
    assert page.count('<svg class="chart"') == 2  # one for wide screens, one for phones


def test_the_accuracy_on_known_test_labels_stands_beside_it_under_its_own_name(
    login: Login, alice: User, project: Project, model: ModelVersion
) -> None:
    assert "test images" not in show(login(alice), project)
    model.metrics["test"] = {"n": 200, "correct": 190, "accuracy": 0.95, "low": 0.91, "high": 0.97}
    model.save()
    page = show(login(alice), project)
    assert "On the 200 test images, whose labels were known beforehand: <strong>95 %</strong> (91 % to 97 %)" in page


def test_the_labels_of_chosen_items_never_make_an_accuracy(
    login: Login, alice: User, bob: User, project: Project, items: list[Item], cat: LabelClass, model: ModelVersion,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    model.metrics["audit"] = None
    model.save()
    for item in items:
        answer(bob, item, cat)
    page = show(login(alice), project)
    section = page.split('id="accuracy-title"', 1)[1].split("</section>", 1)[0]
    assert not re.search(r"\d\.\d\d", section)


def test_classes_proposals_and_people_are_counted(
    login: Login, alice: User, bob: User, carol: User, project: Project, items: list[Item], dog: LabelClass,
    proposals: list[Proposal], answer: Callable[..., Any],
) -> None:  # fmt: skip
    answer(bob, items[-1], dog)
    first = proposals[0]
    reviewing.decide(project=project, reviewer=carol, accepted=[first.pk], rejected=[], corrected={})
    page = show(login(alice), project)
    assert 'Waiting for review</h2> <p class="figure">10 ' in page.replace("</p>", " </p>")
    assert re.search(r'>bob</th><td class="number">1</td><td class="number">0</td>', page)
    assert re.search(r'>carol</th><td class="number">1</td><td class="number">1</td>', page)


def test_a_missing_worker_is_said_with_what_to_do(
    login: Login, alice: User, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No worker is connected" in show(login(alice), project)
    monkeypatch.setattr(jobs, "workers_alive", lambda: 2)
    page = show(login(alice), project)
    assert "No worker is connected" not in page
    assert "2 workers connected" in page


def test_the_page_polls_while_a_job_runs_and_stops_when_it_is_over(
    login: Login, alice: User, project: Project
) -> None:
    job = running_job(project, progress=0.5, message="fitting")
    client, url = login(alice), f"/projects/{project.pk}/"
    assert 'hx-trigger="every 2s"' in show(client, project)
    part = client.get(url, headers=JOBS)
    assert part.status_code == 200
    assert "fitting" in part.text
    assert "<html" not in part.text
    assert "hx-swap-oob" in part.text
    Job.objects.filter(pk=job.pk).update(state="done", finished_at=timezone.now())
    part = client.get(url, headers=JOBS)
    assert part.status_code == 286
    assert part["HX-Trigger"] == "jobs-over"
    assert 'hx-trigger="every 2s"' not in show(client, project)


def test_the_figures_come_as_a_part(login: Login, alice: User, project: Project) -> None:
    headers = {"HX-Request": "true", "HX-Target": "figures"}
    part = login(alice).get(f"/projects/{project.pk}/", headers=headers)
    assert part.status_code == 200
    assert "<html" not in part.text
    assert 'id="next-title"' in part.text


def test_who_may_look(login: Login, vera: User, charlie: User, client: Client, project: Project) -> None:
    url = f"/projects/{project.pk}/"
    assert client.get(url).status_code == 302
    assert login(vera).get(url).status_code == 200
    assert login(charlie).get(url).status_code == 404
    assert "Not found" in login(charlie).get(url).text
    assert login(vera).post(url).status_code == 405


def test_hostile_names_are_text(login: Login, alice: User, project: Project, cat: LabelClass) -> None:
    Project.objects.filter(pk=project.pk).update(name="<img src=x onerror=alert(1)>")
    LabelClass.objects.filter(pk=cat.pk).update(name='"><script>alert(1)</script>')
    page = show(login(alice), project)
    assert "<img src=x" not in page
    assert "<script>alert" not in page


def test_the_number_of_queries_does_not_grow_with_the_data(
    login: Login, alice: User, project: Project, proposals: list[Proposal], django_assert_max_num_queries: Any
) -> None:
    client = login(alice)
    with django_assert_max_num_queries(52):
        show(client, project)
