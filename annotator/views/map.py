"""The map of the images: the page, its points for the script, and what is done with a part of it."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from numpy.typing import NDArray

from annotator import queries
from annotator.access import LABEL, REVIEW, VIEW, allows, get_membership
from annotator.actions import choosing, mapping, round_checks
from annotator.errors import Conflict, WinnowError
from annotator.models import Item, Job, Membership
from annotator.queries.map import polygon_text
from annotator.queries.map_points import STATES, Points, points
from annotator.views import PageRequest, page
from annotator.wording import percent, thousands

TEMPLATE = "map.html"
# Parts of the map as a table, for whoever points at nothing: halved so often, always the longer side.
HALVINGS = 4


@dataclass(frozen=True)
class Region:
    """A rectangle of the map. unsure: mean doubt of its open images in words; mostly: the commonest class there."""

    number: int
    images: int
    still_open: int
    mostly: str
    unsure: str
    inside: str


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """POST: draw it."""
    if request.method == "POST":
        membership = get_membership(request.user, project_id, REVIEW)
        mapping.request_map(project=membership.project, actor=request.user)
        return _see_other(reverse("map", args=[project_id]))
    membership = get_membership(request.user, project_id, VIEW)
    is_part = bool(request.htmx) and request.htmx.target == "drawing"
    context = _context(membership)
    response = render(request, f"{TEMPLATE}#drawing" if is_part else TEMPLATE, context)
    if is_part:
        response["Cache-Control"] = "no-store"
        if context["drawing"] is None:
            response.status_code = 286
            response["HX-Refresh"] = "true"
    return response


def _context(membership: Membership) -> dict[str, Any]:
    project = membership.project
    drawn = queries.image_map(project)
    shown = seen_points(membership) if drawn else None
    active = Job.objects.filter(project=project, kind=Job.Kind.MAP, state__in=[Job.State.QUEUED, Job.State.RUNNING])
    ended = Job.objects.filter(project=project, kind=Job.Kind.MAP).order_by("-id").first() if not drawn else None
    return {
        "project": project,
        "membership": membership,
        "drawn": drawn,
        "shown": shown,
        "drawing": active.order_by("id").first(),
        "failed": ended if ended and ended.state == Job.State.FAILED else None,
        "lack": "" if queries.current_embedding(project) else queries.lack_of_embedding(project, mapping.ASK),
        "regions": regions(shown) if shown else [],
        "may_draw": allows(membership.role, REVIEW),
        "may_label": allows(membership.role, LABEL),
        "may_review": allows(membership.role, REVIEW),
        "chosen": choosing.waiting(project, membership.user),
        "chosen_at_most": choosing.CHOSEN_AT_MOST,
    }


def seen_points(membership: Membership) -> Points:
    """What this person may see of the map."""
    return points(
        membership.project,
        may_see_checks=allows(membership.role, REVIEW),
        asked_blind=round_checks.set_aside(membership.project),
    )


def regions(shown: Points) -> list[Region]:
    """Rectangles of about equally many images each, those with the most open images first."""
    cells = [np.arange(len(shown.item_ids))]
    for _half in range(HALVINGS):
        cells = [part for cell in cells for part in _halves(shown.places, cell)]
    found = [_region(shown, cell) for cell in cells if len(cell)]
    found.sort(key=lambda each: -each[0])
    return [
        Region(number, images, still_open, mostly, unsure, inside)
        for number, (still_open, images, mostly, unsure, inside) in enumerate(found, start=1)
    ]


def _halves(places: NDArray[np.float32], cell: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    if len(cell) < 8:
        return [cell]
    axis = int(np.ptp(places[cell], axis=0).argmax())
    order = cell[np.argsort(places[cell, axis], kind="stable")]
    return [order[: len(order) // 2], order[len(order) // 2 :]]


def _region(shown: Points, cell: NDArray[np.int64]) -> tuple[int, int, str, str, str]:
    is_open = shown.states[cell] == STATES.index(Item.State.OPEN)
    named = np.where(shown.labels[cell] > 0, shown.labels[cell], shown.said[cell])
    counts = np.bincount(named, minlength=len(shown.classes) + 1)[1:]
    mostly = shown.classes[int(counts.argmax())].name if counts.size and counts.max() else "–"
    guessed = is_open & (shown.said[cell] > 0)
    unsure = percent(float(1 - shown.confidence[cell][guessed].mean())) if guessed.any() else "–"
    (left, low), (right, high) = shown.places[cell].min(axis=0), shown.places[cell].max(axis=0)
    edge = 1e-5
    left, low, right, high = (float(np.clip(at, 0, 1)) for at in (left - edge, low - edge, right + edge, high + edge))
    corners = [(left, low), (right, low), (right, high), (left, high)]
    return int(is_open.sum()), len(cell), mostly, unsure, polygon_text(corners)


@require_safe
@gzip_page
@page
def map_points(request: PageRequest, project_id: int) -> HttpResponse:
    """Every point there is to see, packed for static/js/map.js (`packed`)."""
    membership = get_membership(request.user, project_id, VIEW)
    if queries.image_map(membership.project) is None:
        raise Conflict(_("The map of these images is not drawn yet."))
    shown = seen_points(membership)
    response = HttpResponse(packed(shown), content_type="application/octet-stream")
    response["Cache-Control"] = "no-store"
    return response


def packed(shown: Points) -> bytes:
    """The length of a JSON head (uint32), the head, zeros up to a multiple of four, then arrays of n, little-endian:
    id gaps uint32, x and y uint16 (0..65535), label, said (places in classes from 1, 0: none; uint8 or uint16 as
    head.wide says), and uint8 of state + 16 x confidence in fifteenths."""
    n, wide = len(shown.item_ids), len(shown.classes) > 254
    head = {
        "n": n,
        "wide": wide,
        "classes": [{"id": each.pk, "name": each.name, "colour": each.colour} for each in shown.classes],
        "states": list(STATES),
        "model": shown.model_number,
    }
    written = json.dumps(head, separators=(",", ":")).encode()
    written += b" " * (-(len(written) + 4) % 4)
    kind = "<u2" if wide else "u1"
    at = np.round(shown.places * 65535).astype("<u2")
    sure = np.round(shown.confidence * 15).astype("u1")
    arrays = [
        np.diff(shown.item_ids, prepend=0).astype("<u4"),
        at[:, 0],
        at[:, 1],
        shown.labels.astype(kind),
        shown.said.astype(kind),
        shown.states.astype("u1") + 16 * sure,
    ]
    return len(written).to_bytes(4, "little") + written + b"".join(each.tobytes() for each in arrays)


@require_POST
@page
def choose(request: PageRequest, project_id: int) -> HttpResponse:
    """``do``: "label" puts the open images ``inside`` at the head of this person's queue; "give-back" lets them go."""
    membership = get_membership(request.user, project_id, LABEL)
    project = membership.project
    if request.POST.get("do") == "give-back":
        n = choosing.give_back(project=project, annotator=request.user)
        said = ngettext("%(n)s image is back in the common queue.", "%(n)s images are back in the common queue.", n)
        messages.success(request, said % {"n": thousands(n)})
        return _see_other(reverse("map", args=[project_id]))
    try:
        chosen = choosing.choose_items(
            project=project,
            annotator=request.user,
            item_ids=most_doubtful_first(membership, request.POST.get("inside", "")),
        )
    except WinnowError as error:
        return render(request, TEMPLATE, _context(membership) | {"error": error}, status=error.status)
    said = ngettext("%(n)s image comes first now.", "%(n)s images come first now.", chosen.count)
    said %= {"n": thousands(chosen.count)}
    if chosen.left:
        said += " " + _("%(n)s more lie there: choose again when these are done.") % {"n": thousands(chosen.left)}
    if chosen.held:
        said += " " + _("%(n)s are being answered by others.") % {"n": thousands(chosen.held)}
    messages.success(request, said)
    return _see_other(reverse("label", args=[project_id]))


def most_doubtful_first(membership: Membership, corners: str) -> list[int]:
    """The items inside a polygon, those the newest model is least sure of first."""
    inside = queries.items_inside(membership.project, corners)
    known = queries.predictions(membership.project)
    if known is None or not len(known.item_ids):
        return [int(pk) for pk in inside]
    rows = np.searchsorted(known.item_ids, inside).clip(max=len(known.item_ids) - 1)
    sure = np.where(known.item_ids[rows] == inside, known.confidence[rows], 0.0)
    return [int(pk) for pk in inside[np.argsort(sure, kind="stable")]]


def _see_other(url: str) -> HttpResponse:
    response = redirect(url)
    response.status_code = 303
    return response
