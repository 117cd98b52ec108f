"""Jobs, models, and the buttons that ask for more of them."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from django.utils import timezone

from annotator import queries
from annotator.models import Job, ModelVersion, Project

Login = Callable[[User], Client]


@pytest.fixture(autouse=True)
def quiet_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.jobs.ring", lambda job_id: None)


def make_job(project: Project, state: str = "running", **columns: Any) -> Job:
    now = timezone.now()
    columns = {"kind": "refit", "attempt": 1, "heartbeat_at": now, "started_at": now} | columns
    if state in ("done", "failed", "cancelled"):
        columns.setdefault("finished_at", now)
    return Job.objects.create(project=project, state=state, **columns)


def test_an_empty_history_is_a_page(login: Login, vera: User, project: Project) -> None:
    page = login(vera).get(f"/projects/{project.pk}/training/").text
    assert "No jobs yet" in page
    assert "No model yet" in page
    assert "Refit now" not in page


def test_models_are_listed_with_the_estimate_from_random_checks(
    login: Login, vera: User, project: Project, model: ModelVersion
) -> None:
    page = login(vera).get(f"/projects/{project.pk}/training/").text
    assert "90\xa0% (77\xa0%–96\xa0%)" in page
    assert "Label spreading" in page
    assert "On test labels" not in page


@pytest.mark.parametrize(("ask", "kind"), [("refit", "refit"), ("embed", "embed")])
def test_a_reviewer_asks_for_more(login: Login, carol: User, project: Project, ask: str, kind: str) -> None:
    url = f"/projects/{project.pk}/training/"
    response = login(carol).post(url, {"ask": ask})
    assert response.status_code == 303
    login(carol).post(url, {"ask": ask})
    job = Job.objects.get(project=project)  # the second wish found the waiting one
    assert (job.kind, job.created_by) == (kind, carol)


def test_asking_is_refused_to_others_and_nonsense_to_all(
    login: Login, bob: User, carol: User, charlie: User, project: Project
) -> None:
    url = f"/projects/{project.pk}/training/"
    assert login(bob).post(url, {"ask": "refit"}).status_code == 403
    assert login(charlie).post(url, {"ask": "refit"}).status_code == 404
    assert login(charlie).get(url).status_code == 404
    assert login(carol).post(url, {"ask": "moon"}).status_code == 422
    assert login(carol).put(url).status_code == 405
    assert not Job.objects.exists()


def test_the_list_polls_until_nothing_runs(login: Login, vera: User, project: Project) -> None:
    job = make_job(project, progress=0.25, message="halving the doubts")
    client, url = login(vera), f"/projects/{project.pk}/training/"
    assert 'hx-trigger="every 2s"' in client.get(url).text
    headers = {"HX-Request": "true", "HX-Target": "jobs"}
    assert client.get(url, headers=headers).status_code == 200
    Job.objects.filter(pk=job.pk).update(state="failed", error="out of <memory>", finished_at=timezone.now())
    part = client.get(url, headers=headers)
    assert part.status_code == 286
    assert "out of &lt;memory&gt;" in part.text


def test_the_models_come_as_a_part(login: Login, vera: User, project: Project, model: ModelVersion) -> None:
    headers = {"HX-Request": "true", "HX-Target": "models"}
    part = login(vera).get(f"/projects/{project.pk}/training/", headers=headers)
    assert part.status_code == 200
    assert "<html" not in part.text
    assert "Label spreading" in part.text


def trained(project: Project, state: str = "done", **result: Any) -> Job:
    """A training that was compared with two heads."""
    report = {"n": 40, "correct": 36, "accuracy": 0.9, "low": 0.77, "high": 0.96}
    result = {
        "trainer": "simmatch",
        "chosen": "SimMatch, as asked for.",
        "seconds": 120.0,
        "history": [{"step": n, "seconds": 20.0 * n, "loss": 1 / n, "audit_accuracy": 0.5 + n / 20} for n in (1, 4)],
    } | result
    if state == "done":
        result |= {"promoted": False, "why": "it is right on 36 of 40 random checks, the model before on 38"}
        result |= {"stopped": "the time is over", "audit": report}
        result["beside"] = {"label_spreading": report | {"correct": 38}, "logistic_regression": report}
    return make_job(project, state, kind="train", parameters={"trainer": "auto", "minutes": 2}, result=result)


def test_a_training_that_was_cancelled_hides_nothing_that_an_earlier_one_found_out(project: Project) -> None:
    done = trained(project)
    make_job(project, "cancelled", kind="train")
    assert queries.newest_training(project) == done


def test_a_training_is_asked_for_with_trainer_and_minutes(
    login: Login, carol: User, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"/projects/{project.pk}/training/"
    page = login(carol).get(url).text
    assert 'value="train" disabled' in page
    assert "Not yet: there are no images yet; import some, then train." in page
    assert login(carol).post(url, {"ask": "train"}).status_code == 409
    monkeypatch.setattr("annotator.queries.missing_for_training", lambda project: "")
    page = login(carol).get(url).text
    assert 'value="train" disabled' not in page
    assert '<option value="auto" selected>' in page
    for minutes, sentence in (("soon", "not a number of minutes"), ("0", "not between"), ("inf", "not between")):
        refused = login(carol).post(url, {"ask": "train", "trainer": "fixmatch", "minutes": minutes})
        assert refused.status_code == 422
        assert sentence in refused.text
        assert '<option value="fixmatch" selected>' in refused.text
        assert f'value="{minutes}"' in refused.text
    assert login(carol).post(url, {"ask": "train", "trainer": "fixmatch", "minutes": "2.5"}).status_code == 303
    assert Job.objects.get(kind="train").parameters == {"trainer": "fixmatch", "minutes": 2.5}


def test_a_running_training_is_drawn_until_it_is_over(login: Login, carol: User, vera: User, project: Project) -> None:
    job = trained(project, "running")
    Job.objects.filter(pk=job.pk).update(message="step 80, 60 s left")
    client, url = login(carol), f"/projects/{project.pk}/training/"
    headers = {"HX-Request": "true", "HX-Target": "network"}
    part = client.get(url, headers=headers)
    assert part.status_code == 200
    for shown in ("SimMatch", "60 s left", "70\xa0% after 1.3 minutes", 'class="trend"', f"/jobs/{job.pk}/cancel/"):
        assert shown in part.text
    assert 'name="trainer"' not in part.text, "one at a time"
    assert "/cancel/" not in login(vera).get(url, headers=headers).text
    Job.objects.filter(pk=job.pk).update(state="cancelled", finished_at=timezone.now())
    part = login(carol).get(url, headers=headers)
    assert part.status_code == 286
    assert 'name="trainer"' in part.text


def test_what_came_of_a_training_stands_beside_the_plain_baseline(login: Login, vera: User, project: Project) -> None:
    job = trained(project)
    for url in (f"/projects/{project.pk}/training/", f"/projects/{project.pk}/jobs/{job.pk}/"):
        page = login(vera).get(url).text
        for shown in (
            "It does not take over:",
            "it is right on 36 of 40 random checks, the model before on 38",
            "This network: SimMatch",
            "Logistic regression, the plain baseline",
            "90\xa0% (77\xa0%–96\xa0%)",
            "SimMatch, as asked for. It stopped because the time is over.",
        ):
            assert shown in page


def test_a_model_of_a_trainer_is_named_after_it(
    login: Login, vera: User, project: Project, model: ModelVersion
) -> None:
    ModelVersion.objects.filter(pk=model.pk).update(algorithm="freematch", encoder="trained")
    page = login(vera).get(f"/projects/{project.pk}/training/").text
    assert "FreeMatch" in page
    assert "The trained network" in page


def test_the_preview_is_served_with_what_it_was_drawn_for(
    login: Login, vera: User, charlie: User, project: Project
) -> None:
    url = f"/projects/{project.pk}/training/preview/"
    assert login(vera).get(url).status_code == 404
    key = default_storage.save("previews/sheet.png", ContentFile(b"png"))
    switches = queries.augmentation_switches(project)
    make_job(project, "done", result={"preview": {"key": key, "sha256": "abc", "switches": switches}})
    served = login(vera).get(url)
    assert b"".join(served) == b"png"
    assert (served["Content-Type"], served["Cache-Control"]) == ("image/png", "private, no-cache")
    assert login(vera).get(url, headers={"If-None-Match": served["ETag"]}).status_code == 304
    assert login(charlie).get(url).status_code == 404
    page = login(vera).get(f"/projects/{project.pk}/training/").text
    assert url in page
    assert "The settings changed since" not in page
    project.settings_json = {"augment_mirror": False}
    project.save()
    assert "The settings changed since" in login(vera).get(f"/projects/{project.pk}/training/").text


def test_a_job_shows_its_progress_and_the_end_of_its_log(
    login: Login, carol: User, vera: User, project: Project
) -> None:
    job = make_job(
        project,
        progress=0.5,
        message="learning",
        log_tail="12:00:00 <b>began</b>",
        result={"refused_count": 1200, "watermark": 77123},
    )
    url = f"/projects/{project.pk}/jobs/{job.pk}/"
    page = login(vera).get(url).text
    for shown in ("Learning", 'value="0.500"', "&lt;b&gt;began&lt;/b&gt;", "1,200", 'hx-trigger="every 2s"'):
        assert shown in page
    assert "77,123" not in page, "what jobs note for themselves"
    assert "/cancel/" not in page
    assert "/cancel/" in login(carol).get(url).text


def test_the_job_polls_until_it_is_over(login: Login, vera: User, project: Project) -> None:
    job = make_job(project)
    client, url = login(vera), f"/projects/{project.pk}/jobs/{job.pk}/"
    headers = {"HX-Request": "true", "HX-Target": "job"}
    assert client.get(url, headers=headers).status_code == 200
    Job.objects.filter(pk=job.pk).update(state="done", progress=1.0, finished_at=timezone.now())
    part = client.get(url, headers=headers)
    assert part.status_code == 286
    assert "<html" not in part.text
    assert 'hx-trigger="every 2s"' not in client.get(url).text


def test_a_running_job_is_asked_to_stop_and_a_waiting_one_is_taken_off(
    login: Login, carol: User, project: Project
) -> None:
    running = make_job(project)
    waiting = Job.objects.create(project=project, kind="embed")
    for job in (running, waiting):
        response = login(carol).post(f"/projects/{project.pk}/jobs/{job.pk}/cancel/")
        assert response.status_code == 303
        job.refresh_from_db()
    assert (running.state, running.cancel_requested) == ("running", True)
    assert waiting.state == "cancelled"
    assert "Stops at its next step" in login(carol).get(f"/projects/{project.pk}/jobs/{running.pk}/").text


def test_cancelling_what_is_over_says_so(login: Login, carol: User, project: Project) -> None:
    job = make_job(project, "done")
    page = login(carol).post(f"/projects/{project.pk}/jobs/{job.pk}/cancel/", follow=True)
    assert "already over" in page.text
    job.refresh_from_db()
    assert job.state == "done"


def test_who_may_cancel(login: Login, alice: User, bob: User, charlie: User, project: Project) -> None:
    job = make_job(project)
    url = f"/projects/{project.pk}/jobs/{job.pk}/cancel/"
    assert login(bob).post(url).status_code == 403
    assert login(charlie).post(url).status_code == 404
    assert login(alice).get(url).status_code == 405
    assert login(alice).get(f"/projects/{project.pk}/jobs/{job.pk + 1}/").status_code == 404
    job.refresh_from_db()
    assert not job.cancel_requested
