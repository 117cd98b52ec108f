"""Who did what to the classes, newest first."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from annotator.models import AuditEvent, Project

MERGED, SPLIT_BACK = "merged a class", "took a merge back"
ASSIGNED, GIVEN_BACK = "gave images a class", "took images back from a class"
VERBS = (
    "added a class",
    "changed a class",
    "archived a class",
    "brought a class back",
    "moved a class",
    "added examples",
    "removed examples",
    MERGED,
    SPLIT_BACK,
    ASSIGNED,
    GIVEN_BACK,
)
COLUMNS = {"name": "name", "colour": "colour", "shortcut": "key", "description": "description"}


@dataclass(frozen=True)
class ClassEvent:
    """One change. said: what was done, in words, without who and when. can_be_undone: as one act, and it was not
    yet."""

    event: AuditEvent
    said: str
    can_be_undone: bool


def class_history(project: Project, limit: int = 30) -> list[ClassEvent]:
    """The newest changes of classes. Three queries."""
    events = list(AuditEvent.objects.filter(project=project, verb__in=VERBS).select_related("actor")[:limit])
    undone = AuditEvent.objects.filter(project=project, verb__in=[SPLIT_BACK, GIVEN_BACK], detail__has_key="event")
    gone = set(undone.values_list("detail__event", flat=True))
    names = dict(project.classes.values_list("pk", "name"))
    return [
        ClassEvent(each, _said(each, names), each.verb in (MERGED, ASSIGNED) and each.pk not in gone)
        for each in events
    ]


def _said(event: AuditEvent, names: dict[int, str]) -> str:
    told: dict[str, Any] = event.detail
    words = {
        "name": told.get("name") or names.get(told.get("class", 0), "?"),
        "into": told.get("into_name", ""),
        "n": f"{told.get('answers', told.get('count', len(told.get('items', [])))):,}",
    }
    if event.verb == ASSIGNED:
        was = str(told.get("of", ""))
        return {
            "open": _("gave %(n)s images the class %(name)s"),
            "none_of_these": _("gave %(n)s images that fitted no class the class %(name)s"),
        }.get(was, _("moved %(n)s images from %(from)s to %(name)s")) % (words | {"from": told.get("from_name", "?")})
    if event.verb == "changed a class":
        return "; ".join(_changed(told, words["name"])) or _("changed %(name)s") % words
    return {
        "added a class": _("added %(name)s"),
        "archived a class": _("archived %(name)s"),
        "brought a class back": _("brought %(name)s back"),
        "moved a class": _("moved %(name)s in the list"),
        "added examples": _("showed %(name)s by %(n)s more examples"),
        "removed examples": _("took %(n)s examples of %(name)s away"),
        MERGED: _("merged %(name)s into %(into)s, with %(n)s answers"),
        SPLIT_BACK: _("took the merge of %(name)s into %(into)s back, with %(n)s answers"),
        GIVEN_BACK: _("took %(n)s images back from %(name)s"),
    }[event.verb] % words


def _changed(told: dict[str, Any], name: str) -> list[str]:
    before, now = told.get("before", {}), told.get("now", {})
    said = []
    if "name" in before and before["name"] != now.get("name", name):
        said.append(_("renamed %(before)s to %(name)s") % {"before": before["name"], "name": now.get("name", name)})
    if "colour" in now:
        said.append(_("gave %(name)s another colour") % {"name": name})
    if "shortcut" in now:
        key = now["shortcut"]
        said.append(
            _("gave %(name)s the key %(key)s") % {"name": name, "key": key}
            if key
            else _("took the key of %(name)s away") % {"name": name}
        )
    if "description" in now:
        said.append(_("described %(name)s") % {"name": name})
    return said
