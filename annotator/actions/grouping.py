"""Asking the worker for groups of look-alikes."""

from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from annotator import jobs, queries
from annotator.errors import Conflict
from annotator.models import Job, Project


@transaction.atomic
def request_grouping(*, project: Project, actor: User, of: str) -> Job:
    """Group these images anew; of: see queries.grouped_class. The same wish while one waits or runs is that job.

    Raises InvalidSettings for other words, Conflict while there is nothing to group. Locks the project's row.
    """
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    wanted = queries.groupable_items(project, of)
    if queries.current_embedding(project) is None:
        raise Conflict(queries.lack_of_embedding(project, "group them"))
    if not wanted.exists():
        raise Conflict(_("there is no image of this kind to group; random checks and test images are never grouped"))
    going = Job.objects.filter(project=project, kind=Job.Kind.GROUP, parameters__of=of)
    waiting = going.filter(state__in=[Job.State.QUEUED, Job.State.RUNNING], cancel_requested=False).first()
    if waiting is not None:
        return waiting
    return jobs.enqueue(project, Job.Kind.GROUP, parameters={"of": of}, created_by=actor)
