"""Asking for the map of a project's images."""

from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from annotator import jobs, queries
from annotator.errors import Conflict
from annotator.models import Job, Project

# What is asked for, where a refusal says what to do.
ASK = "draw the map"


def request_map(*, project: Project, actor: User) -> Job:
    """The job that draws the map of the current embedding, or the one that waits already.

    Raises Conflict where nothing is embedded, or the map is there.
    """
    if queries.current_embedding(project) is None:
        raise Conflict(queries.lack_of_embedding(project, ASK))
    if queries.image_map(project) is not None:
        raise Conflict(_("the map of these images is drawn already; reload the page"))
    return jobs.enqueue(project, Job.Kind.MAP, created_by=actor)
