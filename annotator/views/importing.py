"""The import page: choose files, send them, then watch what becomes of them."""

import json
import shlex
import uuid as uuids
from typing import Any

from django.core.files import File
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_POST

from annotator.access import OWN, get_membership
from annotator.actions import collecting, importing
from annotator.errors import InvalidImport, WinnowError
from annotator.models import Job, Membership
from annotator.uploads import ClosingUploadHandler
from annotator.views import PageRequest, first_steps, page
from annotator.views.reading import is_number

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
        _start(request, membership, labels)
    except InvalidImport as error:
        return _refused(request, membership, error, labels)
    if request.htmx:
        return render(request, f"{TEMPLATE}#last-imports", _context(membership))
    response = redirect(reverse("import", args=[membership.project_id]))
    response.status_code = 303
    return response


def _start(request: PageRequest, membership: Membership, labels: str) -> None:
    """Import what came with this request, or what came with those before it (``collection``)."""
    wish: dict[str, Any] = {"actor": request.user, "labels": labels, "label_table": request.FILES.get("label_table")}
    if "collection" in request.POST:
        collection = _read_collection(request)
        collecting.start_collected_import(project=membership.project, collection=collection, **wish)
    else:
        uploads: list[File[Any]] = [each for each in request.FILES.getlist("files") if each.name]
        importing.start_upload_import(project=membership.project, uploads=uploads, **wish)


def _refused(request: PageRequest, membership: Membership, error: InvalidImport, labels: str) -> HttpResponse:
    context = _context(membership) | {"error": error, "labels": labels}
    return render(request, f"{TEMPLATE}#refusal" if request.htmx else TEMPLATE, context, status=error.status)


# Exempt as above.
@csrf_exempt
@require_POST
@page
def files(request: PageRequest, project_id: int) -> HttpResponse:
    """Keep some files of a collection, or with ``discard`` none of it. For the script of the page: answers in JSON."""
    membership = get_membership(request.user, project_id, OWN)
    request.upload_handlers = [ClosingUploadHandler(request)]
    answer: HttpResponse = _files(request, membership)
    return answer


@csrf_protect
def _files(request: PageRequest, membership: Membership) -> HttpResponse:
    project = membership.project
    try:
        collection = _read_collection(request)
        if "discard" in request.POST:
            collecting.discard(project=project, collection=collection)
            return JsonResponse({"kept": 0})
        if request.POST.get("batch") == "0":
            collecting.discard_abandoned(project)
        kept = collecting.collect(
            project=project,
            collection=collection,
            batch=_read_batch(request),
            uploads=[each for each in request.FILES.getlist("files") if each.name],
            paths=_read_paths(request),
        )
    except WinnowError as error:
        return JsonResponse({"message": error.message}, status=error.status)
    return JsonResponse({"kept": kept})


def _read_collection(request: PageRequest) -> uuids.UUID:
    raw = request.POST.get("collection", "")
    try:
        return uuids.UUID(raw)
    except ValueError:
        raise InvalidImport(_("%(found)s is not a collection; reload the page") % {"found": repr(raw[:40])}) from None


def _read_batch(request: PageRequest) -> int:
    raw = request.POST.get("batch", "")
    if not is_number(raw, 9):
        raise InvalidImport(_("batch %(found)s is not a whole number; reload the page") % {"found": repr(raw[:40])})
    return int(raw)


def _read_paths(request: PageRequest) -> list[str] | None:
    """A JSON list: the names of files in a form keep no folders, and text fields beside them may number 21,000."""
    raw = request.POST.get("paths")
    if raw is None:
        return None
    try:
        paths = json.loads(raw)
    except (ValueError, RecursionError):
        paths = None
    if not isinstance(paths, list) or not all(isinstance(each, str) for each in paths):
        raise InvalidImport(_("the paths are not a JSON list of words; reload the page"))
    return paths


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
        "steps": first_steps.steps(membership),
    }


def _report(job: Job) -> dict[str, Any]:
    """One import with the lists that the page has room for."""
    asked = job.parameters
    uploads = asked.get("uploads", [])
    source = uploads[0]["name"] if uploads else asked.get("first") or asked.get("path", "")
    shown = {
        kind: job.result.get(kind, [])[:REFUSED_SHOWN]
        for kind in ("refused", "unlabelled", "merged")
        if job.result.get(kind)
    }
    more = {kind: job.result.get(f"{kind}_count", 0) - len(listed) for kind, listed in shown.items()}
    others = max(len(uploads), asked.get("count", 1)) - 1
    named = {"source": source, "others": others, "folder": asked.get("from_folder"), "files": others + 1}
    return named | {"job": job, "shown": shown, "more": more}
