"""The export page: labels, written while they are sent, and the model, packaged by a worker first."""

from typing import Any

from django.contrib import messages
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_POST, require_safe

from annotator import queries
from annotator.access import REVIEW, VIEW, allows, get_job, get_membership, get_project
from annotator.actions import certifying, exporting, packaging
from annotator.errors import Conflict, InvalidExport
from annotator.models import Membership, ModelVersion
from annotator.views import PageRequest, page
from annotator.views.certifying import promise
from annotator.views.model_facts import model_facts

TEMPLATE = "exporting.html"
# The parts htmx may ask for, by the id of the element they fill.
PARTS = ("total", "model")
# What can be packaged, as the form sends it.
AS_IT_IS, DISTILLED = "as-it-is", "distilled"
TITLES = {
    "human": (gettext_lazy("Answers of people"), gettext_lazy("given while labelling, or by correcting a proposal")),
    "accepted": (gettext_lazy("Accepted proposals"), gettext_lazy("a person looked and agreed")),
    "imported": (gettext_lazy("Imported labels"), gettext_lazy("came with the images")),
    "auto": (gettext_lazy("Accepted automatically"), gettext_lazy("nobody looked at these")),
    "none_of_these": (gettext_lazy("None of these"), gettext_lazy("a person looked; rows without a label")),
    "unlabelled": (
        gettext_lazy("Without a label"),
        gettext_lazy("not answered, skipped, or people disagree; rows without a label"),
    ),
}


@require_safe
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, VIEW)
    part = request.htmx.target if request.htmx and request.htmx.target in PARTS else None
    if part == "model":
        return _model_part(request, membership)
    template = f"{TEMPLATE}#{part}" if part else TEMPLATE
    try:
        context, status = _context(request, membership), 200
    except InvalidExport as error:
        context, status = _context(HttpRequest(), membership) | {"error": error, "total": 0}, error.status
    return render(request, template, context if part else context | _model(membership), status=status)


def _model_part(request: PageRequest, membership: Membership) -> HttpResponse:
    """The package that is being made, drawn anew; 286 once it is over."""
    context = _model(membership)
    response = render(request, f"{TEMPLATE}#model", context)
    response["Cache-Control"] = "no-store"
    if not context["is_packaging"]:
        response.status_code = 286
    return response


def _context(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    include = exporting.clean_include(request.GET.getlist("include") or exporting.DEFAULT_INCLUDE)
    format_name = exporting.clean_format(request.GET.get("format", "csv"))
    counts = exporting.row_counts(membership.project)
    standing = certifying.standing_certificates(membership.project)
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
        "promises": [promise(each) for each in standing if each.accepted_at],
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


@require_POST
@page
def package_model(request: PageRequest, project_id: int) -> HttpResponse:
    """Have the model packaged; the page then says how far that is."""
    membership = get_membership(request.user, project_id, REVIEW)
    chosen, minutes = request.POST.get("model", AS_IT_IS), request.POST.get("minutes", "").strip()
    distil = chosen == DISTILLED
    try:
        job = packaging.request_package(
            project=membership.project,
            actor=request.user,
            distil=distil,
            minutes=_number(minutes) if distil and minutes else None,
        )
    except (InvalidExport, Conflict) as error:
        context = _context(HttpRequest(), membership) | _model(membership)
        context |= {"refused": error.message, "chosen_kind": chosen, "minutes": minutes}
        return render(request, TEMPLATE, context, status=error.status)
    messages.success(request, _("The model is being packaged, as job %(job)s") % {"job": job.pk})
    response = redirect(reverse("export", args=[project_id]) + "#model-title")
    response.status_code = 303
    return response


def _number(minutes: str) -> float:
    try:
        return float(minutes)
    except ValueError:
        why = _("%(found)s is not a number of minutes")
        raise InvalidExport(why % {"found": repr(minutes[:20])}) from None


@require_safe
@page
def download_model(request: PageRequest, project_id: int, job_id: int) -> HttpResponseBase:
    job = get_job(request.user, project_id, job_id, VIEW)
    zipped = packaging.open_package(job)
    return FileResponse(
        zipped,
        as_attachment=True,
        filename=packaging.file_name(job),
        content_type="application/zip",
        headers={"Cache-Control": "no-store"},
    )


def _model(membership: Membership) -> dict[str, Any]:
    """Which model there is and how good, what of it can be packaged, how far that is, and what can be fetched."""
    project, newest = membership.project, packaging.newest_request(membership.project)
    model, network = queries.current_model(project), queries.network_in_use(project)
    is_packaging = newest is not None and not newest.is_over
    kinds = [
        _kind(
            AS_IT_IS, _("The trained network, as it is"), network, packaging.lack_for_package(project, distil=False)
        ),
        _kind(DISTILLED, _("A small network, distilled"), model, packaging.lack_for_package(project, distil=True)),
    ]
    possible = [kind["name"] for kind in kinds if not kind["lack"]]
    return {
        "project": project,
        "membership": membership,
        "model": _described(model) if model else None,
        "kinds": kinds,
        "chosen_kind": possible[0] if possible else "",
        "may_package": allows(membership.role, REVIEW),
        "is_packaging": is_packaging,
        "packaging": newest,
        "packages": [_offered(package, model) for package in packaging.packages(project)],
        "minutes": f"{packaging.MINUTES:g}",
        "minutes_at_most": packaging.MINUTES_AT_MOST,
        "worker_alive": queries.worker_state()["alive"] if is_packaging else 0,
    }


def _kind(name: str, title: str, version: ModelVersion | None, lack: str) -> dict[str, Any]:
    return {"name": name, "title": title, "version": _described(version) if version else None, "lack": lack}


def _described(version: ModelVersion) -> dict[str, Any]:
    return {
        "number": version.number,
        "labels": version.label_count,
        "facts": model_facts(version),
        "audit": queries.measured(version, "audit"),
        "enough": queries.CHECKS_AT_LEAST,
    }


def _offered(package: packaging.Package, newest: ModelVersion | None) -> dict[str, Any]:
    """A line of what can be fetched. newer: the number of the model there is now, if it is another."""
    result = package.job.result
    audit = result.get("audit")
    return {
        "job": package.job,
        "file_name": package.file_name,
        "audit": audit if audit and audit["n"] >= queries.CHECKS_AT_LEAST else None,
        "newer": newest.number if newest and newest.number > result["model"] else None,
    }
