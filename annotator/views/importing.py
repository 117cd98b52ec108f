"""The import page: choose files, then watch what becomes of them."""

import shlex
from typing import Any

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods

from annotator.access import OWN, get_membership
from annotator.actions import importing
from annotator.errors import InvalidImport
from annotator.models import Job, Membership
from annotator.uploads import ClosingUploadHandler
from annotator.views import PageRequest, page

TEMPLATE = "importing.html"
IMPORTS_SHOWN = 5
REFUSED_SHOWN = 50


# Exempt only until the upload handler is in place and the role is known: reading the token reads the whole body.
@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, OWN)
    if request.method == "POST":
        request.upload_handlers = [ClosingUploadHandler(request)]
    answer: HttpResponse = _show(request, membership)
    return answer


@csrf_protect
def _show(request: PageRequest, membership: Membership) -> HttpResponse:
    if request.method != "POST":
        is_part = bool(request.htmx) and request.htmx.target == "imports"
        context = _context(membership)
        response = render(request, f"{TEMPLATE}#imports" if is_part else TEMPLATE, context)
        if is_part:
            response["Cache-Control"] = "no-store"
            if not context["is_busy"]:
                response.status_code = 286
        return response
    labels = request.POST.get("labels", importing.NO_LABELS)
    try:
        importing.start_upload_import(
            project=membership.project,
            actor=request.user,
            uploads=[each for each in request.FILES.getlist("files") if each.name],
            labels=labels,
            label_table=request.FILES.get("label_table"),
        )
    except InvalidImport as error:
        return _refused(request, membership, error, labels)
    response = redirect(reverse("import", args=[membership.project_id]))
    response.status_code = 303
    return response


def _refused(request: PageRequest, membership: Membership, error: InvalidImport, labels: str) -> HttpResponse:
    context = _context(membership) | {"error": error, "labels": labels}
    return render(request, TEMPLATE, context, status=error.status)


def _context(membership: Membership) -> dict[str, Any]:
    imports = list(
        Job.objects.filter(project=membership.project, kind=Job.Kind.IMPORT).select_related("created_by")[
            :IMPORTS_SHOWN
        ]
    )
    return {
        "project": membership.project,
        "membership": membership,
        "shell_name": shlex.quote(membership.project.name),
        "imports": [_report(job) for job in imports],
        "is_busy": any(not job.is_over for job in imports),
        "labels": importing.NO_LABELS,
    }


def _report(job: Job) -> dict[str, Any]:
    """One import with the lists that the page has room for."""
    names = [upload["name"] for upload in job.parameters.get("uploads", [])] or [job.parameters.get("path", "")]
    shown = {
        kind: job.result.get(kind, [])[:REFUSED_SHOWN]
        for kind in ("refused", "unlabelled", "merged")
        if job.result.get(kind)
    }
    more = {kind: job.result.get(f"{kind}_count", 0) - len(listed) for kind, listed in shown.items()}
    return {"job": job, "source": names[0], "others": len(names) - 1, "shown": shown, "more": more}
