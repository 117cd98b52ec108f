"""Which encoder suits a project: asking for the comparison, and going by what it says."""

from collections.abc import Iterable

from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from annotator import jobs, queries
from annotator.actions import projects, training
from annotator.errors import Conflict, InvalidSettings
from annotator.models import AuditEvent, Job, Project

# Encoders that cost something: minutes of learning, a download. They take part when they are asked for, when the
# settings name them, or when they lie there from before.
ON_WISH = ("self_supervised", "pretrained")


def request_comparison(*, project: Project, actor: User, also: Iterable[str] = ()) -> Job:
    """Compare the encoders on the answers there are; ``also`` names those of ON_WISH to have in whatever they cost.

    The same wish twice is one job. Raises InvalidSettings for another name in ``also``; Conflict while something is
    missing for it, or when another comparison waits already.
    """
    wanted = sorted(set(also))
    if unknown := [name for name in wanted if name not in ON_WISH]:
        why = _("%(unknown)s is not one of %(known)s") % {
            "unknown": repr(unknown[0][:40]),
            "known": ", ".join(ON_WISH),
        }
        raise InvalidSettings(why, fields={"also": why})
    if missing := queries.missing_for_comparison(project):
        raise Conflict(missing)
    parameters = {"also": wanted}
    job = jobs.enqueue(project, Job.Kind.COMPARE, parameters=parameters, created_by=actor)
    if job.parameters.get("also") != wanted:
        raise Conflict(
            _("another comparison waits already, as job %(job)s; cancel it first, or let it be") % {"job": job.pk}
        )
    AuditEvent.objects.create(project=project, actor=actor, verb="comparison requested", detail=parameters)
    return job


def use_encoder(*, project: Project, actor: User, name: str) -> None:
    """Make this the encoder of the settings and have every image embedded with it, also in place of a trained network.

    Raises InvalidSettings for an unknown name, Conflict when it encodes the project already or is about to.
    """
    embedding = queries.current_embedding(project)
    if project.settings.encoder != name:
        projects.save_settings(project=project, actor=actor, raw={"encoder": name})  # which asks for the embedding
    elif embedding is not None and embedding.result["encoder"] == name:
        raise Conflict(_("this encoder is in use already"))
    elif Job.objects.filter(
        project=project,
        kind=Job.Kind.EMBED,
        state__in=[Job.State.QUEUED, Job.State.RUNNING],
        parameters__afresh=True,
    ).exists():
        raise Conflict(_("the images are being embedded with this encoder already"))
    else:  # the settings name it, and a trained network stands in its place
        training.request_embedding(project=project, actor=actor)
