"""The export page, and the download itself: written while it is sent."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_GET, require_safe

from annotator.access import VIEW, get_membership, get_project
from annotator.actions import exporting
from annotator.errors import InvalidExport
from annotator.models import Membership
from annotator.views import PageRequest, page

TEMPLATE = "exporting.html"
TITLES = {
    "human": ("Answers of people", "given while labelling, or by correcting a proposal"),
    "accepted": ("Accepted proposals", "a person looked and agreed"),
    "imported": ("Imported labels", "came with the images"),
    "auto": ("Accepted automatically", "nobody looked at these"),
    "none_of_these": ("None of these", "a person looked; rows without a label"),
    "unlabelled": ("Without a label", "not answered, skipped, or people disagree; rows without a label"),
}


@require_safe
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, VIEW)
    is_part = bool(request.htmx) and request.htmx.target == "total"
    try:
        context = _context(request, membership)
    except InvalidExport as error:
        context = _context(HttpRequest(), membership) | {"error": error, "total": 0}
        return render(request, f"{TEMPLATE}#total" if is_part else TEMPLATE, context, status=error.status)
    return render(request, f"{TEMPLATE}#total" if is_part else TEMPLATE, context)


def _context(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    include = exporting.clean_include(request.GET.getlist("include") or exporting.DEFAULT_INCLUDE)
    format_name = exporting.clean_format(request.GET.get("format", "csv"))
    counts = exporting.row_counts(membership.project)
    return {
        "project": membership.project,
        "membership": membership,
        "formats": exporting.FORMATS,
        "format_name": format_name,
        "choices": [
            {
                "name": name,
                "title": title,
                "help": help_text,
                "count": exporting.included(counts, [name]),
                "is_chosen": name in include,
            }
            for name, (title, help_text) in TITLES.items()
        ],
        "total": exporting.included(counts, include),
        "disputed": counts[exporting.DISPUTED],
        "all": sum(counts.values()),
    }


@require_GET
@page
def download(request: PageRequest, project_id: int) -> HttpResponseBase:
    project = get_project(request.user, project_id, VIEW)
    format_name = exporting.clean_format(request.GET.get("format", "csv"))
    pieces = exporting.export(
        project=project,
        format_name=format_name,
        include=request.GET.getlist("include") or exporting.DEFAULT_INCLUDE,
    )
    response = StreamingHttpResponse(pieces, content_type=exporting.FORMATS[format_name].content_type)
    name = exporting.file_name(project, format_name)
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["Cache-Control"] = "no-store"
    return response
