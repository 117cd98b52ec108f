"""The worker's side of every job: claim it, call what does the work, write what came of it. Orchestration only."""

import logging
from collections.abc import Callable

from celery import shared_task

from annotator import jobs
from annotator.actions import importing
from annotator.models import Job
from ml_worker import embedding, refitting

logger = logging.getLogger(__name__)

STEPS: dict[str, Callable[[jobs.Run], None]] = {
    Job.Kind.IMPORT: importing.run_import,
    Job.Kind.EMBED: embedding.run,
    Job.Kind.REFIT: refitting.run,
}


@shared_task
def run_job(job_id: int) -> None:
    """Run the job if it still waits; otherwise the bell rang twice and there is nothing to do."""
    job = jobs.claim(job_id)
    if job is None:
        return
    logger.info("job %s (%s) begins, attempt %s", job.pk, job.kind, job.attempt)
    with jobs.running(job) as run:
        STEPS[job.kind](run)


@shared_task
def tend_jobs() -> None:
    """Every few seconds: ring for what waits, pick up what went silent."""
    jobs.tend()
