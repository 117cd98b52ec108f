"""Flags: one image flagged from wherever it is shown, and the page on which reviewers look through what was."""

from typing import Any

from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from annotator import queries
from annotator.access import LABEL, REVIEW, allows, get_membership
from annotator.actions import flagging
from annotator.errors import InvalidAnnotation, WinnowError
from annotator.models import Membership
from annotator.views import PageRequest, page
from annotator.views.choices import is_tiny
from annotator.views.reading import is_number

TEMPLATE = "flagging.html"
ROWS = 50


@require_POST
@page
def toggle(request: PageRequest, project_id: int, item_id: int) -> HttpResponseBase:
    """Raise or lower one's own flag. Answers JSON where that is asked for, else the button, else the page before."""
    membership = get_membership(request.user, project_id, LABEL)
    wants_json = "application/json" in request.headers.get("Accept", "")
    try:
        is_raised = flagging.toggle_flag(
            project=membership.project,
            item_id=item_id,
            actor=request.user,
            note=request.POST.get("note", ""),
            raised=_wanted(request.POST.get("raised")),
        )
    except WinnowError as error:
        if not wants_json:
            raise
        return JsonResponse({"error": {"code": error.code, "message": error.message}}, status=error.status)
    if wants_json:
        return JsonResponse({"item": item_id, "raised": is_raised})
    if request.htmx:
        context = {"project": membership.project, "item_id": item_id, "is_raised": is_raised}
        return render(request, f"{TEMPLATE}#flag", context)
    return _back(request, membership)


@require_http_methods(["GET", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """The raised flags, the oldest first, a page at a time by their ids; POST lowers one."""
    membership = get_membership(request.user, project_id, REVIEW)
    project, status = membership.project, 200
    context: dict[str, Any] = {}
    if request.method == "POST":
        try:
            flagging.lower_flag(project=project, flag_id=_id(request.POST.get("flag")), actor=request.user)
        except WinnowError as error:
            context, status = {"error": error}, error.status
        else:
            if not request.htmx:
                return redirect("flags", project.pk)
    after = _id(request.GET.get("after") or "0")
    flags = list(queries.raised_flags(project).filter(pk__gt=after)[: ROWS + 1])
    context |= {
        "project": project,
        "membership": membership,
        "rows": [
            {"flag": flag, "is_tiny": is_tiny(flag.item), "is_hidden": getattr(flag, "hides_note", True)}
            for flag in flags[:ROWS]
        ],
        "next_after": flags[ROWS - 1].pk if len(flags) > ROWS else None,
        "is_first": not after,
    }
    return render(request, f"{TEMPLATE}#list" if request.htmx else TEMPLATE, context, status=status)


def _wanted(raw: str | None) -> bool | None:
    if raw in (None, ""):
        return None
    if raw not in ("0", "1"):
        raise InvalidAnnotation(
            _("raised is %(found)s; send 1 to raise the flag, 0 to lower it, or leave it out")
            % {"found": repr(raw[:40])}
        )
    return raw == "1"


def _id(raw: str | None) -> int:
    if not is_number(raw):
        raise InvalidAnnotation(
            _("%(found)s is not the number of a flag; reload the page") % {"found": repr((raw or "")[:40])}
        )
    return int(raw)


def _back(request: PageRequest, membership: Membership) -> HttpResponse:
    """To ``next``, an address of this site, else to a page this person may open."""
    wanted = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(wanted, {request.get_host()}, request.is_secure()):
        name = "flags" if allows(membership.role, REVIEW) else "label"
        wanted = reverse(name, args=[membership.project_id])
    response = redirect(wanted)
    response.status_code = 303
    return response
