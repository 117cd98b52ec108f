"""Where the project stands and what to do next."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from annotator import algorithms, queries
from annotator.access import LABEL, OWN, REVIEW, VIEW, allows, get_membership
from annotator.actions import certifying
from annotator.charts import Estimate, Part
from annotator.errors import Conflict, InvalidSettings
from annotator.models import Annotation, Item, Job, Membership, ModelVersion, Project, Role, Split
from annotator.views import PageRequest, calibration, forecasting, needs, page
from annotator.views.certifying import panel
from annotator.views.suspecting import panel as suspects_panel

TEMPLATE = "dashboard.html"
# The parts htmx may ask for, by the id of the element they fill.
PARTS = ("jobs", "figures")
# A screenful of proposals is worth a reviewer's turn; fewer can wait while people go on labelling.
REVIEW_ENOUGH = 24
# Who a model is that nobody taught.
NAMES_ALONE = "The class names alone, read by the encoder"


@require_safe
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, VIEW)
    part = request.htmx.target if request.htmx and request.htmx.target in PARTS else None
    context = jobs_context(membership)
    if part != "jobs":
        context |= _figures(membership)
    return polled(request, TEMPLATE, part, context)


@require_POST
@page
def draw_checks(request: PageRequest, project_id: int) -> HttpResponse:
    """Draw more random checks from the pool, ``count`` of them."""
    membership = get_membership(request.user, project_id, OWN)
    raw = request.POST.get("count", "")
    try:
        drawn = certifying.draw_checks(project=membership.project, actor=request.user, count=_count(raw))
    except (InvalidSettings, Conflict) as error:
        context = context_of(membership) | {"draw_refused": error.message, "draw_count": raw}
        return render(request, TEMPLATE, context, status=error.status)
    messages.success(request, f"{drawn:,} more random checks wait to be answered.")
    response = redirect(reverse("dashboard", args=[project_id]) + "#unseen")
    response.status_code = 303
    return response


def context_of(membership: Membership) -> dict[str, Any]:
    """What the whole page needs."""
    return jobs_context(membership) | _figures(membership)


def _count(raw: str) -> int:
    if not raw.isascii() or not raw.isdigit() or len(raw) > 9:
        raise InvalidSettings(f"{raw[:20]!r} is not a number of random checks")
    return int(raw)


def polled(request: HttpRequest, template: str, part: str | None, context: dict[str, Any]) -> HttpResponse:
    """The page, or one part of it. The jobs part says by status 286 that there is nothing left to ask for.

    When the last job ends, ``jobs-over`` makes the figures of the page ask for themselves.
    """
    response = render(request, f"{template}#{part}" if part else template, context)
    if part:
        response["Cache-Control"] = "no-store"  # "back" must find the page, not its last part
    if part == "jobs" and not context["is_busy"]:
        response.status_code = 286
        response["HX-Trigger"] = "jobs-over"
    return response


def jobs_context(membership: Membership, limit: int = 6) -> dict[str, Any]:
    """What the list of jobs needs. Two queries."""
    jobs = queries.recent_jobs(membership.project, limit=limit)
    active = [job for job in jobs if not job.is_over]
    return {
        "project": membership.project,
        "membership": membership,
        "jobs": jobs,
        "is_busy": bool(active),
        "jobs_said": _said(active),
        "worker_alive": queries.worker_state()["alive"],
    }


def _said(active: list[Job]) -> str:
    """The active jobs for a screen reader; in quarters, so that it is not told of every percent."""
    said = []
    for job in active:
        quarter = int(job.progress * 4) * 25
        said.append(
            f"{job.get_kind_display()}: {job.get_state_display().lower()}" + (f", {quarter} %" * (quarter > 0))
        )
    return "; ".join(said) or "No job is running"


def _figures(membership: Membership) -> dict[str, Any]:
    project = membership.project
    counts = queries.pool_counts(project)
    model = queries.current_model(project)
    groups = queries.review_groups(project)
    unseen = panel(membership)
    asked = sum_states(counts, Split.POOL, Split.AUDIT)
    answered = sum(asked.values()) - asked[Item.State.OPEN]
    standing = Standing(
        items=sum(asked.values()),
        answered=answered,
        pending=sum(count for _, count in groups),
        classes=len(queries.open_classes(project)),
        accepted=unseen["gate"].accepted,
        importing=Job.objects.filter(
            project=project, kind=Job.Kind.IMPORT, state__in=[Job.State.QUEUED, Job.State.RUNNING]
        ).first(),
    )
    balance = queries.class_balance(project)
    curve = queries.accuracy_curve(project)
    return {
        "next_step": next_step(project, membership.role, standing),
        "can_label": allows(membership.role, LABEL),
        "can_review": allows(membership.role, REVIEW),
        "standing": standing,
        "splits": _splits(counts, unseen["gate"].accepted),
        "balance": balance,
        "balance_most": max((count for _, count in balance), default=0),
        "model": model,
        "model_facts": model_facts(model) if model else None,
        "phase": queries.phase_told(project, model),
        "audit": audit_standing(model, counts),
        "test": queries.measured(model, "test"),
        "audit_curve": [_estimate(at, at.audit) for at in curve if at.audit.n >= queries.CHECKS_AT_LEAST],
        "test_curve": [_estimate(at, at.test) for at in curve if at.test.n],
        "precision": queries.proposal_precision(project),
        "groups": groups,
        "proposed_by_names": bool(groups) and queries.proposed_by_names(project),
        "people": people(project),
        "per_refit": project.settings.answers_per_refit,
        **unseen,
        **needs.panel(membership),
        **suspects_panel(membership),
        **forecasting.panel(membership, unseen["gate"]),
        **calibration.panel(project, model, counts),
    }


def sum_states(counts: dict[str, dict[str, int]], *splits: str) -> dict[str, int]:
    """Items by state over these splits."""
    return {state: sum(counts[split][state] for split in splits) for state in Item.State.values}


@dataclass(frozen=True)
class Standing:
    """What decides the next step. ``items`` and ``answered`` count what people are asked: pool and audit.
    ``accepted``: what is accepted unseen, and so not asked about."""

    items: int
    answered: int
    pending: int
    classes: int
    importing: Job | None = None
    accepted: int = 0

    @property
    def open(self) -> int:
        return self.items - self.answered - self.accepted


@dataclass(frozen=True)
class NextStep:
    """The one thing to do now. ``url`` is empty when this person's role does not include it."""

    title: str
    why: str
    button: str = ""
    url: str = ""


def next_step(project: Project, role: str, standing: Standing) -> NextStep:
    """What moves the project on, whoever does it; the button is there for those who may."""

    def step(title: str, why: str, button: str, view: str, needed: Role) -> NextStep:
        if allows(role, needed):
            return NextStep(title, why, button, reverse(view, args=[project.pk]))
        return NextStep(title, f"{why} This needs the role {needed.label.lower()}.")

    if not standing.items and standing.importing:
        return NextStep(
            "Images are being imported",
            "They can be labelled as soon as the import is done.",
            "Watch the import",
            reverse("job", args=[project.pk, standing.importing.pk]),
        )
    if not standing.items:
        return step("Import images", "The project has no images yet.", "Import images", "import", OWN)
    if not standing.classes:
        return step("Add classes", "Say what an image can be.", "Add classes", "project-settings", OWN)
    worth_it = standing.pending >= REVIEW_ENOUGH or (standing.pending and not standing.open)
    is_reviewed_next = worth_it and (allows(role, REVIEW) or not standing.open)
    if not standing.answered and not is_reviewed_next:
        per_refit = project.settings.answers_per_refit
        why = f"{standing.items:,} images wait. The model learns after every {per_refit} answers."
        return step("Label the first image", why, "Start labelling", "label", LABEL)
    if is_reviewed_next:
        why = f"The model proposes labels for {standing.pending:,} images. Checking a grid is faster than labelling."
        return step("Review proposals", why, "Review proposals", "review", REVIEW)
    if standing.open:
        why = f"{standing.open:,} of {standing.items:,} images have no answer yet."
        return step("Keep labelling", why, "Keep labelling", "label", LABEL)
    why = f"Every image has an answer, {standing.accepted:,} of them unseen." if standing.accepted else ""
    return step("Export the labels", why or "Every image has an answer.", "Export", "export", VIEW)


@dataclass(frozen=True)
class SplitRow:
    title: str
    help: str
    items: int
    answered: int
    parts: list[Part]


def _splits(counts: dict[str, dict[str, int]], accepted: int) -> list[SplitRow]:
    """accepted: open images of the pool whose label was accepted unseen, a state of their own here."""
    described = {
        Split.POOL: ("Pool", "What people label and the model learns from."),
        Split.AUDIT: (
            "Random checks",
            "Drawn at random, shown without hints, never learnt from: they measure accuracy.",
        ),
        Split.TEST: ("Test", "Labels known beforehand. Never asked, never learnt from."),
    }
    rows = []
    for split, (title, help) in described.items():
        by_state = counts[split]
        items = sum(by_state.values())
        if items or split == Split.POOL:
            parts = [
                Part(Item.State(state).label, by_state[state], state)
                for state in (
                    Item.State.LABELLED,
                    Item.State.NONE_OF_THESE,
                    Item.State.SKIPPED,
                    Item.State.OPEN,
                )
            ]
            if split == Split.POOL and accepted:
                parts[-1:] = [
                    Part("Accepted unseen", accepted, "accepted"),
                    Part(Item.State.OPEN.label, by_state[Item.State.OPEN] - accepted, Item.State.OPEN),
                ]
            rows.append(SplitRow(title, help, items, items - by_state[Item.State.OPEN], parts))
    return rows


@dataclass(frozen=True)
class AuditStanding:
    """How far the random checks have come. ``measured`` is what the newest model was measured on."""

    answered: int
    size: int
    enough: int
    measured: queries.Measured

    @property
    def is_enough(self) -> bool:
        return self.measured.n >= self.enough

    @property
    def is_too_small(self) -> bool:
        return self.size < self.enough


def audit_standing(model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> AuditStanding:
    audit = counts[Split.AUDIT]
    return AuditStanding(
        answered=audit[Item.State.LABELLED],
        size=sum(audit.values()),
        enough=queries.CHECKS_AT_LEAST,
        measured=queries.measured(model, "audit"),
    )


def _estimate(at: queries.CurvePoint, measured: queries.Measured) -> Estimate:
    # A measured sample that is not empty has all three numbers (queries.measured).
    assert measured.accuracy is not None and measured.low is not None and measured.high is not None
    return Estimate(at.answers, measured.accuracy, measured.low, measured.high, measured.n)


def model_facts(model: ModelVersion) -> dict[str, Any]:
    """What a reader wants to know of a model, with the titles of its parts."""
    seconds = model.metrics.get("seconds") or {}
    return {
        "head": NAMES_ALONE if model.is_zero_shot else title_of(queries.learner_kind(model), model.algorithm),
        "encoder": "The trained network" if model.encoder == "trained" else title_of("encoder", model.encoder),
        "classes": len(model.class_ids),
        "seconds": sum(each for each in seconds.values() if isinstance(each, int | float)),
    }


def title_of(kind: str, name: str) -> str:
    """The catalogue's title; a name that has left the catalogue stands for itself."""
    try:
        return algorithms.get(kind, name).title
    except InvalidSettings:
        return name


@dataclass(frozen=True)
class PersonRow:
    name: str
    answers: int
    reviewed: int
    last_at: Any


def people(project: Project) -> list[PersonRow]:
    """Who answered how many images; ``reviewed`` of them by deciding on a proposal. Two queries."""
    current = Annotation.objects.filter(
        project=project, superseded_by__isnull=True, source=Annotation.Source.PERSON
    ).exclude(kind=Annotation.Kind.RETRACTION)
    rows = (
        current.order_by()
        .values("annotator")
        .annotate(
            answers=Count("pk"), reviewed=Count("pk", filter=Q(settles__isnull=False)), last_at=Max("created_at")
        )
        .order_by("-answers", "annotator")
    )
    names = dict(User.objects.filter(pk__in=[row["annotator"] for row in rows]).values_list("pk", "username"))
    return [PersonRow(names[row["annotator"]], row["answers"], row["reviewed"], row["last_at"]) for row in rows]
