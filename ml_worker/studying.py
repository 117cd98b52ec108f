"""The study job: what the answers tell about themselves, and what takes too long while somebody waits for an image.

It follows a refit, once the answers have grown by so much, and runs beside the next ones.
"""

from collections.abc import Callable
from typing import Any

from annotator import jobs, queries
from annotator.models import Job, Project
from ml_worker import doubting, forecasting, snapshot, suspecting
from ml_worker.snapshot import Snapshot

# Answers that taught a model: so many at least, and so much more than at the last study.
LABELS_AT_LEAST, GROWTH = 20, 1.15

# What is studied, in this order: its name in the job's result, what it is called while it runs, and what finds it out.
Part = tuple[str, str, Callable[[Project, Snapshot], dict[str, Any]]]
PARTS: tuple[Part, ...] = (
    ("doubt", "asking five models what they are unsure of", doubting.study),
    ("forecast", "drawing the learning curve", forecasting.study_forecast),
    ("errors_left", "counting the errors left", forecasting.study_errors),
    ("gain", "comparing chosen answers with random ones", forecasting.study_gain),
    ("suspects", "looking for labels that may be wrong", suspecting.study),
)


def follow(project: Project, label_count: int) -> Job | None:
    """Ask for a study when a refit has left enough new to study. One query."""
    newest = queries.newest_study(project)
    studied = newest.result.get("label_count", 0) if newest else 0
    if not PARTS or label_count < max(LABELS_AT_LEAST, GROWTH * studied):
        return None
    return jobs.enqueue(project, Job.Kind.STUDY)


def run(run: jobs.Run) -> None:
    """Every part in turn, each kept as soon as it is there: an interrupted study goes on with the next."""
    project = run.job.project
    embedding = queries.current_embedding(project)
    if embedding is None:
        return
    taken = snapshot.take(project, embedding.result["folder"])
    run.remember(label_count=len(taken.train.rows))
    for place, (name, doing, study) in enumerate(PARTS):
        if name in run.job.result:
            continue
        run.report(place / len(PARTS), doing, force=True)
        run.remember(**{name: study(project, taken)})
