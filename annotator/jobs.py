"""Long work: asking for it, running it, and picking it up again when a process died.

The web never imports the worker: it sends a task by name after the commit. ``JOBS_INLINE`` calls it in this process
instead; that ``if`` is the only place where the two halves meet. (Celery's always-eager setting does not act on
sending by name.)
"""

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, F, OuterRef
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from annotator.errors import Conflict, JobCancelled, JobLost, WinnowError
from annotator.models import Job, Project

logger = logging.getLogger(__name__)

RUN_JOB = "ml_worker.tasks.run_job"
# A job is given up when it was interrupted this often in a row without getting further than before. A restart of the
# machine is no fault of the job's; one that dies at the same place each time is.
MAX_ATTEMPTS = 3
FURTHER = 0.01
INTERRUPTED = "interrupted"  # the parameter in which ``tend`` keeps the count
LOG_TAIL_LINES = 40
# Any number, the same in every process: the advisory lock a living worker holds.
WORKER_SIGN = 0x77696E6E


def call(dotted_path: str, *args: Any, **kwargs: Any) -> Any:
    """Import the function of this name, call it here and return its answer."""
    return import_string(dotted_path)(*args, **kwargs)


def enqueue(
    project: Project,
    kind: str,
    *,
    parameters: dict[str, Any] | None = None,
    created_by: User | None = None,
    seed: int = 0,
) -> Job:
    """A waiting job, rung for after the commit; for coalesced kinds the one already waiting, if there is one."""
    while True:
        job = Job(project=project, kind=kind, parameters=parameters or {}, created_by=created_by, seed=seed)
        if kind not in Job.COALESCED:
            job.save()
        else:
            # ON CONFLICT DO NOTHING: waiting work is asked for all the time, and each refusal would be an ERROR in
            # PostgreSQL's log. It answers no id.
            Job.objects.bulk_create([job], ignore_conflicts=True)
            waiting = Job.objects.filter(project=project, kind=kind, state=Job.State.QUEUED).first()
            if waiting is None:  # it was claimed between the two statements
                continue
            if waiting.created_at != job.created_at:  # somebody else's
                return waiting
            job = waiting
        transaction.on_commit(partial(ring, job.pk))
        return job


def ring(job_id: int, task: str = RUN_JOB) -> None:
    """Tell a worker to look at this job. Losing the message costs seconds: who needs it rings again."""
    if settings.JOBS_INLINE:
        call(task, job_id)
        return
    from celery import current_app

    try:
        current_app.send_task(task, args=[job_id], expires=60, retry=False)
    except Exception:  # a broker that is down must not lose the request: the row is written, the bell rings later
        logger.exception("could not ring for job %s; it will be rung for again", job_id)


def claim(job_id: int) -> Job | None:
    """The job, now running under a new attempt, or None when it is not waiting or its kind already runs there."""
    now = timezone.now()
    running = Job.objects.filter(project=OuterRef("project"), kind=OuterRef("kind"), state=Job.State.RUNNING)
    is_free = ~Exists(running.filter(kind__in=Job.COALESCED))
    try:
        with transaction.atomic():
            claimed = Job.objects.filter(is_free, pk=job_id, state=Job.State.QUEUED).update(
                state=Job.State.RUNNING,
                attempt=F("attempt") + 1,
                heartbeat_at=now,
                started_at=Coalesce("started_at", now),
            )
    except IntegrityError:  # one of this kind began in this moment; it rings for the waiting one when it ends
        return None
    return Job.objects.select_related("project", "created_by").get(pk=job_id) if claimed else None


def cancel(job: Job) -> None:
    """Ask a running job to stop, or take a waiting one off the list. Raises Conflict when it is already over."""
    now = timezone.now()
    if Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(
        state=Job.State.CANCELLED, cancel_requested=True, finished_at=now, message="cancelled before it began"
    ):
        return
    if not Job.objects.filter(pk=job.pk, state=Job.State.RUNNING).update(cancel_requested=True):
        raise Conflict(_("job %(job)s is already over; nothing to cancel") % {"job": job.pk})


# Before so much is done, or so much time has gone, what is left is anybody's guess.
TELLING_SHARE, TELLING_S = 0.03, 5.0


def seconds_left(job: Job) -> float | None:
    """About how long a running job still takes, if it goes on as it went; None while that cannot be known.

    It cannot before it has got somewhere, once it was asked to stop, nor after it was interrupted: part of the time
    since its start it did not run, and how much nobody wrote down. No query.
    """
    if job.state != Job.State.RUNNING or job.cancel_requested or job.attempt > 1 or job.started_at is None:
        return None
    elapsed = (timezone.now() - job.started_at).total_seconds()
    if job.progress < TELLING_SHARE or elapsed < TELLING_S:
        return None
    return elapsed * (1.0 - job.progress) / job.progress


class Run:
    """One attempt at a job: the handle its code reports through. Every report is also the question "still mine?"."""

    REPORT_EVERY_S = 0.5

    def __init__(self, job: Job) -> None:
        self.job = job
        self._lines: list[str] = job.log_tail.splitlines()
        self._reported_at = 0.0
        self._said_at = 0.0

    def report(self, progress: float, message: str = "", *, force: bool = False) -> None:
        """Store progress 0..1 and what is being done, at most twice a second.

        Raises JobCancelled after somebody pressed cancel, JobLost when another attempt has taken over.
        """
        if not force and time.monotonic() - self._reported_at < self.REPORT_EVERY_S:
            return
        self._reported_at, self._said_at = time.monotonic(), progress
        self._update(progress=min(1.0, max(0.0, progress)), message=message[:300], heartbeat_at=timezone.now())
        if Job.objects.filter(pk=self.job.pk, cancel_requested=True).exists():
            raise JobCancelled(f"job {self.job.pk} was cancelled")

    def log(self, line: str) -> None:
        """Add a line to the tail people see on the page."""
        stamp = timezone.now().strftime("%H:%M:%S")
        self._lines = [*self._lines, f"{stamp} {line}"][-LOG_TAIL_LINES:]
        self._update(log_tail="\n".join(self._lines))

    def remember(self, **result: Any) -> None:
        """Add to the job's result, where it outlives this attempt."""
        self.job.result = {**self.job.result, **result}
        self._update(result=self.job.result)

    @property
    def last_words(self) -> dict[str, str]:
        """The message of a job that is done: its last one if that was said of the whole, else none. What it was doing
        on the way, and how long that would still take, is not true any more."""
        return {} if self._said_at >= 1.0 else {"message": ""}

    def beat(self) -> None:
        """Say that this attempt lives."""
        self._update(heartbeat_at=timezone.now())

    def end(self, state: str, **columns: Any) -> None:
        """Close the job and ring for the one that waited behind it."""
        self._update(state=state, finished_at=timezone.now(), **columns)
        waiting = Job.objects.filter(project=self.job.project_id, kind=self.job.kind, state=Job.State.QUEUED)
        for job_id in waiting.values_list("pk", flat=True)[:1]:
            ring(job_id)

    def _update(self, **columns: Any) -> None:
        mine = Job.objects.filter(pk=self.job.pk, state=Job.State.RUNNING, attempt=self.job.attempt)
        if not mine.update(**columns):
            raise JobLost(f"job {self.job.pk}: attempt {self.job.attempt} is no longer the current one")


@contextlib.contextmanager
def running(job: Job) -> Iterator[Run]:
    """The boundary of a claimed job: keeps its heartbeat and writes how it ended.

    Cancelled and refused work ends quietly with its sentence in the row; anything unexpected is written there too
    and raised again.
    """
    run = Run(job)
    try:
        with beating(run.beat, f"job {job.pk}"):
            yield run
        run.end(Job.State.DONE, progress=1.0, **run.last_words)
    except JobCancelled:
        run.end(Job.State.CANCELLED, message="cancelled")
    except JobLost:
        logger.warning("job %s was taken over or removed; this attempt stops", job.pk)
    except WinnowError as error:
        run.end(Job.State.FAILED, error=error.message)
    except Exception as error:
        with contextlib.suppress(JobLost):
            run.log(traceback.format_exc().strip().splitlines()[-1])
            run.end(Job.State.FAILED, error=f"{type(error).__name__}: {error}")
        raise


@contextlib.contextmanager
def beating(beat: Callable[[], None], what: str) -> Iterator[None]:
    """Calls `beat` from a thread of its own until it raises JobLost: a long matrix product reports nothing."""
    if settings.JOBS_INLINE:
        yield
        return
    over = threading.Event()

    def keep_beating() -> None:
        while not over.wait(settings.JOB_HEARTBEAT_S):
            try:
                beat()
            except JobLost:
                break
            except Exception:
                logger.exception("heartbeat of %s failed; trying again", what)
                connection.close()
        connection.close()

    thread = threading.Thread(target=keep_beating, name=f"heartbeat of {what}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)


def tend() -> None:
    """Ring again for waiting jobs and pick up those whose run went silent. Called every few seconds by beat."""
    now = timezone.now()
    for job in Job.objects.filter(
        state=Job.State.RUNNING, heartbeat_at__lt=now - timedelta(seconds=settings.JOB_STALE_S)
    ):
        _pick_up(job)
    waiting = Job.objects.filter(state=Job.State.QUEUED, created_at__lt=now - timedelta(seconds=2))
    for job_id in waiting.order_by("id").values_list("pk", flat=True)[:20]:
        ring(job_id)


def _pick_up(job: Job) -> None:
    """Queue a silent job again, or give it up after MAX_ATTEMPTS; names the old state so that two tenders agree."""
    silent = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, attempt=job.attempt, heartbeat_at=job.heartbeat_at)
    before = job.parameters.get(INTERRUPTED, {"progress": 0.0, "in_vain": 0})
    has_grown = job.progress >= before["progress"] + FURTHER
    in_vain = 0 if has_grown else before["in_vain"] + 1
    if job.cancel_requested:
        silent.update(state=Job.State.CANCELLED, finished_at=timezone.now(), message="cancelled")
    elif in_vain >= MAX_ATTEMPTS:
        silent.update(
            state=Job.State.FAILED,
            finished_at=timezone.now(),
            error=f"the worker stopped {in_vain} times at the same place of this job; it may be out of memory",
        )
    else:
        furthest = max(job.progress, before["progress"])
        counted = job.parameters | {INTERRUPTED: {"progress": furthest, "in_vain": in_vain}}
        try:
            with transaction.atomic():
                silent.update(
                    state=Job.State.QUEUED,
                    message="the worker stopped; starting again where it was",
                    parameters=counted,
                )
        except IntegrityError:  # a newer one of this coalesced kind already waits and will do the same work
            silent.update(
                state=Job.State.CANCELLED,
                finished_at=timezone.now(),
                message="the worker stopped; a newer job follows",
            )


def announce_worker() -> threading.Thread:
    """Hold the sign "a worker lives" for as long as this process does.

    A shared advisory lock on a connection of its own: it disappears with the process, however that ends.
    """

    def hold() -> None:
        held = False
        while True:
            try:
                with connection.cursor() as cursor:
                    if not held or connection.connection is None:
                        cursor.execute("SELECT pg_advisory_lock_shared(%s)", [WORKER_SIGN])
                        held = True
                    cursor.execute("SELECT 1")
            except Exception:
                logger.warning("lost the database connection that says this worker lives; reconnecting")
                held = False
                connection.close()
            time.sleep(5)

    thread = threading.Thread(target=hold, name="worker-sign", daemon=True)
    thread.start()
    return thread


def workers_alive() -> int:
    """How many worker processes are connected to this database right now. One query."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = %s AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [WORKER_SIGN],
        )
        return int(cursor.fetchone()[0])
