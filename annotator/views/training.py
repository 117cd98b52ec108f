"""What the worker does, what the models became, and the buttons that ask for more."""

from pathlib import Path
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from annotator import jobs, queries
from annotator.access import REVIEW, VIEW, allows, get_job, get_membership
from annotator.actions import training
from annotator.errors import Conflict, InvalidSettings
from annotator.models import Job, Membership, ModelVersion
from annotator.views import PageRequest, page
from annotator.views.dashboard import jobs_context, model_facts, polled

TEMPLATE = "training.html"
JOB_TEMPLATE = "job.html"
JOBS_AT_MOST = 20
MODELS_AT_MOST = 30
# What jobs note for themselves.
BOOKKEEPING = {"folder", "is_tidy", "watermark", "preview", "class_ids", "history", "seconds_left", "beside", "audit"}


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    if request.method == "POST":
        return _ask(request, get_membership(request.user, project_id, REVIEW))
    membership = get_membership(request.user, project_id, VIEW)
    part = request.htmx.target if request.htmx and request.htmx.target in ("jobs", "models") else None
    context = jobs_context(membership, JOBS_AT_MOST)
    if part != "jobs":
        context |= _learnt(membership)
    return polled(request, TEMPLATE, part, context)


def _ask(request: PageRequest, membership: Membership) -> HttpResponse:
    asked = request.POST.get("ask", "")
    if asked == "refit":
        job = training.request_refit(project=membership.project, actor=request.user)
    elif asked == "embed":
        job = training.request_embedding(project=membership.project, actor=request.user)
    elif asked == "train":
        job = training.request_training(project=membership.project, actor=request.user)
    else:
        raise InvalidSettings(f"{asked[:40]!r} is not something to ask for; choose refit, train or embed")
    messages.success(request, f"{job.get_kind_display()}: job {job.pk} is asked for")
    return _see_other(reverse("training", args=[membership.project.pk]))


def _learnt(membership: Membership) -> dict[str, Any]:
    project = membership.project
    models = list(ModelVersion.objects.filter(project=project).select_related("job")[:MODELS_AT_MOST])
    rows = [
        {
            "model": model,
            "facts": model_facts(model),
            "audit": queries.measured(model, "audit"),
            "test": queries.measured(model, "test"),
        }
        for model in models
    ]
    return {
        "rows": rows,
        "has_test": any(row["test"].n for row in rows),  # type: ignore[attr-defined]
        "model_count": ModelVersion.objects.filter(project=project).count(),
        "embedding": queries.current_embedding(project),
        "item_count": project.items.count(),
        "may_ask": allows(membership.role, REVIEW),
        "per_refit": project.settings.answers_per_refit,
        "trainer_title": project.settings.trainer,
        "training_minutes": project.settings.training_minutes,
    }


@require_safe
@page
def job(request: PageRequest, project_id: int, job_id: int) -> HttpResponse:
    wanted = get_job(request.user, project_id, job_id, VIEW)
    membership = get_membership(request.user, project_id, VIEW)
    is_part = bool(request.htmx) and request.htmx.target == "job"
    response = render(request, f"{JOB_TEMPLATE}#job" if is_part else JOB_TEMPLATE, _job_context(membership, wanted))
    if is_part:
        response["Cache-Control"] = "no-store"
        if wanted.is_over:
            response.status_code = 286
    return response


def _job_context(membership: Membership, wanted: Job) -> dict[str, Any]:
    return {
        "project": membership.project,
        "membership": membership,
        "job": wanted,
        "may_cancel": allows(membership.role, REVIEW) and not wanted.is_over,
        "models": list(wanted.model_versions.all()),
        "result": _plain(wanted.result),
        "parameters": _plain(wanted.parameters),
        "worker_alive": queries.worker_state()["alive"],
        "attempts_at_most": jobs.MAX_ATTEMPTS,
    }


def _plain(values: dict[str, Any]) -> list[tuple[str, str]]:
    """The pairs a person can read: numbers and short words; lists by their length, files by their name alone."""
    rows = []
    for name, value in values.items():
        if name in BOOKKEEPING:
            continue
        if name.endswith("path"):  # the folders of the server are nobody's business
            name, value = name.removesuffix("path") + "file", Path(str(value)).name
        if isinstance(value, list | dict):
            value = f"{len(value)} entries"
        rows.append((name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)[:200]))
    return rows


@require_POST
@page
def cancel_job(request: PageRequest, project_id: int, job_id: int) -> HttpResponse:
    wanted = get_job(request.user, project_id, job_id, REVIEW)
    try:
        jobs.cancel(wanted)
    except Conflict as error:
        messages.warning(request, error.message)
    else:
        messages.success(request, "Cancelling: the job stops at its next step")
    return _see_other(reverse("job", args=[project_id, job_id]))


def _see_other(url: str) -> HttpResponse:
    response = redirect(url)
    response.status_code = 303
    return response
