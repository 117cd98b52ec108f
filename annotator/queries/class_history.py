"""Who did what to the classes, newest first."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

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
    n = told.get("answers", told.get("count", len(told.get("items", []))))
    words = {
        "name": told.get("name") or names.get(told.get("class", 0), "?"),
        "into": told.get("into_name", ""),
        "from": told.get("from_name", "?"),
        "n": f"{n:,}",
    }
    if event.verb == "changed a class":
        return "; ".join(_changed(told, words["name"])) or _("changed %(name)s") % words
    return _counted(event.verb, str(told.get("of", "")), n) % words


def _counted(verb: str, of: str, n: int) -> str:
    """The sentence in the form for ``n``, still to be filled in."""
    if verb == ASSIGNED and of == "open":
        return ngettext("gave %(n)s image the class %(name)s", "gave %(n)s images the class %(name)s", n)
    if verb == ASSIGNED and of == "none_of_these":
        return ngettext(
            "gave %(n)s image that fitted no class the class %(name)s",
            "gave %(n)s images that fitted no class the class %(name)s",
            n,
        )
    if verb == ASSIGNED:
        return ngettext(
            "moved %(n)s image from %(from)s to %(name)s", "moved %(n)s images from %(from)s to %(name)s", n
        )
    if verb == MERGED:
        return ngettext(
            "merged %(name)s into %(into)s, with %(n)s answer", "merged %(name)s into %(into)s, with %(n)s answers", n
        )
    if verb == SPLIT_BACK:
        return ngettext(
            "took the merge of %(name)s into %(into)s back, with %(n)s answer",
            "took the merge of %(name)s into %(into)s back, with %(n)s answers",
            n,
        )
    return {
        "added a class": _("added %(name)s"),
        "archived a class": _("archived %(name)s"),
        "brought a class back": _("brought %(name)s back"),
        "moved a class": _("moved %(name)s in the list"),
        "added examples": ngettext(
            "showed %(name)s by %(n)s more example", "showed %(name)s by %(n)s more examples", n
        ),
        "removed examples": ngettext("took %(n)s example of %(name)s away", "took %(n)s examples of %(name)s away", n),
        GIVEN_BACK: ngettext("took %(n)s image back from %(name)s", "took %(n)s images back from %(name)s", n),
    }[verb]


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
