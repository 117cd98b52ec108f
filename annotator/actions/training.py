"""Asking the worker to learn: when it is due, or when somebody presses the button."""

from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from annotator import algorithms, jobs, queries
from annotator.errors import Conflict, InvalidSettings
from annotator.models import AuditEvent, Job, Project

MINUTES_AT_MOST = 1440
# In the place of a trainer's name: chosen when the training begins.
AUTO = "auto"


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
    if queries.answers_since(project, watermark)[:due].count() < due:
        return None
    return jobs.enqueue(project, Job.Kind.REFIT)


def request_refit(*, project: Project, actor: User) -> Job:
    """Learn and rank now, whatever has come in since."""
    AuditEvent.objects.create(project=project, actor=actor, verb="refit requested")
    return jobs.enqueue(project, Job.Kind.REFIT, created_by=actor)


def request_training(
    *, project: Project, actor: User, trainer: str | None = None, minutes: float | None = None
) -> Job:
    """Train a network on the pool, as the settings say or with this trainer ("auto": chosen then) and for so long.

    The same wish twice is one job. Raises InvalidSettings for an unknown trainer or 0 minutes; Conflict while
    something is missing for it, or when another training waits already.
    """
    name, asked = trainer or project.settings.trainer, minutes
    if name != AUTO:
        algorithms.get("trainer", name)
    if asked is None:
        asked = project.settings.training_minutes
    if not 0 < asked <= MINUTES_AT_MOST:
        why = _("%(asked)s minutes is not between 0 and %(minutes_at_most)s") % {
            "asked": f"{asked:g}",
            "minutes_at_most": MINUTES_AT_MOST,
        }
        raise InvalidSettings(why, fields={"minutes": why})
    if missing := queries.missing_for_training(project):
        raise Conflict(missing)
    # Whole, because the settings may change before it begins, or between two attempts at it.
    parameters = {"trainer": name, "minutes": asked}
    job = jobs.enqueue(project, Job.Kind.TRAIN, parameters=parameters, created_by=actor)
    if job.parameters != parameters:
        raise Conflict(
            _("another training waits already, as job %(job)s; cancel it first, or let it be") % {"job": job.pk}
        )
    AuditEvent.objects.create(project=project, actor=actor, verb="training requested", detail=parameters)
    return job


def refresh_preview(*, project: Project) -> Job | None:
    """Have the worker draw anew what a network would be shown, which is the last thing a refit does. None before there
    is anything to draw; the first refit will."""
    if queries.current_embedding(project) is None:
        return None
    return jobs.enqueue(project, Job.Kind.REFIT)


def request_embedding(*, project: Project, actor: User | None = None) -> Job:
    """Embed everything that is in the project now; a refit follows when it is done.

    Asked for by a person it goes back to the encoder of the settings, from a network that was trained; without one it
    keeps what encodes the project now.
    """
    if actor is None:
        return jobs.enqueue(project, Job.Kind.EMBED)
    AuditEvent.objects.create(project=project, actor=actor, verb="embedding requested")
    while True:
        job = jobs.enqueue(project, Job.Kind.EMBED, parameters={"afresh": True}, created_by=actor)
        # One that waits since an import would keep the trained network; one that was claimed meanwhile is too late.
        waiting = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED)
        if job.parameters.get("afresh") or waiting.update(parameters={"afresh": True}):
            return job
