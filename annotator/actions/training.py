"""Asking the worker to learn: when it is due, or when somebody presses the button."""

from typing import Any

from django.contrib.auth.models import User

from annotator import algorithms, jobs
from annotator.errors import InvalidSettings
from annotator.models import Annotation, AuditEvent, Job, Project

MINUTES_AT_MOST = 1440


def refit_when_due(*, project: Project) -> Job | None:
    """A waiting refit when enough answers have come in since the last one began, else None. Two small queries.

    Counts from where the newest refit took its snapshot, so answers given while it runs do not ask for one more each.
    """
    newest = (
        Job.objects.filter(project=project, kind=Job.Kind.REFIT)
        .exclude(state__in=[Job.State.FAILED, Job.State.CANCELLED])
        .order_by("-id")
        .first()
    )
    watermark = 0
    if newest is not None:
        if not newest.is_over and "watermark" not in newest.result:
            return None
        watermark = newest.result.get("watermark", 0)
    due = project.settings.answers_per_refit
    since = Annotation.objects.filter(project=project, id__gt=watermark, source=Annotation.Source.PERSON)
    if since[:due].count() < due:
        return None
    return jobs.enqueue(project, Job.Kind.REFIT)


def request_refit(*, project: Project, actor: User) -> Job:
    """Learn and rank now, whatever has come in since."""
    AuditEvent.objects.create(project=project, actor=actor, verb="refit requested")
    return jobs.enqueue(project, Job.Kind.REFIT, created_by=actor)


def request_training(
    *, project: Project, actor: User, trainer: str | None = None, minutes: float | None = None
) -> Job:
    """Train a network on the pool, as the settings say or with this trainer and for so many minutes.

    A training that waits already is the one returned. Raises InvalidSettings for an unknown trainer or 0 minutes.
    """
    parameters: dict[str, Any] = {}
    if trainer not in (None, "", "auto"):
        parameters["trainer"] = algorithms.get("trainer", str(trainer)).name
    if minutes is not None:
        if not 0 < minutes <= MINUTES_AT_MOST:
            raise InvalidSettings(f"{minutes:g} minutes is not between 0 and {MINUTES_AT_MOST}")
        parameters["minutes"] = minutes
    AuditEvent.objects.create(project=project, actor=actor, verb="training requested", detail=parameters)
    return jobs.enqueue(project, Job.Kind.TRAIN, parameters=parameters, created_by=actor)


def request_embedding(*, project: Project, actor: User | None = None) -> Job:
    """Embed everything that is in the project now; a refit follows when it is done.

    Asked for by a person it goes back to the encoder of the settings, from a network that was trained; without one it
    keeps what encodes the project now.
    """
    if actor is None:
        return jobs.enqueue(project, Job.Kind.EMBED)
    AuditEvent.objects.create(project=project, actor=actor, verb="embedding requested")
    return jobs.enqueue(project, Job.Kind.EMBED, parameters={"afresh": True}, created_by=actor)
