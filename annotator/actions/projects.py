"""A project, its people and its settings; its classes are in classes.py.

Owners change a project one after another: each change takes the lock on its row and reads what it changes again
inside, because what was read to authorise the request may be a change behind.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from annotator import queries
from annotator.actions import certifying
from annotator.actions.classes import add_classes, lock_project
from annotator.actions.training import refresh_preview, request_embedding
from annotator.errors import Conflict, InvalidSettings, NotFound
from annotator.models import AuditEvent, Item, Membership, Project, ProjectSettings, Role

NAME_AT_MOST = 120
# What certificates and rounds are about: what a model said of the way there holds for these settings alone.
PROMISED = ("target_precision", "certificate_confidence", "threshold_per_class")


@transaction.atomic
def create_project(
    *, owner: User, name: str, class_names: list[str], instructions: str = "", **columns: Any
) -> Project:
    """A project with its classes, owned by ``owner``. Raises InvalidSettings or InvalidClass naming what is wrong."""
    name = _free_name(name)
    with _name_still_free(name):
        project = Project.objects.create(name=name, instructions=instructions.strip(), **columns)
    Membership.objects.create(project=project, user_id=owner.pk, role=Role.OWNER)
    AuditEvent.objects.create(project=project, actor_id=owner.pk, verb="created the project", detail={"name": name})
    add_classes(project=project, actor=owner, names=class_names)
    return project


def _free_name(name: str, but: Project | None = None) -> str:
    name = " ".join(name.split())
    if not name or len(name) > NAME_AT_MOST:
        why = _("a project's name has 1 to %(name_at_most)s characters, this has %(n)s") % {
            "name_at_most": NAME_AT_MOST,
            "n": len(name),
        }
        raise InvalidSettings(why, fields={"name": why})
    if Project.objects.filter(name__iexact=name).exclude(pk=but.pk if but else 0).exists():
        raise _name_taken(name)
    return name


def _name_taken(name: str) -> InvalidSettings:
    why = _("there is already a project called %(name)s; choose another name") % {"name": repr(name)}
    return InvalidSettings(why, fields={"name": why})


@contextmanager
def _name_still_free(name: str) -> Iterator[None]:
    """The same refusal when another project took the name between the look and the writing."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if "project_names_differ" not in str(error):
            raise
        raise _name_taken(name) from None


def fingerprint(project: Project) -> str:
    """What a settings form was filled from: another one on arrival means that somebody saved in between."""
    seen = json.dumps([project.name, project.instructions, project.settings_json], sort_keys=True)
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


@transaction.atomic
def save_settings(
    *,
    project: Project,
    actor: User,
    raw: dict[str, Any],
    name: str | None = None,
    instructions: str | None = None,
    seen: str = "",
) -> ProjectSettings:
    """Check and store settings (absent keys keep their value), name and instructions. Raises InvalidSettings.

    Parameters keep their value one by one; "" or None brings a default back. Asks for a new embedding where images are
    to be embedded in another way, or views of them, too; for a refit where something else is to be promised. ``seen``:
    the fingerprint of what the form was filled from; raises Conflict when it is not that any more. ``project`` is read
    again under the lock, so afterwards it is what is stored, except after a refusal.
    """
    lock_project(project.pk)
    project.refresh_from_db()
    if seen and seen != fingerprint(project):
        raise Conflict(
            _(
                "somebody else changed these settings since you opened the page. Yours are still in the form;"
                " save again to replace theirs"
            )
        )
    stored = project.settings_json
    if isinstance(raw.get("parameters"), dict):
        raw = {**raw, "parameters": {**stored.get("parameters", {}), **raw["parameters"]}}
    cleaned = ProjectSettings.clean({**stored, **raw})
    if name is not None:
        project.name = _free_name(name, but=project)
    if instructions is not None:
        project.instructions = instructions.strip()
    project.settings_json = cleaned.to_json()
    with _name_still_free(project.name):
        project.save(update_fields=["name", "instructions", "settings_json"])
    before = ProjectSettings().to_json() | stored
    changed = {key: value for key, value in cleaned.to_json().items() if value != before[key]}
    certifying.hold_to_settings(project=project, actor=actor, before=before, now=cleaned)
    AuditEvent.objects.create(project=project, actor_id=actor.pk, verb="changed the settings", detail=changed)
    if not cleaned.embeds_like(stored) and Item.objects.filter(project=project).exists():
        request_embedding(project=project, actor=actor)
    elif queries.lacks_views(project):
        request_embedding(project=project)
    elif any(key.startswith("augment_") or key in PROMISED for key in changed):
        refresh_preview(project=project)
    return cleaned


@transaction.atomic
def set_member(*, project: Project, actor: User, username: str, role: str) -> Membership:
    """Give a person a role, new or changed. Raises NotFound for an unknown name, Conflict for the last owner."""
    user = get_user_model().objects.filter(username=username.strip()).first()
    if user is None:
        raise NotFound(_("there is no account called %(name)s; create it first") % {"name": repr(username.strip())})
    if role not in Role.values:
        raise InvalidSettings(
            _("role %(role)s is not one of %(known)s") % {"role": repr(role), "known": ", ".join(Role.values)}
        )
    lock_project(project.pk)
    if role != Role.OWNER:
        _keep_an_owner(project, user.pk)
    membership, _is_new = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    AuditEvent.objects.create(
        project=project, actor_id=actor.pk, verb="set a role", detail={"user": user.pk, "role": role}
    )
    return membership


@transaction.atomic
def remove_member(*, project: Project, actor: User, user_id: int) -> None:
    """Take a person out of the project; their answers stay. Raises Conflict for the last owner."""
    lock_project(project.pk)
    _keep_an_owner(project, user_id)
    Membership.objects.filter(project=project, user_id=user_id).delete()
    AuditEvent.objects.create(project=project, actor_id=actor.pk, verb="removed a member", detail={"user": user_id})


def _keep_an_owner(project: Project, without: int) -> None:
    """Raises Conflict. Under the project's lock, so that two owners cannot demote each other at once."""
    owners = set(project.memberships.filter(role=Role.OWNER).values_list("user_id", flat=True))
    if owners and owners <= {without}:
        raise Conflict(_("a project keeps at least one owner; make somebody else owner first"))
