"""The only door to a project's rows: who asks, and what the role allows.

Outsiders get NotFound (a project they may not see does not exist for them), members of too low a role NotAllowed.
"""

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from annotator.errors import NotAllowed, NotFound
from annotator.models import Item, Job, Membership, Project, Role
from annotator.wording import within

Visitor = User | AnonymousUser

# Each step of the loop asks for one of these.
VIEW, LABEL, REVIEW, OWN = Role.VIEWER, Role.ANNOTATOR, Role.REVIEWER, Role.OWNER
_RANK = {Role.VIEWER: 0, Role.ANNOTATOR: 1, Role.REVIEWER: 2, Role.OWNER: 3}


def allows(role: str, needed: Role) -> bool:
    """Whether a member of ``role`` may do what asks for ``needed``."""
    return _RANK[Role(role)] >= _RANK[needed]


def visible_projects(user: Visitor) -> QuerySet[Project]:
    """The projects this person is a member of, newest first."""
    return Project.objects.filter(memberships__user_id=user.pk or 0).order_by("-id")


def get_membership(user: Visitor, project_id: int, needed: Role = VIEW) -> Membership:
    """The person's membership with its project. Raises NotFound for outsiders, NotAllowed for too low a role."""
    membership = (
        Membership.objects.select_related("project", "user")
        .filter(project_id=project_id, user_id=user.pk or 0)
        .first()
    )
    if membership is None:
        raise NotFound(_("there is no project %(id)s, or you are not a member of it") % {"id": project_id})
    if not allows(membership.role, needed):
        roles = {"needed": within(needed.label), "role": within(membership.get_role_display())}
        raise NotAllowed(_("this needs the role %(needed)s; you are %(role)s here") % roles)
    return membership


def get_project(user: Visitor, project_id: int, needed: Role = VIEW) -> Project:
    """The project, for a member of at least this role."""
    return get_membership(user, project_id, needed).project


def get_item(user: Visitor, project_id: int, item_id: int, needed: Role = VIEW) -> Item:
    """An item of a project, for a member of at least this role."""
    project = get_project(user, project_id, needed)
    item = Item.objects.filter(project=project, pk=item_id).first()
    if item is None:
        raise NotFound(_("there is no item %(item_id)s in this project") % {"item_id": item_id})
    return item


def get_job(user: Visitor, project_id: int, job_id: int, needed: Role = VIEW) -> Job:
    """A job of a project, for a member of at least this role."""
    project = get_project(user, project_id, needed)
    job = Job.objects.filter(project=project, pk=job_id).first()
    if job is None:
        raise NotFound(_("there is no job %(id)s in this project") % {"id": job_id})
    return job
