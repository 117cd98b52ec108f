"""What the worker does, what the models became, and the buttons that ask for more."""

from pathlib import Path
from typing import Any

from django.contrib import messages
from django.core.files.storage import default_storage
from django.http import FileResponse, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from annotator import algorithms, jobs, queries
from annotator.access import OWN, REVIEW, VIEW, allows, get_job, get_membership, get_project
from annotator.actions import comparing, training
from annotator.errors import Conflict, InvalidSettings, NotFound
from annotator.models import Job, Membership, ModelVersion, Project
from annotator.views import PageRequest, job_facts, page
from annotator.views.dashboard import jobs_context, polled
from annotator.views.model_facts import model_facts, title_of

TEMPLATE = "training.html"
# The parts htmx may ask for, by the id of the element they fill.
PARTS = ("jobs", "models", "network", "encoders")
# The head that always runs beside a network.
PLAIN = "logistic_regression"
# What encodes a project whose network took over.
TRAINED = "trained"
JOB_TEMPLATE = "job.html"
JOBS_AT_MOST = 20
MODELS_AT_MOST = 30


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    if request.method == "POST":
        needed = OWN if request.POST.get("ask") == "use-encoder" else REVIEW
        return _ask(request, get_membership(request.user, project_id, needed))
    membership = get_membership(request.user, project_id, VIEW)
    part = request.htmx.target if request.htmx and request.htmx.target in PARTS else None
    if part == "network":
        return _running_part(request, part, _network(membership) | {"project": membership.project}, "is_training")
    if part == "encoders":
        return _running_part(request, part, _encoders(membership) | {"project": membership.project}, "is_comparing")
    context = jobs_context(membership, JOBS_AT_MOST)
    if part != "jobs":
        context |= _learnt(membership)
    if part is None:
        context |= _network(membership) | _encoders(membership)
    return polled(request, TEMPLATE, part, context)


def _running_part(request: PageRequest, part: str, context: dict[str, Any], runs: str) -> HttpResponse:
    """The training or comparison that runs, drawn anew; 286 once it is over."""
    response = render(request, f"{TEMPLATE}#{part}", context)
    response["Cache-Control"] = "no-store"
    if not context[runs]:
        response.status_code = 286
    return response


def _ask(request: PageRequest, membership: Membership) -> HttpResponse:
    asked, project = request.POST.get("ask", ""), membership.project
    if asked == "refit":
        job = training.request_refit(project=project, actor=request.user)
    elif asked == "embed":
        job = training.request_embedding(project=project, actor=request.user)
    elif asked == "train":
        try:
            job = _ask_training(request, project)
        except (InvalidSettings, Conflict) as error:
            context = {"refused": error.message, "trainer": request.POST.get("trainer", "")}
            context |= {"minutes": request.POST.get("minutes", "")}
            return _refused(request, membership, context, error.status)
    elif asked == "compare":
        try:
            also = request.POST.getlist("also")
            job = comparing.request_comparison(project=project, actor=request.user, also=also)
        except (InvalidSettings, Conflict) as error:
            return _refused(request, membership, {"compare_refused": error.message}, error.status)
    elif asked == "use-encoder":
        return _use_encoder(request, membership)
    else:
        known = "refit, train, compare, embed"
        why = _("%(found)s is not something to ask for; choose %(known)s")
        raise InvalidSettings(why % {"found": repr(asked[:40]), "known": known})
    said = _("%(kind)s: job %(job)s is asked for")
    messages.success(request, said % {"kind": job.get_kind_display(), "job": job.pk})
    return _see_other(reverse("training", args=[project.pk]))


def _refused(request: PageRequest, membership: Membership, said: dict[str, Any], status: int) -> HttpResponse:
    """The page as it was, with what was said to a form of it."""
    context = jobs_context(membership, JOBS_AT_MOST) | _learnt(membership) | _network(membership)
    return render(request, TEMPLATE, context | _encoders(membership) | said, status=status)


def _use_encoder(request: PageRequest, membership: Membership) -> HttpResponse:
    project, name = membership.project, request.POST.get("encoder", "")
    try:
        comparing.use_encoder(project=project, actor=request.user, name=name)
    except (InvalidSettings, Conflict) as error:
        return _refused(request, membership, {"compare_refused": error.message}, error.status)
    said = _("Encoder: %(title)s. The images are being embedded with it")
    messages.success(request, said % {"title": title_of("encoder", name)})
    return _see_other(reverse("training", args=[project.pk]))


def _ask_training(request: PageRequest, project: Project) -> Job:
    """As the small form says; what it leaves empty is as in the settings."""
    minutes = request.POST.get("minutes", "").strip()
    try:
        number = float(minutes) if minutes else None
    except ValueError:
        why = _("%(found)s is not a number of minutes")
        raise InvalidSettings(why % {"found": repr(minutes[:20])}) from None
    trainer = request.POST.get("trainer", "") or None
    return training.request_training(project=project, actor=request.user, trainer=trainer, minutes=number)


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
        "proposed_by_names": queries.proposed_by_names(project),
        "model_count": ModelVersion.objects.filter(project=project).count(),
        "embedding": queries.current_embedding(project),
        "item_count": project.items.count(),
        "may_ask": allows(membership.role, REVIEW),
        "per_refit": project.settings.answers_per_refit,
    }


def _network(membership: Membership) -> dict[str, Any]:
    """The form that asks for a training, the one that runs or ran last, and what it would be shown."""
    project, newest = membership.project, queries.newest_training(membership.project)
    drawn = queries.newest_preview(project)
    return {
        "may_train": allows(membership.role, REVIEW),
        "may_set": allows(membership.role, OWN),
        "missing": queries.missing_for_training(project),
        "trainers": algorithms.catalogue("trainer"),
        "trainer": project.settings.trainer,
        "minutes": project.settings.training_minutes,
        "minutes_at_most": training.MINUTES_AT_MOST,
        "is_training": newest is not None and not newest.is_over,
        "training": training_facts(newest) if newest else None,
        "drawn": drawn,
        "drawn_differently": drawn is not None
        and drawn.result["preview"]["switches"] != queries.augmentation_switches(project),
    }


def training_facts(job: Job) -> dict[str, Any]:
    """What a reader wants to see of a training, while it runs and after."""
    result = job.result
    history = result.get("history", [])
    name = result.get("trainer") or job.parameters.get("trainer", "")
    title = _("Automatic") if name == training.AUTO else title_of("trainer", name)
    return {
        "job": job,
        "title": title,
        "history": history,
        "budget_s": result.get("seconds") or 60.0 * (job.parameters.get("minutes") or 0),
        "newest": history[-1] if history else {},
        "chosen": result.get("chosen", ""),
        "stopped": result.get("stopped", ""),
        "is_compared": "promoted" in result,
        "promoted": result.get("promoted"),
        "why": result.get("why", ""),
        "compared": _compared(_("This network: %(title)s") % {"title": title}, result) if "promoted" in result else [],
    }


def _compared(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The network and the heads beside it, each with its report on the random checks; the network first."""
    reports = [(name, result.get("audit"))]
    for head, report in result.get("beside", {}).items():
        title = title_of("head", head)
        reports.append((_("%(title)s, the plain baseline") % {"title": title} if head == PLAIN else title, report))
    return [{"name": each, "report": report} for each, report in reports if report and report["n"]]


def _encoders(membership: Membership) -> dict[str, Any]:
    """The form that asks for a comparison, the one that runs or ran last, and the last report."""
    project = membership.project
    newest, reported = queries.newest_comparison(project)
    embedding = queries.current_embedding(project)
    return {
        "may_compare": allows(membership.role, REVIEW),
        "may_use": allows(membership.role, OWN),
        "compare_missing": queries.missing_for_comparison(project),
        "comparison": newest,
        "is_comparing": newest is not None and not newest.is_over,
        "report": encoder_report(reported, embedding) if reported else None,
        "on_wish": [_wish(project, name) for name in comparing.ON_WISH],
    }


def _wish(project: Project, name: str) -> dict[str, Any]:
    """An encoder that costs something, with what; ``is_in``: the settings name it, so that it takes part anyway."""
    parameters = project.settings.parameters_of("encoder", name)
    cost = ""
    if "minutes" in parameters:
        cost = _("learns for %(minutes)s minutes first") % {"minutes": f"{parameters['minutes']:g}"}
    if model := parameters.get("model"):
        shown = _without_folders(model)
        cost = shown if shown != model else _("%(model)s, downloaded if it is not here") % {"model": model}
    return {
        "name": name,
        "title": title_of("encoder", name),
        "cost": cost,
        "is_in": project.settings.encoder == name or f"encoder.{name}.model" in project.settings.parameters,
    }


def _without_folders(model: str) -> str:
    """The name of a model; of a folder its last part: the folders of the server are nobody's business."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def encoder_report(job: Job, embedding: Job | None) -> dict[str, Any]:
    """A comparison with titles for names. ``embedding`` tells what is in use now; without one, nothing is."""
    stored = job.result["encoders"]
    in_use = embedding.result["encoder"] if embedding else ""

    def named(line: dict[str, Any]) -> dict[str, Any]:
        name = line["name"]
        shown = {
            "title": _("The trained network") if name == TRAINED else title_of("encoder", name),
            "is_in_use": name == in_use,
            "is_recommended": name == stored["recommended"],
            "can_be_used": name not in (in_use, TRAINED),
            "rates": [line.get("knn"), line.get("probe")],
        }
        return line | shown

    return stored | {
        "job": job,
        "lines": [named(line) for line in stored["lines"]],
        "left_out": [named(line) for line in stored["left_out"]],
        "network_in_use": in_use == TRAINED,
    }


@require_safe
@page
def preview(request: PageRequest, project_id: int) -> HttpResponseBase:
    """The sheet of images as a network would be shown them."""
    drawn = queries.newest_preview(get_project(request.user, project_id, VIEW))
    if drawn is None:
        raise NotFound(_("nothing is drawn yet; the first learning does it"))
    sheet = drawn.result["preview"]
    etag = quote_etag(sheet["sha256"])
    known: HttpResponse | None = get_conditional_response(request, etag=etag)
    try:
        response: HttpResponseBase = known or FileResponse(
            default_storage.open(sheet["key"]), content_type="image/png"
        )
    except OSError:
        raise NotFound(_("the drawing is missing from storage; the next learning draws it anew")) from None
    response["Content-Type"] = "image/png"
    response["ETag"], response["Cache-Control"] = etag, "private, no-cache"
    return response


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
        "training": training_facts(wanted) if wanted.kind == Job.Kind.TRAIN else None,
        "report": encoder_report(wanted, None) if "encoders" in wanted.result else None,
        "facts": job_facts.facts(wanted),
        "worker_alive": queries.worker_state()["alive"],
    }


@require_POST
@page
def cancel_job(request: PageRequest, project_id: int, job_id: int) -> HttpResponse:
    wanted = get_job(request.user, project_id, job_id, REVIEW)
    try:
        jobs.cancel(wanted)
    except Conflict as error:
        messages.warning(request, error.message)
    else:
        messages.success(request, _("Cancelling: the job stops at its next step"))
    return _see_other(reverse("job", args=[project_id, job_id]))


def _see_other(url: str) -> HttpResponse:
    response = redirect(url)
    response.status_code = 303
    return response
