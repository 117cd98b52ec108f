"""Jobs: asked for once, claimed once, owned by one attempt, picked up when their run went silent."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from annotator import jobs
from annotator.errors import Conflict, InvalidImport, JobCancelled, JobLost
from annotator.models import Job, Project
from tests.running_site import wait_until


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The jobs that were rung for, in order."""
    heard: list[int] = []
    monkeypatch.setattr(jobs, "ring", heard.append)
    return heard


@pytest.fixture
def refit(project: Project) -> Job:
    return jobs.enqueue(project, Job.Kind.REFIT)


def claimed(job: Job) -> Job:
    found = jobs.claim(job.pk)
    assert found is not None
    return found


def silence(job: Job) -> None:
    """Make the job's heartbeat older than anybody waits."""
    long_ago = timezone.now() - timedelta(seconds=django_settings.JOB_STALE_S + 1)
    Job.objects.filter(pk=job.pk).update(heartbeat_at=long_ago)


# --- asking ------------------------------------------------------------------------------------------------


def test_a_refit_asked_for_twice_waits_once(project: Project, refit: Job) -> None:
    assert jobs.enqueue(project, Job.Kind.REFIT) == refit
    assert Job.objects.count() == 1


def test_a_refit_asked_for_while_one_runs_waits_behind_it(project: Project, refit: Job) -> None:
    claimed(refit)
    second = jobs.enqueue(project, Job.Kind.REFIT)
    assert second != refit
    assert jobs.claim(second.pk) is None, "two refits of one project must not run side by side"


def test_waiting_work_asked_for_or_rung_for_again_is_no_error_in_the_log_of_the_database(project: Project) -> None:
    failed: list[Exception] = []

    def watch(execute: Any, *statement: Any) -> Any:
        try:
            return execute(*statement)
        except Exception as error:
            failed.append(error)
            raise

    with connection.execute_wrapper(watch):
        first, again = jobs.enqueue(project, Job.Kind.REFIT), jobs.enqueue(project, Job.Kind.REFIT)
        assert first == again
        claimed(first)
        waiting = jobs.enqueue(project, Job.Kind.REFIT)
        assert jobs.claim(waiting.pk) is None
    assert failed == []


def test_imports_run_side_by_side(project: Project) -> None:
    for job in [jobs.enqueue(project, Job.Kind.IMPORT) for _ in range(2)]:
        claimed(job)


def test_imports_are_never_merged(project: Project) -> None:
    first, second = (jobs.enqueue(project, Job.Kind.IMPORT, parameters={"n": n}) for n in (1, 2))
    assert first != second


def test_the_bell_rings_after_the_commit(
    project: Project, rung: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        job = jobs.enqueue(project, Job.Kind.REFIT)
        assert rung == []
    assert rung == [job.pk]


def test_a_broker_that_is_down_does_not_lose_the_request(
    refit: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from celery import current_app

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(current_app, "send_task", refuse)
    jobs.ring(refit.pk)
    assert "will be rung for again" in caplog.text
    refit.refresh_from_db()
    assert refit.state == Job.State.QUEUED


# --- running -----------------------------------------------------------------------------------------------


def test_a_job_is_claimed_once(refit: Job) -> None:
    assert claimed(refit).attempt == 1
    assert jobs.claim(refit.pk) is None


def test_a_run_reports_and_ends_done(refit: Job) -> None:
    job = claimed(refit)
    with jobs.running(job) as run:
        run.report(0.5, "half way", force=True)
        job.refresh_from_db()
        assert (job.progress, job.message) == (0.5, "half way")
        run.log("a line")
    job.refresh_from_db()
    assert (job.state, job.progress) == (Job.State.DONE, 1.0)
    assert "a line" in job.log_tail
    assert job.finished_at is not None


def test_refused_work_ends_with_its_sentence(refit: Job) -> None:
    job = claimed(refit)
    with jobs.running(job):
        raise InvalidImport("there are no images")
    job.refresh_from_db()
    assert (job.state, job.error) == (Job.State.FAILED, "there are no images")


def test_a_crash_is_written_down_and_raised_again(refit: Job) -> None:
    job = claimed(refit)
    with pytest.raises(ZeroDivisionError), jobs.running(job):
        _ = 1 / 0
    job.refresh_from_db()
    assert (job.state, job.error) == (Job.State.FAILED, "ZeroDivisionError: division by zero")


def test_the_end_of_a_run_rings_for_the_one_behind_it(project: Project, refit: Job, rung: list[int]) -> None:
    job = claimed(refit)
    behind = jobs.enqueue(project, Job.Kind.REFIT)
    with jobs.running(job):
        pass
    assert behind.pk in rung


def test_the_log_keeps_its_last_lines(refit: Job) -> None:
    run = jobs.Run(claimed(refit))
    for number in range(jobs.LOG_TAIL_LINES + 5):
        run.log(f"line {number}")
    refit.refresh_from_db()
    lines = refit.log_tail.splitlines()
    assert len(lines) == jobs.LOG_TAIL_LINES
    assert lines[-1].endswith(f"line {jobs.LOG_TAIL_LINES + 4}")


# --- cancelling --------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(refit: Job) -> None:
    jobs.cancel(refit)
    refit.refresh_from_db()
    assert refit.state == Job.State.CANCELLED
    assert jobs.claim(refit.pk) is None


def test_a_running_job_stops_at_its_next_report(refit: Job) -> None:
    job = claimed(refit)
    with jobs.running(job) as run:
        jobs.cancel(job)
        with pytest.raises(JobCancelled):
            run.report(0.1, force=True)
        run.report(0.1, force=True)
    job.refresh_from_db()
    assert job.state == Job.State.CANCELLED


def test_what_is_over_cannot_be_cancelled(refit: Job) -> None:
    with jobs.running(claimed(refit)):
        pass
    with pytest.raises(Conflict, match="already over"):
        jobs.cancel(refit)


# --- picking up --------------------------------------------------------------------------------------------


def test_a_silent_job_waits_again_and_its_old_run_is_shut_out(refit: Job, rung: list[int]) -> None:
    old = jobs.Run(claimed(refit))
    silence(refit)
    jobs.tend()
    refit.refresh_from_db()
    assert refit.state == Job.State.QUEUED
    assert claimed(refit).attempt == 2
    with pytest.raises(JobLost):
        old.report(0.9, force=True)
    with pytest.raises(JobLost):
        old.end(Job.State.DONE)


def test_a_job_that_kills_its_worker_is_given_up_with_a_reason(refit: Job) -> None:
    for _ in range(jobs.MAX_ATTEMPTS):
        claimed(refit)
        silence(refit)
        jobs.tend()
    refit.refresh_from_db()
    assert refit.state == Job.State.FAILED
    assert "stopped 3 times" in refit.error


def test_a_job_that_gets_further_each_time_is_not_given_up(refit: Job) -> None:
    for number in range(1, 3 * jobs.MAX_ATTEMPTS):
        jobs.Run(claimed(refit)).report(number / 20, force=True)
        silence(refit)
        jobs.tend()
        refit.refresh_from_db()
        assert refit.state == Job.State.QUEUED
    # From here on it gets no further: it starts at the beginning again, and stops where it was, or before.
    for progress in (0.4, 0.402, 0.1):
        jobs.Run(claimed(refit)).report(0.0, force=True)
        jobs.Run(Job.objects.get(pk=refit.pk)).report(progress, force=True)
        silence(refit)
        jobs.tend()
    refit.refresh_from_db()
    assert refit.state == Job.State.FAILED and "stopped 3 times" in refit.error


def test_a_silent_job_that_was_cancelled_stays_cancelled(refit: Job) -> None:
    jobs.cancel(claimed(refit))
    silence(refit)
    jobs.tend()
    refit.refresh_from_db()
    assert refit.state == Job.State.CANCELLED


def test_a_silent_refit_gives_way_to_the_one_behind_it(project: Project, refit: Job) -> None:
    claimed(refit)
    behind = jobs.enqueue(project, Job.Kind.REFIT)
    silence(refit)
    jobs.tend()
    refit.refresh_from_db()
    assert refit.state == Job.State.CANCELLED
    assert claimed(behind).attempt == 1


def test_a_job_that_beats_is_left_alone(refit: Job) -> None:
    job = claimed(refit)
    jobs.tend()
    job.refresh_from_db()
    assert job.state == Job.State.RUNNING


def test_a_lost_message_is_sent_again(refit: Job, rung: list[int]) -> None:
    jobs.tend()
    assert rung == [], "its own message may still be on the way"
    Job.objects.filter(pk=refit.pk).update(created_at=timezone.now() - timedelta(seconds=5))
    jobs.tend()
    assert rung == [refit.pk]


# --- workers -----------------------------------------------------------------------------------------------


def test_a_worker_counts_while_its_process_is_connected(db: None) -> None:
    before = jobs.workers_alive()
    parameters = connection.get_connection_params()
    known = {name: parameters[name] for name in ("dbname", "user", "host", "port", "password") if name in parameters}
    with psycopg.connect(**known) as worker:
        worker.execute("SELECT pg_advisory_lock_shared(%s)", [jobs.WORKER_SIGN])
        assert jobs.workers_alive() == before + 1
    wait_until(lambda: jobs.workers_alive() == before, 10, "the server noticed that the connection is gone")
