"""Asking the worker to learn: when it is due, or when somebody presses the button."""

from django.contrib.auth.models import User

from annotator import jobs, queries
from annotator.models import AuditEvent, Job, Project


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


def request_embedding(*, project: Project, actor: User | None = None) -> Job:
    """Embed everything that is in the project now; a refit follows when it is done."""
    if actor is not None:
        AuditEvent.objects.create(project=project, actor=actor, verb="embedding requested")
    return jobs.enqueue(project, Job.Kind.EMBED, created_by=actor)
