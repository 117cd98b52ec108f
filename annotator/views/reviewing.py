"""The review page: a screenful of proposals or labels, decided by one request. What it shows is in its address."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from annotator import queries
from annotator.access import REVIEW, get_membership
from annotator.actions import certifying, checking, reviewing
from annotator.actions.classes import PAGE_KEYS
from annotator.actions.gate import given_back
from annotator.errors import InvalidAnnotation, InvalidFilter, WinnowError
from annotator.models import AuditEvent, Item, LabelClass, Membership, Project, Proposal
from annotator.queries.selecting import (
    EVERY_CLASS,
    LABELS,
    NAMES,
    NEIGHBOURS,
    TILES,
    TILES_AT_LEAST,
    TILES_AT_MOST,
    UNSEEN,
    Selection,
    read_selection,
)
from annotator.views import PageRequest, page
from annotator.views.certifying import promise
from annotator.views.choices import choices_of
from annotator.views.reading import is_number
from annotator.views.review_filters import form_of, in_force, order_told, question
from annotator.views.review_tiles import tiles_of
from annotator.views.review_trust import trust_context
from annotator.wording import thousands

TEMPLATE = "reviewing.html"
REVIEW_KEYS = set("m")  # beside those that the labelling page has too
# Written by the page's script: how many tiles fit this screen, and how large they are.
TILES_COOKIE, SIZE_COOKIE, SIZES = "winnow_tiles", "winnow_tile_size", ("s", "m", "l", "xl")


@dataclass(frozen=True)
class Group:
    """A class that has proposals waiting."""

    label_class: LabelClass
    pending: int
    is_current: bool
    query: str


@dataclass(frozen=True)
class Left:
    """An image that a decision left as it was: what was said of it, and why that did not count."""

    item: Item
    wanted: str
    why: str


@require_http_methods(["GET", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, REVIEW)
    if request.method == "POST":
        return _decide(request, membership)
    try:
        context = _context(request, membership, request.GET)
    except InvalidFilter as error:
        return _misread(request, membership, error)
    return _answer(request, context | {"decided": _last_decision(request, membership.project)})


@require_POST
@page
def undo(request: PageRequest, project_id: int) -> HttpResponse:
    """Take back the screenful named by ``event``, and go back to where it was decided."""
    membership = get_membership(request.user, project_id, REVIEW)
    project = membership.project
    try:
        event_id = _read_id(request.POST.get("event"))
        undone = reviewing.undo_decision(project=project, reviewer=request.user, event_id=event_id)
    except WinnowError as error:
        return _refused(request, membership, error)
    decided_at = AuditEvent.objects.get(pk=event_id).detail.get("place") or _place(request.POST).urlencode()
    place, context = _afterwards(request, membership, QueryDict(decided_at))
    if not request.htmx:
        return _see_other(project, place.urlencode())
    before = reviewing.decision_before(project=project, reviewer=request.user, event_id=event_id)
    context |= {"decided": _counts(before) if before else None, "undone": undone, "is_undone": True}
    return _answer(request, context)


def _answer(request: PageRequest, context: dict[str, Any], status: int = 200) -> HttpResponse:
    """The grid alone to a script, else the page with its filter."""
    if request.htmx:
        return render(request, f"{TEMPLATE}#grid", context, status=status)
    project, sent = context["project"], context["sent"]
    return render(request, TEMPLATE, context | {"filter": form_of(project, sent)}, status=status)


def _misread(request: PageRequest, membership: Membership, error: InvalidFilter) -> HttpResponse:
    """What does not fit the filter, with the form as it was sent, and no image."""
    sent = {name: request.GET[name][:500] for name in NAMES if request.GET.get(name)}
    context = {
        "project": membership.project,
        "membership": membership,
        "task_type": f"task_types/{membership.project.task_type}.html",
        "misread": error,
        "sent": sent,
        "choices": [],
        "size": _size(request),
        "waiting": _waiting(membership.project),
    }
    return _answer(request, context, status=error.status)


# --- deciding ------------------------------------------------------------------------------------------------------


def _decide(request: PageRequest, membership: Membership) -> HttpResponse:
    place, project = _place(request.POST), membership.project
    try:
        wanted = _read_decisions(request.POST)
        decided_at = request.POST.get("here") or place.urlencode()
        if place.get("show") == LABELS:
            names = {"right": "accepted", "doubted": "rejected", "corrected": "corrected"}
            said = {name: wanted[other] for name, other in names.items()}
            decision = checking.check_labels(project=project, reviewer=request.user, place=decided_at, **said)
        else:
            decision = reviewing.decide(project=project, reviewer=request.user, place=decided_at, **wanted)
    except WinnowError as error:
        return _refused(request, membership, error)
    left = _left(project, decision, wanted, is_labels=place.get("show") == LABELS)
    # What was left undecided, or stays because it is a label, comes again only behind everything else.
    if request.POST.getlist("left") or place.get("show") == LABELS:
        place["after"], place["before"] = request.POST.get("last", ""), ""
        place["class"] = str(place.get("class") or QueryDict(decided_at).get("class", ""))
    place, context = _afterwards(request, membership, place, goes_on=True)
    if not request.htmx and not left:
        event = f"&decided={decision.event_id}" if decision.event_id else ""
        return _see_other(project, place.urlencode() + event)
    # What was left alone cannot be told after a redirect: it is nowhere but here.
    return _answer(request, context | {"decided": decision, "left": left})


def _left(project: Project, decision: reviewing.Decision, wanted: dict[str, Any], *, is_labels: bool) -> list[Left]:
    """The conflicts with the name of each image and what the reviewer had said of it."""
    why = {each.proposal_id: each.why for each in decision.conflicts}
    names = {each.pk: each.name for each in project.classes.all()}
    if is_labels:
        items = Item.objects.filter(project=project, pk__in=why).order_by("pk")
        return [Left(item, _verdict(item.pk, "", wanted, names), why[item.pk]) for item in items]
    proposals = Proposal.objects.select_related("item").filter(project=project, pk__in=why).order_by("pk")
    return [
        Left(each.item, _verdict(each.pk, names.get(each.label_class_id or 0, ""), wanted, names), why[each.pk])
        for each in proposals
    ]


def _verdict(pk: int, proposed: str, wanted: dict[str, Any], names: dict[int, str]) -> str:
    """What the reviewer said of this tile, in words."""
    if pk in wanted["rejected"]:
        return _("not %(name)s") % {"name": proposed or _("this")}
    if pk in wanted["corrected"]:
        return names.get(int(wanted["corrected"][pk]["class"]), _("another class"))
    return proposed or _("this")


def _read_decisions(posted: QueryDict) -> dict[str, Any]:
    """Every ``shown`` tile not named by ``wrong``, ``left`` or ``corrected`` (``<tile>:<class>``) is accepted."""
    corrected = {}
    for each in posted.getlist("corrected"):
        tile, _colon, class_id = each.partition(":")
        corrected[_read_id(tile)] = {"class": _read_id(class_id)}
    left = {_read_id(each) for each in posted.getlist("left")}
    corrected = {tile: value for tile, value in corrected.items() if tile not in left}
    rejected = {_read_id(each) for each in posted.getlist("wrong")} - set(corrected) - left
    shown = dict.fromkeys(_read_id(each) for each in posted.getlist("shown"))
    accepted = [each for each in shown if each not in rejected | left and each not in corrected]
    return {"accepted": accepted, "rejected": sorted(rejected), "corrected": corrected}


def _place(posted: QueryDict) -> QueryDict:
    """The address of the grid somebody is at: ``place``, or its words one by one."""
    place = QueryDict(posted.get("place", ""), mutable=True)
    for name in ("class", "show"):
        if name in posted and name not in place:
            place[name] = posted.get(name, "")
    return place


def _read_id(raw: str | None) -> int:
    if not is_number(raw):
        raise InvalidAnnotation(
            _("%(found)s is not the number of a proposal; reload the page") % {"found": repr((raw or "")[:40])}
        )
    return int(raw)


def _refused(request: PageRequest, membership: Membership, error: WinnowError) -> HttpResponse:
    try:
        context = _context(request, membership, _place(request.POST))
    except InvalidFilter:
        context = _context(request, membership, QueryDict())
    return _answer(request, context | {"error": error}, status=error.status)


def _afterwards(
    request: PageRequest, membership: Membership, place: QueryDict, *, goes_on: bool = False
) -> tuple[QueryDict, dict[str, Any]]:
    """The place to go on from once something is saved, and its screen. The first screen where that place does not
    read any more, its group gone say: a refusal would tell that nothing was done."""
    try:
        return place, _context(request, membership, place, goes_on=goes_on)
    except InvalidFilter:
        first = QueryDict()
        return first, _context(request, membership, first)


def _see_other(project: Project, query: str) -> HttpResponse:
    response = redirect(f"{reverse('review', args=[project.pk])}?{query}")
    response.status_code = 303
    return response


def _last_decision(request: HttpRequest, project: Project) -> dict[str, Any] | None:
    """What the redirect after a form without JavaScript reports: the counts of this person's own decision."""
    raw = request.GET.get("decided", "")
    if not is_number(raw):
        return None
    event = AuditEvent.objects.filter(pk=int(raw), project=project, actor_id=request.user.pk).first()
    if event is None or "accepted" not in event.detail:
        return None
    return _counts(event)


def _counts(event: AuditEvent) -> dict[str, Any]:
    counts = {name: event.detail.get(name, 0) for name in ("accepted", "rejected", "corrected")}
    return counts | {"event_id": event.pk, "is_labels": event.verb == reviewing.CHECKED}


# --- showing -------------------------------------------------------------------------------------------------------


def _context(
    request: HttpRequest, membership: Membership, raw: Mapping[str, str], *, goes_on: bool = False
) -> dict[str, Any]:
    """The screen the address asks for. goes_on: where there is nothing behind the place it names, the next class."""
    project = membership.project
    chosen = read_selection(project, raw, tiles=_tiles(request))
    is_unseen = chosen.show == UNSEEN
    state = Proposal.State.AUTO_ACCEPTED if is_unseen else Proposal.State.PENDING
    groups = [] if chosen.show == LABELS else queries.review_groups(project, state)
    chosen, label_class = _resolved(project, chosen, groups)
    rows = queries.chosen_rows(project, chosen)
    found = queries.screen(project, chosen, rows)
    if not found.rows and not found.is_cut and (chosen.after or chosen.before):
        chosen, label_class = _from_the_start(chosen, label_class, groups if goes_on else [])
        found = queries.screen(project, chosen)
    here = EVERY_CLASS if label_class is None else str(label_class.pk)
    tiles = tiles_of(project, request.user.pk or 0, chosen, found.rows)
    if found.places:
        tiles = [replace(tile, after=place) for tile, place in zip(tiles, found.places, strict=True)]
    context = {
        "project": project,
        "membership": membership,
        "task_type": f"task_types/{project.task_type}.html",
        "sent": dict(chosen.sent),
        "chosen": chosen,
        "is_labels": chosen.show == LABELS,
        "is_unseen": is_unseen,
        "is_mixed": label_class is None,
        "groups": _groups(project, chosen, groups, label_class),
        "every_query": chosen.first_screen(**{"class": EVERY_CLASS}),
        "waiting": _waiting(project),
        "label_class": label_class,
        "tiles": tiles,
        "found": found,
        "place": chosen.query(),
        "here": chosen.query(**{"class": here}),
        "next_query": _next(chosen, here, found, groups, label_class),
        "before_query": chosen.query(**{"class": here, "after": "", "before": found.before}) if found.before else "",
        "question": question(chosen, label_class),
        "order_told": order_told(chosen, label_class),
        "in_force": in_force(project, chosen),
        "matches": _matches(chosen, rows) if chosen.is_narrowed else "",
        "size": _size(request),
        "unseen": certifying.accepted_unseen(project).count(),
        "promises": [promise(each) for each in certifying.standing_certificates(project) if each.accepted_at],
        "given_back": given_back(project),
        "choices": choices_of(queries.open_classes(project), PAGE_KEYS | REVIEW_KEYS),
    }
    if chosen.show != LABELS:
        context |= trust_context(project)
    if not tiles:
        context |= {"progress": queries.label_progress(project, membership.user)}
    return context


def _resolved(
    project: Project, chosen: Selection, groups: list[tuple[LabelClass, int]]
) -> tuple[Selection, LabelClass | None]:
    """The filter with its class decided: the one asked for, else the first that waits; None: all of them.

    Classes that would leave most of a screen empty are shown together, one behind the other.
    """
    asked = chosen.class_id
    if chosen.every or chosen.pair:
        return replace(chosen, class_id=None, every=True), None
    if chosen.show == LABELS or chosen.is_narrowed:
        label_class = project.classes.filter(pk=asked).first() if asked is not None else None
        return replace(chosen, class_id=label_class.pk if label_class else None), label_class
    there = next((each for each, _n in groups if each.pk == asked), None)
    if there is None and groups:
        first, waiting = groups[0]
        if len(groups) > 1 and waiting * 2 < chosen.tiles:
            return replace(chosen, class_id=None, every=True), None
        there = first
    return replace(chosen, class_id=there.pk if there else None), there


def _from_the_start(
    chosen: Selection, label_class: LabelClass | None, groups: list[tuple[LabelClass, int]]
) -> tuple[Selection, LabelClass | None]:
    """Nothing is left behind this place: the next class, where only undecided ones are left here, or the beginning."""
    following = _following(groups, label_class) if not chosen.is_narrowed else None
    if following is None:
        return chosen.at(), label_class
    other = chosen.at()
    sent = tuple((name, str(following.pk) if name == "class" else value) for name, value in other.sent)
    return replace(other, class_id=following.pk, sent=sent), following


def _following(groups: list[tuple[LabelClass, int]], label_class: LabelClass | None) -> LabelClass | None:
    """The class behind this one that has proposals, the first one behind the last; None without another."""
    classes = [each for each, _n in groups]
    if label_class not in classes or len(classes) < 2:
        return None
    return classes[(classes.index(label_class) + 1) % len(classes)]


def _next(
    chosen: Selection,
    here: str,
    found: queries.Screen,
    groups: list[tuple[LabelClass, int]],
    label_class: LabelClass | None,
) -> str:
    """The address of the next screen, of the next class at the end of one; empty: there is none."""
    if found.after:
        return chosen.query(**{"class": here, "after": found.after, "before": ""})
    following = None if chosen.is_narrowed else _following(groups, label_class)
    return chosen.first_screen(**{"class": str(following.pk)}) if following else ""


def _groups(
    project: Project, chosen: Selection, groups: list[tuple[LabelClass, int]], current: LabelClass | None
) -> list[Group]:
    counted = [(each, 0) for each in queries.open_classes(project)] if chosen.show == LABELS else groups
    # Counts are of all that waits; under a filter they would mislead.
    return [
        Group(
            each,
            0 if chosen.is_narrowed else waiting,
            each == current,
            chosen.first_screen(**{"class": str(each.pk)}),
        )
        for each, waiting in counted
    ]


def _matches(chosen: Selection, rows: QuerySet[Any]) -> str:
    """How many the filter lets through, counted up to a thousand; empty where that must be asked of each."""
    if chosen.disagree == NEIGHBOURS:
        return ""
    count, is_more = queries.bounded_count(rows)
    return f"{thousands(count)}{'+' if is_more else ''}"


def _waiting(project: Project) -> str:
    count, is_more = queries.bounded_count(queries.pending(project))
    return f"{thousands(count)}{'+' if is_more else ''}"


def _tiles(request: HttpRequest) -> int:
    raw = request.COOKIES.get(TILES_COOKIE, "")
    fits = int(raw) if is_number(raw, 3) else TILES
    return fits if TILES_AT_LEAST <= fits <= TILES_AT_MOST else TILES


def _size(request: HttpRequest) -> str:
    wanted = request.COOKIES.get(SIZE_COOKIE, "m")
    return wanted if wanted in SIZES else "m"
