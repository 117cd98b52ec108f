"""A project, its classes, its people and its settings.

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

from annotator import queries
from annotator.actions import certifying
from annotator.actions.proposing import lock_proposals
from annotator.actions.training import refresh_preview, request_embedding
from annotator.errors import Conflict, InvalidClass, InvalidSettings, NotFound
from annotator.models import AuditEvent, Item, LabelClass, Membership, Project, ProjectSettings, Proposal, Role

# Ten hues that stay apart on light and dark ground, for colour-blind people too (after Okabe and Ito 2008 and
# Tol 2021); later classes go round again.
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00",
    "#56b4e9", "#8c6bb1", "#a6a000", "#c2185b", "#4d7f7f",
)  # fmt: skip
SHORTCUTS = "1234567890"
# Keys the pages keep for themselves: accept (reviewing), skip, none of these, undo, help, zoom (labelling).
PAGE_KEYS = set("agsxz?/+-")
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
    for class_name in class_names:
        add_class(project=project, actor=owner, name=class_name)
    return project


def _free_name(name: str, but: Project | None = None) -> str:
    name = " ".join(name.split())
    if not name or len(name) > NAME_AT_MOST:
        why = f"a project's name has 1 to {NAME_AT_MOST} characters, this has {len(name)}"
        raise InvalidSettings(why, fields={"name": why})
    if Project.objects.filter(name__iexact=name).exclude(pk=but.pk if but else 0).exists():
        raise _name_taken(name)
    return name


def _name_taken(name: str) -> InvalidSettings:
    why = f"there is already a project called {name!r}; choose another name"
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


def _lock(project_id: int) -> None:
    """Wait until nobody else changes this project. Not against foreign keys: answers keep coming in."""
    Project.objects.select_for_update(no_key=True).get(pk=project_id)


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
    _lock(project.pk)
    project.refresh_from_db()
    if seen and seen != fingerprint(project):
        raise Conflict(
            "somebody else changed these settings since you opened the page. Yours are still in the form; "
            "save again to replace theirs"
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
def add_class(*, project: Project, actor: User, name: str, shortcut: str | None = None) -> LabelClass:
    """A new class at the end, with the next colour and the next free number key. Raises InvalidClass."""
    _lock(project.pk)  # two additions at once get different keys
    classes = list(project.classes.all())
    taken = {label_class.shortcut for label_class in classes if not label_class.is_archived}
    if shortcut is None:
        shortcut = next((key for key in SHORTCUTS if key not in taken), "")
    label_class = LabelClass(
        project=project,
        colour=PALETTE[len(classes) % len(PALETTE)],
        position=max((each.position for each in classes), default=-1) + 1,
    )
    _set(label_class, name=name, shortcut=shortcut)
    label_class.save()
    AuditEvent.objects.create(
        project=project,
        actor_id=actor.pk,
        verb="added a class",
        detail={"class": label_class.pk, "name": name},
    )
    return label_class


@transaction.atomic
def update_class(
    *,
    label_class: LabelClass,
    actor: User,
    name: str | None = None,
    colour: str | None = None,
    shortcut: str | None = None,
    description: str | None = None,
) -> LabelClass:
    """Rename, recolour, describe, or give another key; None stays as it is. Raises InvalidClass.

    Old answers keep pointing here.
    """
    _lock(label_class.project_id)
    label_class.refresh_from_db()
    before = {"name": label_class.name, "colour": label_class.colour, "shortcut": label_class.shortcut}
    _set(
        label_class,
        name=label_class.name if name is None else name,
        shortcut=label_class.shortcut if shortcut is None else shortcut,
    )
    if colour is not None:
        label_class.colour = _colour(colour)
    if description is not None:
        label_class.description = description.strip()
    label_class.save(update_fields=["name", "shortcut", "colour", "description"])
    AuditEvent.objects.create(
        project_id=label_class.project_id,
        actor_id=actor.pk,
        verb="changed a class",
        detail={"class": label_class.pk, "before": before},
    )
    return label_class


def _set(label_class: LabelClass, *, name: str, shortcut: str) -> None:
    """Put a checked name and key on the class."""
    name = " ".join(name.split())
    others = LabelClass.objects.filter(project=label_class.project_id).exclude(pk=label_class.pk)
    if not name or len(name) > NAME_AT_MOST:
        raise InvalidClass(f"a class name has 1 to {NAME_AT_MOST} characters, this has {len(name)}")
    if others.filter(name__iexact=name).exists():
        raise InvalidClass(f"there is already a class called {name!r}, perhaps among the archived ones")
    shortcut = shortcut.strip().lower()
    if shortcut and (len(shortcut) != 1 or not shortcut.isprintable() or shortcut in PAGE_KEYS):
        raise InvalidClass(f"{shortcut!r} cannot be a class key; the page keeps {' '.join(sorted(PAGE_KEYS))}")
    if shortcut and others.filter(shortcut=shortcut, is_archived=False).exists():
        raise InvalidClass(f"the key {shortcut!r} already belongs to another class")
    label_class.name, label_class.shortcut = name, shortcut


def _colour(colour: str) -> str:
    digits = colour.removeprefix("#").lower()
    if len(digits) != 6 or any(digit not in "0123456789abcdef" for digit in digits):
        raise InvalidClass(f"{colour!r} is not a colour like #0072b2")
    return f"#{digits}"


@transaction.atomic
def archive_class(*, label_class: LabelClass, actor: User, archived: bool) -> LabelClass:
    """Take a class off the keyboard or bring it back. Answers that name it stay; what no person decided goes."""
    _lock(label_class.project_id)
    label_class.refresh_from_db()
    label_class.is_archived = archived
    others = LabelClass.objects.filter(project=label_class.project_id, is_archived=False).exclude(pk=label_class.pk)
    if not archived and label_class.shortcut and others.filter(shortcut=label_class.shortcut).exists():
        label_class.shortcut = ""
    label_class.save(update_fields=["is_archived", "shortcut"])
    if archived:
        lock_proposals(label_class.project)
        Proposal.objects.filter(label_class=label_class, state__in=Proposal.UNDECIDED).update(
            state=Proposal.State.WITHDRAWN
        )
    verb = "archived a class" if archived else "brought a class back"
    AuditEvent.objects.create(
        project_id=label_class.project_id, actor_id=actor.pk, verb=verb, detail={"class": label_class.pk}
    )
    return label_class


@transaction.atomic
def move_class(*, label_class: LabelClass, actor: User, up: bool) -> None:
    """Move a class past its neighbour that is not archived: those are not seen on the page."""
    _lock(label_class.project_id)
    classes = list(LabelClass.objects.filter(project=label_class.project_id))
    here = classes.index(label_class)
    beyond = classes[:here][::-1] if up else classes[here + 1 :]
    away = next((index for index, each in enumerate(beyond, start=1) if not each.is_archived), 0)
    classes.insert(here - away if up else here + away, classes.pop(here))
    for position, each in enumerate(classes):
        each.position = position
    LabelClass.objects.bulk_update(classes, ["position"])
    AuditEvent.objects.create(
        project_id=label_class.project_id, actor_id=actor.pk, verb="moved a class", detail={"class": label_class.pk}
    )


@transaction.atomic
def set_member(*, project: Project, actor: User, username: str, role: str) -> Membership:
    """Give a person a role, new or changed. Raises NotFound for an unknown name, Conflict for the last owner."""
    user = get_user_model().objects.filter(username=username.strip()).first()
    if user is None:
        raise NotFound(f"there is no account called {username.strip()!r}; create it first")
    if role not in Role.values:
        raise InvalidSettings(f"role {role!r} is not one of {', '.join(Role.values)}")
    _lock(project.pk)
    if role != Role.OWNER:
        _keep_an_owner(project, user.pk)
    membership, _ = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    AuditEvent.objects.create(
        project=project, actor_id=actor.pk, verb="set a role", detail={"user": user.pk, "role": role}
    )
    return membership


@transaction.atomic
def remove_member(*, project: Project, actor: User, user_id: int) -> None:
    """Take a person out of the project; their answers stay. Raises Conflict for the last owner."""
    _lock(project.pk)
    _keep_an_owner(project, user_id)
    Membership.objects.filter(project=project, user_id=user_id).delete()
    AuditEvent.objects.create(project=project, actor_id=actor.pk, verb="removed a member", detail={"user": user_id})


def _keep_an_owner(project: Project, without: int) -> None:
    """Raises Conflict. Under the project's lock, so that two owners cannot demote each other at once."""
    owners = set(project.memberships.filter(role=Role.OWNER).values_list("user_id", flat=True))
    if owners and owners <= {without}:
        raise Conflict("a project keeps at least one owner; make somebody else owner first")
