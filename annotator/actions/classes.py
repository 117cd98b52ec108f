"""The classes people choose from: added, changed, put in order, archived, shown by examples.

Owners change them one after another, under the lock on the project's row, while others answer: an answer keeps
pointing to its class whatever that is called. Merging two is another matter: merging.py.
"""

import colorsys
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils.translation import gettext as _

from annotator import jobs
from annotator.actions.proposing import lock_proposals
from annotator.errors import Conflict, InvalidClass, NotFound
from annotator.models import AuditEvent, ClassExample, Item, Job, LabelClass, Project, Proposal, Split

# Ten hues that stay apart on light and dark ground, for colour-blind people too (after Okabe and Ito 2008 and
# Tol 2021); what comes later is spread over the hues that are left, see colour_of.
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00",
    "#56b4e9", "#8c6bb1", "#a6a000", "#c2185b", "#4d7f7f",
)  # fmt: skip
SHORTCUTS = "123456789"
# Keys the pages keep for themselves: accept (reviewing), skip, none of these, undo, flag, help; the class guide, zoom,
# brightness, contrast and hard pixels (labelling). 0 is for the zoom too, unless a class was given it.
PAGE_KEYS = set("afgpsxz?/+-=,.;:")
NAME_AT_MOST, DESCRIPTION_AT_MOST = 120, 4000
CLASSES_AT_MOST, EXAMPLES_AT_MOST = 2000, 12
# Marks that turn the direction of what follows: a name that has one would turn the sentence it stands in.
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def lock_project(project_id: int) -> None:
    """Wait until nobody else changes this project. Not against foreign keys: answers keep coming in."""
    Project.objects.select_for_update(no_key=True).get(pk=project_id)


def note(project_id: int, actor: User, verb: str, **detail: Any) -> AuditEvent:
    """Write down who did what to a class."""
    return AuditEvent.objects.create(project_id=project_id, actor_id=actor.pk, verb=verb, detail=detail)


# --- adding and changing --------------------------------------------------------------------------------------------


def add_class(*, project: Project, actor: User, name: str, shortcut: str | None = None) -> LabelClass:
    """A new class at the end, with the next colour and the next free number key. Raises InvalidClass."""
    (label_class,) = add_classes(project=project, actor=actor, names=[name], shortcut=shortcut)
    return label_class


@transaction.atomic
def add_classes(
    *, project: Project, actor: User, names: Iterable[str], shortcut: str | None = None
) -> list[LabelClass]:
    """New classes at the end in this order, all or none, each as ``add_class`` makes it. shortcut: of a single one.

    Raises InvalidClass for the first that does not fit. Locks the project's row; two queries for each name.
    """
    lock_project(project.pk)  # two additions at once get different keys
    names, classes = list(names), list(project.classes.all())
    if len(classes) + len(names) > CLASSES_AT_MOST:
        raise InvalidClass(_("a project has at most %(n)s classes") % {"n": f"{CLASSES_AT_MOST:,}"})
    keys = {each.shortcut for each in classes if not each.is_archived}
    free = [key for key in SHORTCUTS if key not in keys]
    position = max((each.position for each in classes), default=-1) + 1
    made = []
    for at, name in enumerate(names):
        label_class = LabelClass(project=project, colour=colour_of(len(classes) + at), position=position + at)
        key = shortcut if shortcut is not None else free.pop(0) if free else ""
        label_class.name, label_class.shortcut = _name(label_class, name), _key(label_class, key)
        label_class.save()
        note(project.pk, actor, "added a class", **{"class": label_class.pk, "name": label_class.name})
        made.append(label_class)
    return made


def colour_of(place: int) -> str:
    """The colour the class at this place, from 0, gets: #rrggbb. No two of some hundred are the same.

    Behind the palette each hue is a golden angle on from the one before, as dark as shows on light and dark ground.
    """
    if place < len(PALETTE):
        return PALETTE[place]
    later = place - len(PALETTE)
    rgb = colorsys.hls_to_rgb((0.07 + later * 0.618034) % 1, (0.42, 0.56)[later % 2], 0.62)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


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
    lock_project(label_class.project_id)
    label_class.refresh_from_db()
    columns = ("name", "colour", "shortcut", "description")
    before = {column: getattr(label_class, column) for column in columns}
    if name is not None:
        label_class.name = _name(label_class, name)
    if shortcut is not None and shortcut != label_class.shortcut:
        label_class.shortcut = _key(label_class, shortcut)
    if colour is not None:
        label_class.colour = _colour(colour)
    if description is not None:
        label_class.description = _description(description)
    label_class.save(update_fields=columns)
    changed = {column: before[column] for column in columns if getattr(label_class, column) != before[column]}
    if changed:
        now = {column: getattr(label_class, column) for column in changed}
        note(
            label_class.project_id,
            actor,
            "changed a class",
            **{"class": label_class.pk, "name": label_class.name, "before": changed, "now": now},
        )
    return label_class


def _name(label_class: LabelClass, name: str) -> str:
    name = " ".join(_DIRECTION.sub("", name).split())
    others = LabelClass.objects.filter(project=label_class.project_id).exclude(pk=label_class.pk)
    if not name or len(name) > NAME_AT_MOST:
        raise InvalidClass(
            _("a class name has 1 to %(most)s characters, this has %(n)s") % {"most": NAME_AT_MOST, "n": len(name)}
        )
    kinds = [unicodedata.category(each) for each in name]
    if "Cc" in kinds or all(kind in ("Cf", "Mn", "Zs", "Cn") for kind in kinds):
        raise InvalidClass(_("the class name %(name)s has characters that cannot be seen") % {"name": ascii(name)})
    if others.filter(name__iexact=name).exists():
        raise InvalidClass(
            _("there is already a class called %(name)s, perhaps among the archived ones") % {"name": repr(name)}
        )
    return name


def _key(label_class: LabelClass, shortcut: str) -> str:
    shortcut = shortcut.strip().lower()
    others = LabelClass.objects.filter(project=label_class.project_id, is_archived=False).exclude(pk=label_class.pk)
    if shortcut and (len(shortcut) != 1 or not shortcut.isprintable() or shortcut in PAGE_KEYS):
        raise InvalidClass(
            _("%(key)s cannot be a class key; the page keeps %(kept)s")
            % {"key": repr(shortcut), "kept": " ".join(sorted(PAGE_KEYS))}
        )
    # The key of an archived class may be somebody else's by now; it has none until it is brought back.
    other = others.filter(shortcut=shortcut).first() if shortcut and not label_class.is_archived else None
    if other is not None:
        why = _("the key %(key)s already belongs to %(name)s") % {"key": repr(shortcut), "name": other.name}
        raise InvalidClass(why)
    return shortcut


def _colour(colour: str) -> str:
    digits = colour.removeprefix("#").lower()
    if len(digits) != 6 or any(digit not in "0123456789abcdef" for digit in digits):
        raise InvalidClass(_("%(colour)s is not a colour like #0072b2") % {"colour": repr(colour[:40])})
    return f"#{digits}"


def _description(description: str) -> str:
    description = description.strip()
    if len(description) > DESCRIPTION_AT_MOST:
        raise InvalidClass(
            _("a description has at most %(most)s characters, this has %(n)s")
            % {"most": f"{DESCRIPTION_AT_MOST:,}", "n": f"{len(description):,}"}
        )
    return description


# --- archiving and order --------------------------------------------------------------------------------------------


@transaction.atomic
def archive_class(*, label_class: LabelClass, actor: User, archived: bool) -> LabelClass:
    """Take a class off the keyboard or bring it back. Answers that name it stay; what no person decided goes.

    Raises Conflict for one that was merged: taking the merge back brings it back, with its answers.
    """
    lock_project(label_class.project_id)
    label_class.refresh_from_db()
    if label_class.merged_into is not None and not archived:
        raise Conflict(
            _("%(name)s was merged into %(into)s; take the merge back instead")
            % {"name": label_class.name, "into": label_class.merged_into.name}
        )
    if label_class.is_archived == archived:
        return label_class
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
    note(label_class.project_id, actor, verb, **{"class": label_class.pk, "name": label_class.name})
    _learn_anew(label_class.project)
    return label_class


def _learn_anew(project: Project) -> None:
    """The next model knows other classes; without an answer there is none to come."""
    if project.annotations.exists():
        jobs.enqueue(project, Job.Kind.REFIT)


@transaction.atomic
def move_class(*, label_class: LabelClass, actor: User, up: bool) -> None:
    """Move a class past its neighbour that is not archived: those are not seen on the page."""
    lock_project(label_class.project_id)
    classes = list(LabelClass.objects.filter(project=label_class.project_id))
    here = classes.index(label_class)
    beyond = classes[:here][::-1] if up else classes[here + 1 :]
    away = next((index for index, each in enumerate(beyond, start=1) if not each.is_archived), 0)
    classes.insert(here - away if up else here + away, classes.pop(here))
    if away:
        _number(classes)
        note(label_class.project_id, actor, "moved a class", **{"class": label_class.pk, "name": label_class.name})


@transaction.atomic
def place_class(*, label_class: LabelClass, actor: User, before: LabelClass | None) -> None:
    """Put a class in front of another one, or at the end. Raises NotFound for one of another project."""
    lock_project(label_class.project_id)
    classes = list(LabelClass.objects.filter(project=label_class.project_id))
    if before is not None and before not in classes:
        raise NotFound(_("there is no class %(id)s in this project") % {"id": before.pk})
    if before == label_class:
        return
    order = [each.pk for each in classes]
    classes.remove(label_class)
    classes.insert(len(classes) if before is None else classes.index(before), label_class)
    if [each.pk for each in classes] != order:
        _number(classes)
        note(label_class.project_id, actor, "moved a class", **{"class": label_class.pk, "name": label_class.name})


def _number(classes: list[LabelClass]) -> None:
    changed = [each for position, each in enumerate(classes) if each.position != position]
    for position, each in enumerate(classes):
        each.position = position
    LabelClass.objects.bulk_update(changed, ["position"], batch_size=500)


# --- examples -------------------------------------------------------------------------------------------------------


@transaction.atomic
def add_examples(*, label_class: LabelClass, actor: User, item_ids: Iterable[int]) -> int:
    """Show people these images with the class, beside those it has; how many are new. Locks the project's row, and the
    items, which must not become random checks at this moment.

    Raises NotFound for an image that is not there, Conflict for random checks and test images, and beyond
    EXAMPLES_AT_MOST.
    """
    lock_project(label_class.project_id)
    wanted = list(dict.fromkeys(item_ids))
    items = Item.objects.select_for_update(no_key=True).filter(project=label_class.project_id, pk__in=wanted)
    found = {item.pk: item for item in items.order_by("pk")}
    if missing := [pk for pk in wanted if pk not in found]:
        raise NotFound(_("there is no image %(id)s in this project") % {"id": missing[0]})
    if any(item.split != Split.POOL for item in found.values()):
        raise Conflict(
            _("random checks and test images measure how good the labels are; they are never shown as examples")
        )
    there = set(label_class.examples.values_list("item_id", flat=True))
    new = [pk for pk in wanted if pk not in there]
    if len(there) + len(new) > EXAMPLES_AT_MOST:
        raise Conflict(
            _("a class has at most %(most)s examples; %(name)s would have %(n)s, so take some away first")
            % {"most": EXAMPLES_AT_MOST, "name": label_class.name, "n": len(there) + len(new)}
        )
    ClassExample.objects.bulk_create(
        ClassExample(label_class=label_class, item_id=pk, added_by_id=actor.pk) for pk in new
    )
    if new:
        detail = {"class": label_class.pk, "name": label_class.name, "items": new}
        note(label_class.project_id, actor, "added examples", **detail)
    return len(new)


@transaction.atomic
def remove_examples(*, label_class: LabelClass, actor: User, item_ids: Iterable[int]) -> int:
    """Show these images with the class no more; how many that were. Locks the project's row."""
    lock_project(label_class.project_id)
    there = label_class.examples.filter(item_id__in=list(item_ids))
    gone = list(there.values_list("item_id", flat=True))
    there.delete()
    if gone:
        detail = {"class": label_class.pk, "name": label_class.name, "items": gone}
        note(label_class.project_id, actor, "removed examples", **detail)
    return len(gone)


@transaction.atomic
def change_examples(*, label_class: LabelClass, actor: User, add: Iterable[int], remove: Iterable[int]) -> None:
    """Take some examples away, then nominate others, all or nothing; as the two functions above."""
    remove_examples(label_class=label_class, actor=actor, item_ids=remove)
    add_examples(label_class=label_class, actor=actor, item_ids=add)
