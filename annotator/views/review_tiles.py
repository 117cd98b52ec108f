"""The tiles of the review grid: a proposal or a label each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from annotator import queries, task_types
from annotator.models import Annotation, Item, Project, Proposal
from annotator.queries.selecting import LABELS, Selection
from annotator.views.choices import is_tiny
from annotator.wording import percent

SHORT_LIST = 3
# What is named on the tile itself; and the longest list with a promise, as LISTED_AT_MOST of ml_worker/refitting.py.
NAMED_ON_TILE, LISTED_AT_MOST = 2, 12


@dataclass(frozen=True)
class Tile:
    """One image in the grid. pk: what its fields name, the proposal, or the item where labels are shown.

    ``short_list``: the listed classes in words, or the likeliest where no list has a promise. ``listed``: their ids;
    ``others``: what else it may be, for the tile itself; ``by``: who gave a label; ``after``: its place on the way.
    """

    pk: int
    item: Item
    class_id: int
    class_name: str
    is_tiny: bool
    is_flagged: bool = False
    proposal: Proposal | None = None
    confidence: str = ""
    short_list: str = ""
    listed: tuple[int, ...] = ()
    others: str = ""
    by: str = ""
    after: str = ""


def tiles_of(project: Project, user_id: int, chosen: Selection, rows: list[Any]) -> list[Tile]:
    """The tiles of these rows of a screen. Two queries."""
    names = {each.pk: each.name for each in project.classes.all()}
    flagged = queries.flagged_by(project, user_id, [row.item_id for row in rows])
    if chosen.show == LABELS:
        return [_label(project, row, names, row.item_id in flagged) for row in rows]
    return [_proposal(row, names, row.item_id in flagged) for row in rows]


def _label(project: Project, given: Annotation, names: Mapping[int, str], is_flagged: bool) -> Tile:
    class_id = task_types.get(project.task_type).class_ids(given.value or {})[0]
    is_imported = given.source == Annotation.Source.IMPORTED
    suspect = getattr(given, "suspect", None)
    instead = names.get(suspect.label_class_id or 0, "") if suspect and suspect.state == "open" else ""
    return Tile(
        pk=given.item_id,
        item=given.item,
        class_id=class_id,
        class_name=_name(names, class_id),
        is_tiny=is_tiny(given.item),
        is_flagged=is_flagged,
        listed=(suspect.label_class_id,) if suspect and instead else (),
        others=_("rather %(name)s") % {"name": instead} if instead else "",
        by=_("imported") if is_imported else given.annotator.get_username(),
    )


def _proposal(proposal: Proposal, names: Mapping[int, str], is_flagged: bool) -> Tile:
    listed = [(class_id, _name(names, class_id), prob) for class_id, prob in proposal.short_list]
    shown, others = listed[:SHORT_LIST], ""
    if is_promised(proposal):
        others = _others(proposal, [(class_id, name) for class_id, name, _prob in listed])
        shown = listed if len(listed) <= LISTED_AT_MOST else shown
    words = ", ".join(f"{name} {percent(prob)}" for _id, name, prob in shown)
    is_unlike = is_promised(proposal) and not listed
    return Tile(
        pk=proposal.pk,
        item=proposal.item,
        class_id=proposal.label_class_id or 0,
        class_name=_name(names, proposal.label_class_id or 0),
        is_tiny=is_tiny(proposal.item),
        is_flagged=is_flagged,
        proposal=proposal,
        confidence=percent(proposal.confidence),
        short_list=_("unlike anything labelled") if is_unlike else words,
        listed=tuple(class_id for class_id, _name_, _prob in listed[:LISTED_AT_MOST]),
        others=others,
    )


def _name(names: Mapping[int, str], class_id: int) -> str:
    return names.get(class_id) or _("an archived class")


def _others(proposal: Proposal, listed: list[tuple[int, str]]) -> str:
    """What else, or instead, the list of a proposal names; empty where it names the proposed class alone."""
    if not listed:
        return _("unlike")
    if len(listed) > LISTED_AT_MOST:
        return _("or %(n)s+") % {"n": LISTED_AT_MOST}
    named = [name for class_id, name in listed if class_id != proposal.label_class_id]
    if not named:
        return ""
    more = len(named) - NAMED_ON_TILE
    words = ", ".join(named[:NAMED_ON_TILE]) + (f" +{more}" if more > 0 else "")
    # One class has its own threshold, so the likeliest may be left out where the second is not.
    return (_("rather %(name)s") if len(named) == len(listed) else _("or %(name)s")) % {"name": words}


def is_promised(proposal: Proposal) -> bool:
    """Whether its list is one of which a share is promised to hold the right class: see ml_worker/conformal.py."""
    return proposal.certificate_id is None and bool(proposal.model_version.metrics.get("short_list"))
