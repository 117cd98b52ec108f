"""The worker's side of every job: claim it, call what does the work, write what came of it. Orchestration only."""

import logging
import threading
from collections.abc import Callable

from celery import shared_task

from annotator import jobs
from annotator.actions import importing
from annotator.models import Job
from ml_worker import (
    backtesting,
    comparing,
    embedding,
    grouping,
    mapping,
    refitting,
    sharding,
    studying,
    take_home,
    training,
)

logger = logging.getLogger(__name__)

# One network at a time: the other threads of a worker are for people who wait.
_training = threading.Lock()

STEPS: dict[str, Callable[[jobs.Run], None]] = {
    Job.Kind.IMPORT: importing.run_import,
    Job.Kind.EMBED: embedding.run,
    Job.Kind.REFIT: refitting.run,
    Job.Kind.TRAIN: training.run,
    Job.Kind.COMPARE: comparing.run,
    Job.Kind.STUDY: studying.run,
    Job.Kind.BACK_TEST: backtesting.run,
    Job.Kind.EXPORT: take_home.run,
    Job.Kind.MAP: mapping.run,
    Job.Kind.GROUP: grouping.run,
}


@shared_task
def run_job(job_id: int) -> None:
    """Run the job if it still waits; otherwise the bell rang twice and there is nothing to do."""
    is_training = Job.objects.filter(pk=job_id, kind=Job.Kind.TRAIN).exists()
    if is_training and not _training.acquire(blocking=False):
        return  # rung for again when this one is over, and every few seconds
    try:
        job = jobs.claim(job_id)
        if job is None:
            return
        logger.info("job %s (%s) begins, attempt %s", job.pk, job.kind, job.attempt)
        with jobs.running(job) as run:
            STEPS[job.kind](run)
        if is_training:  # only now is it what the project goes by
            training.follow_up(job.project)
    finally:
        if is_training:
            _training.release()


@shared_task
def score_shards(job_id: int) -> None:
    """Help a job of another worker to score its images; if there is nothing to help with, that is all right."""
    sharding.assist(job_id)


@shared_task
def tend_jobs() -> None:
    """Every few seconds: ring for what waits, pick up what went silent."""
    jobs.tend()
