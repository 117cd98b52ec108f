"""How far a job is and about how long it still takes; and what its page says of it, in words."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator import jobs
from annotator.models import Job, Project
from annotator.templatetags.jobs import time_left
from annotator.views.job_facts import ASKED, CAME_OF_IT, facts

Login = Callable[[User], Client]
pytestmark = pytest.mark.django_db


def running(project: Project, *, progress: float, after_s: float, **columns: Any) -> Job:
    """A job that began so long ago and is so far."""
    now = timezone.now()
    row = {"kind": Job.Kind.BACK_TEST, "state": Job.State.RUNNING, "attempt": 1, "heartbeat_at": now}
    return Job(project=project, progress=progress, started_at=now - timedelta(seconds=after_s), **(row | columns))


@pytest.mark.parametrize(
    ("progress", "after_s", "said"),
    [
        (0.5, 30, "less than a minute left"),
        (0.5, 60, "about 1 minute left"),
        (0.25, 60, "about 3 minutes left"),  # a quarter took a minute
        (0.1, 1200, "about 3 hours left"),
        (0.02, 600, ""),  # it has not got anywhere yet
        (0.5, 4, ""),  # it has only just begun
        (0.0, 9999, ""),
    ],
)
def test_what_is_left_is_told_from_what_is_done(project: Project, progress: float, after_s: float, said: str) -> None:
    assert time_left(running(project, progress=progress, after_s=after_s)) == said


@pytest.mark.parametrize(
    "columns",
    [
        {"attempt": 2},
        {"state": "queued"},
        {"state": "done"},
        {"cancel_requested": True},
        {"message": "step 5, 0:40 left"},
    ],
)
def test_nothing_is_said_that_cannot_be_known_or_is_said_already(project: Project, columns: dict[str, Any]) -> None:
    assert time_left(running(project, progress=0.5, after_s=60, **columns)) == ""


def test_the_page_of_a_running_job_says_it_and_offers_to_cancel(login: Login, project: Project, carol: User) -> None:
    job = running(project, progress=0.25, after_s=60, message="6 of 25 runs done")
    job.save()
    page = login(carol).get(reverse("job", args=[project.pk, job.pk])).content.decode()
    assert "6 of 25 runs done" in page and "about 3 minutes left" in page
    assert reverse("job-cancel", args=[project.pk, job.pk]) in page


def test_a_job_that_is_done_does_not_repeat_what_it_was_doing(login: Login, project: Project, vera: User) -> None:
    job = Job.objects.create(project=project, kind=Job.Kind.BACK_TEST)
    with jobs.running(claimed(job)) as run:
        run.report(0.96, "24 of 25 runs done, 0:03 left", force=True)
    job.refresh_from_db()
    assert (job.state, job.progress, job.message) == ("done", 1.0, "")
    assert "left" not in login(vera).get(reverse("job", args=[project.pk, job.pk])).content.decode()


def test_what_a_job_says_of_the_whole_stays(project: Project) -> None:
    job = Job.objects.create(project=project, kind=Job.Kind.EMBED)
    with jobs.running(claimed(job)) as run:
        run.report(1.0, "embedded 1,797 images", force=True)
    job.refresh_from_db()
    assert job.message == "embedded 1,797 images"


def test_a_failed_job_says_where_it_was(project: Project) -> None:
    job = Job.objects.create(project=project, kind=Job.Kind.EMBED)
    with pytest.raises(ZeroDivisionError), jobs.running(claimed(job)) as run:
        run.report(0.4, "embedded 700 of 1,797 images", force=True)
        raise ZeroDivisionError
    job.refresh_from_db()
    assert (job.state, job.message) == ("failed", "embedded 700 of 1,797 images")


def claimed(job: Job) -> Job:
    found = jobs.claim(job.pk)
    assert found is not None
    return found


def test_the_facts_are_words(login: Login, project: Project, vera: User) -> None:
    job = Job.objects.create(
        project=project,
        kind=Job.Kind.BACK_TEST,
        state=Job.State.DONE,
        parameters={
            "source": "answers", "acquisition": ["margin", "random_sampling"], "head": ["label_spreading"],
            "target_precision": [0.99, 0.95], "confidence": 0.95, "threshold_per_class": False, "budget": 1000,
            "seeds": 3, "interrupted": {"progress": 0.1, "in_vain": 0},
        },
        result={"summary": {"a": 1}, "folder": "/secret/place"},
    )  # fmt: skip
    told = dict(facts(job))
    assert told["Run on"] == "the answers of this project"
    assert told["Precision promised"] == "99\xa0%, 95\xa0%"
    assert told["A threshold for each class"] == "no"
    assert told["Answers per run"] == "1,000"
    assert "margin" not in told["Orders of questions"]  # its title, not its name
    page = login(vera).get(reverse("job", args=[project.pk, job.pk])).content.decode()
    for raw in ("target precision", "target_precision", "entries", "/secret/place", "in_vain", "interrupted"):
        assert raw not in page


def test_the_facts_of_an_import_leave_out_what_there_was_none_of(project: Project) -> None:
    asked = {"labels": "from-folders", "uploads": [{"name": "a.zip", "key": "x"}, {"name": "b.zip", "key": "y"}]}
    result = {"files": 3, "imported": 3, "duplicates": 0, "refused_count": 0, "ignored_count": 0, "refused": []}
    job = Job(project=project, kind=Job.Kind.IMPORT, parameters=asked, result=result)
    assert dict(facts(job)) == {
        "Files": "a.zip and 1 more",
        "Labels": "from folders",
        "Files read": "3",
        "Imported": "3",
        "Already there": "0",
        "Refused": "0",
    }


def test_a_path_on_the_server_is_told_by_its_name_alone(project: Project) -> None:
    job = Job(project=project, kind=Job.Kind.IMPORT, parameters={"labels": "none", "path": "/home/who/photos"})
    assert dict(facts(job))["From"] == "photos"


def test_a_grouping_says_what_it_groups(project: Project, cat: Any) -> None:
    job = Job(project=project, kind=Job.Kind.GROUP, parameters={"of": f"class:{cat.pk}"}, result={"groups": 4})
    assert dict(facts(job)) == {"Grouped": "images of the class cat", "Groups": "4"}


def test_no_title_is_a_raw_key() -> None:
    for title, _says in [*ASKED.values(), *CAME_OF_IT.values()]:
        assert str(title)[0].isupper() and "_" not in str(title)
