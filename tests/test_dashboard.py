"""What the dashboard says, to whom, and that it never calls a biased number accuracy."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from annotator import jobs, queries
from annotator.access import OWN
from annotator.actions import projects, reviewing
from annotator.actions.forecasting import Pace
from annotator.models import Item, Job, LabelClass, ModelVersion, Project, Proposal, Role, Split
from annotator.queries import CHECKS_AT_LEAST
from annotator.views.forecasting import Hour, hour
from annotator.views.next_step import REVIEW_ENOUGH, Standing, next_step
from tests.cast import make_item

Login = Callable[[User], Client]
JOBS = {"HX-Request": "true", "HX-Target": "jobs"}


def show(client: Client, project: Project, about: str = "") -> str:
    response = client.get(f"/projects/{project.pk}/", {"about": about} if about else {})
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
    step = next_step(project, OWN, Standing(0, 0, 0, 0, importing=job))
    assert step.title == "Images are being imported"
    assert step.url == f"/projects/{project.pk}/jobs/{job.pk}/"
    assert "Watch the import" in show(login(alice), project)


def test_a_step_beyond_the_role_is_named_without_a_button(project: Project) -> None:
    step = next_step(project, Role.VIEWER, Standing(0, 0, 0, 0))
    assert step.url == ""
    assert "role owner" in step.why
    assert next_step(project, Role.ANNOTATOR, Standing(100, 5, 90, 2)).title == "Keep labelling"
    assert next_step(project, Role.ANNOTATOR, Standing(100, 100, 90, 2)).url == ""


def test_an_empty_project_has_a_dashboard(login: Login, charlie: User) -> None:
    bare = projects.create_project(owner=charlie, name="Bare", class_names=[])
    client = login(charlie)
    for about, sentences in (
        ("", ["Import images", "No jobs yet"]),
        ("accuracy", ["None yet. The first one learns after 10 answers"]),
        ("worth", ["Too early to tell"]),
        ("doubt", ["That shows with the first model"]),
        ("work", ["No classes yet", "Nobody yet", "Nothing was answered yet"]),
    ):
        page = show(client, bare, about)
        assert [each for each in sentences if each not in page] == []
        assert '<svg class="chart' not in page


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
    assert "2 of 13 images answered" in page
    assert 'aria-label="Pool: 1 labelled, 0 none of these, 1 skipped, 10 not labelled"' in page
    assert 'aria-label="Random checks: 0 labelled' in page


def test_too_few_random_checks_give_a_count_and_no_number(
    login: Login, alice: User, project: Project, model: ModelVersion, items: list[Item]
) -> None:
    model.metrics["audit"] |= {"n": CHECKS_AT_LEAST - 1, "accuracy": 0.987}
    model.save()
    page = show(login(alice), project, "accuracy")
    assert f"<strong>0 of {CHECKS_AT_LEAST}</strong>" in page
    assert "holds only 0 random checks" in page
    assert "99 %" not in page
    assert "Estimated" not in page


def test_enough_random_checks_give_the_estimate_with_its_interval(
    login: Login, alice: User, project: Project, model: ModelVersion
) -> None:
    page = show(login(alice), project, "accuracy")
    assert (
        "Estimated <strong>90 %</strong> (95 % interval 77 % to 96 %) for model 1, from 40 answered random checks"
        in page
    )
    assert page.count('<svg class="chart"') == 2  # one for wide screens, one for phones


def test_the_accuracy_on_known_test_labels_stands_beside_it_under_its_own_name(
    login: Login, alice: User, project: Project, model: ModelVersion
) -> None:
    assert "test images" not in show(login(alice), project, "accuracy")
    model.metrics["test"] = {"n": 200, "correct": 190, "accuracy": 0.95, "low": 0.91, "high": 0.97}
    model.save()
    page = show(login(alice), project, "accuracy")
    assert "On the 200 test images, whose labels were known beforehand: <strong>95 %</strong> (91 % to 97 %)" in page


def test_the_labels_of_chosen_items_never_make_an_accuracy(
    login: Login, alice: User, bob: User, project: Project, items: list[Item], cat: LabelClass, model: ModelVersion,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    model.metrics["audit"] = None
    model.save()
    for item in items:
        answer(bob, item, cat)
    page = show(login(alice), project, "accuracy")
    section = page.split('id="accuracy-title"', 1)[1].split("</section>", 1)[0]
    assert not re.search(r"\d\.\d\d", section)


def test_classes_proposals_and_people_are_counted(
    login: Login, alice: User, bob: User, carol: User, project: Project, items: list[Item], dog: LabelClass,
    proposals: list[Proposal], answer: Callable[..., Any],
) -> None:  # fmt: skip
    answer(bob, items[-1], dog)
    first = proposals[0]
    reviewing.decide(project=project, reviewer=carol, accepted=[first.pk], rejected=[], corrected={})
    assert "10 proposals" in show(login(alice), project)
    page = show(login(alice), project, "work")
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


def test_the_figures_come_as_a_part(
    login: Login, alice: User, bob: User, project: Project, items: list[Item], cat: LabelClass,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    answer(bob, items[0], cat)
    headers = {"HX-Request": "true", "HX-Target": "figures"}
    part = login(alice).get(f"/projects/{project.pk}/?about=work", headers=headers)
    assert part.status_code == 200
    assert "<html" not in part.text
    assert 'id="next-title"' in part.text and 'id="people-title"' in part.text


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


@pytest.mark.parametrize(("about", "bound"), [("", 27), ("accuracy", 36), ("worth", 48), ("doubt", 33), ("work", 46)])
def test_the_number_of_queries_does_not_grow_with_the_data(
    login: Login, alice: User, project: Project, proposals: list[Proposal], answer: Callable[..., Any],
    cat: LabelClass, django_assert_max_num_queries: Any, about: str, bound: int,
) -> None:  # fmt: skip
    for proposal in proposals[:4]:
        answer(alice, proposal.item, cat, milliseconds=1500)
    client = login(alice)
    with django_assert_max_num_queries(bound):
        show(client, project, about)


# --- the four questions ---------------------------------------------------------------------------------------------


def card(page: str, question: str) -> str:
    """What the card says under its question, without tags."""
    said = page.split(f">{question}</a></h2>", 1)[1].split("</li>", 1)[0]
    return " ".join(re.sub(r"<[^>]+>", " ", said).split())


def test_each_question_has_an_answer_in_short_and_a_page_part_of_its_own(
    login: Login, alice: User, bob: User, project: Project, items: list[Item], cat: LabelClass, model: ModelVersion,
    answer: Callable[..., Any],
) -> None:  # fmt: skip
    model.metrics["sure"] = [0, 0, 0, 0, 0, 1, 0, 2, 3, 5]
    model.save()
    for item, seconds in zip(items[:3], (1, 2, 6), strict=True):
        answer(bob, item, cat, milliseconds=1000 * seconds)
    page = show(login(alice), project)
    assert card(page, "How good is it now?") == ("90 % right, 95 % interval 77 % to 96 %, on 40 random checks")
    assert card(page, "What is the model unsure about?") == "6 open images of 11 it is less than 90 % sure of"
    assert card(page, "How is the work going?") == (
        "1,200 answers an hour at the desk, 2.0 s each; 3 of 12 images answered"
    )
    for about in ("accuracy", "worth", "doubt", "work"):
        link = f'<a href="/projects/{project.pk}/?about={about}"'
        assert f"{link}>" in page
        assert f'{link} aria-current="page">' in show(login(alice), project, about)


def test_a_question_there_is_not_is_refused_by_name(login: Login, alice: User, project: Project) -> None:
    refused = login(alice).get(f"/projects/{project.pk}/?about=weather")
    assert refused.status_code == 422
    assert "is not one of accuracy, worth, doubt, work" in refused.text


def test_classes_with_too_few_checks_say_so(
    login: Login, alice: User, project: Project, model: ModelVersion, cat: LabelClass, dog: LabelClass
) -> None:
    model.metrics["audit"] |= {"recall": [[34, 37], [2, 3]], "confused": [[0, 1, 3], [1, 0, 1]]}
    model.save()
    page = show(login(alice), project, "accuracy")
    rows = re.findall(r'<tr><th scope="row" class="breaks">(\w+)</th>(.*?)</tr>', page)
    said = {name: " ".join(re.sub(r"<[^>]+>", " ", row).split()) for name, row in rows}
    # 34 of 37: Wilson 78.7 % to 97.2 %; of 37 it calls cats 34 + 1 - the dog - are meant: 34 of 35.
    assert said["cat"] == "34 of 37 92 % 79 %–97 % dog (3) 34 of 35"
    assert said["dog"] == "2 of 3 too few checks cat (1) 2 of 5"


def test_the_matrix_counts_checks_for_all_and_opens_labels_for_reviewers(
    login: Login, bob: User, carol: User, project: Project, model: ModelVersion, cat: LabelClass, dog: LabelClass
) -> None:
    model.metrics["audit"] |= {"recall": [[20, 20], [16, 20]], "confused": [[1, 0, 4]]}
    model.metrics["labels"] = {"n": 60, "confused": [[0, 1, 2]]}
    model.save()
    link = f'href="/projects/{project.pk}/confused/?label={cat.pk}&amp;said={dog.pk}"'
    page = show(login(carol), project, "accuracy")
    assert f'{link} aria-label="2 images of cat that the model takes for dog">2</a>' in page
    assert f"label={dog.pk}&amp;said={cat.pk}" not in page  # random checks: counted, and never shown
    assert '<td class="wrong shade-1">4</td>' in page
    page = show(login(bob), project, "accuracy")
    assert "/confused/" not in page and '<td class="wrong shade-5">2</td>' in page


def test_the_hour_is_read_off_the_forecast_between_its_numbers() -> None:
    ahead = [
        {"more": 100, "gain": 0.02, "gain_low": 0.0, "gain_high": 0.04},
        {"more": 500, "gain": 0.04, "gain_low": 0.0, "gain_high": 0.08},
    ]
    pace = Pace(18.0, 100, "your")  # 200 answers an hour
    found = hour({"ahead": ahead}, pace, 1000)
    assert found == Hour("hour", 200, 60, gain="2", low="0", high="5")  # a quarter of the way from 2 to 4: 2.5
    rest = hour({"ahead": ahead}, pace, 50)
    assert rest is not None and (rest.kind, rest.answers, rest.minutes, rest.gain) == ("rest", 50, 15, "1.0")
    fast = hour({"ahead": ahead}, Pace(1.8, 100, "your"), 1000)
    assert fast is not None and (fast.kind, fast.answers, fast.minutes) == ("horizon", 500, 15)
    assert hour({"ahead": ahead}, None, 1000) is None
    assert hour({}, pace, 1000) is None


def test_a_curve_does_not_run_back_to_what_was_taken_back(project: Project, cat: LabelClass) -> None:
    for number, answers in enumerate((10, 20, 47, 20, 30), start=1):
        ModelVersion.objects.create(
            project=project, number=number, encoder="pca_pixels", algorithm="label_spreading", class_ids=[cat.pk],
            label_watermark=0, label_count=answers, answer_count=answers, metrics={}, artifact_folder="",
        )  # fmt: skip
    assert [(at.model_number, at.answers) for at in queries.accuracy_curve(project)] == [(1, 10), (4, 20), (5, 30)]
