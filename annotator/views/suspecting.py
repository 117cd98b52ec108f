"""Labels that may be wrong: what the dashboard says of them, and the list for those who review.

Annotators never see the list. Whoever knows that a label is doubted looks for its fault.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header, urlencode
from django.views.decorators.http import require_http_methods, require_safe

from annotator import queries, task_types
from annotator.access import REVIEW, allows, get_membership, get_project
from annotator.actions import suspecting
from annotator.actions.exporting import safe_stem
from annotator.actions.suspecting import HitRate, Standing
from annotator.errors import InvalidSettings, WinnowError
from annotator.models import Annotation, LabelClass, Membership, Project, Suspect
from annotator.views import PageRequest, page
from annotator.views.choices import is_tiny
from annotator.wording import percent

TEMPLATE = "suspecting.html"
ON_A_PAGE = 30
# Titles of the states, in the order in which they are offered.
STATES = {
    Suspect.State.OPEN: "Waiting",
    Suspect.State.REPAIRED: "Were wrong",
    Suspect.State.CONFIRMED: "Were right",
    Suspect.State.DROPPED: "No longer suspected",
}


# --- the panel ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suspicion:
    """What the panel says. labels: how many were studied, 0 before the first study; stopped: the hits because of which
    nothing is suspected any more; resumes_at: the labels it takes to begin anew; disagrees: the share of labels the
    model firmly disagrees with, None once enough was looked at."""

    standing: Standing
    labels: int
    disagrees: float | None
    stopped: HitRate | None
    resumes_at: int
    effect: dict[str, Any] | None


def panel(membership: Membership) -> dict[str, Any]:
    """The context of templates/suspecting.html#panel. Three queries."""
    project = membership.project
    told, standing = _study(project), suspecting.standing(project)
    stopped_at = told.get("stopped_at")
    suspicion = Suspicion(
        standing=standing,
        labels=told.get("labels", 0),
        disagrees=_disagrees(told, standing),
        stopped=suspecting.newest_hits(project, told.get("since")) if stopped_at else None,
        resumes_at=suspecting.AGAIN_AT * (stopped_at or 0),
        effect=_in_points(told.get("effect")),
    )
    return {"suspicion": suspicion, "may_see_suspects": allows(membership.role, REVIEW)}


def _study(project: Project) -> dict[str, Any]:
    study = queries.newest_study(project)
    return (study.result.get("suspects") or {}) if study else {}


def _disagrees(told: dict[str, Any], standing: Standing) -> float | None:
    """What the model alone says, until people looked at enough of what it suspects.

    No rate of wrong labels follows of either: only what was suspected is looked at, the most suspect first, and what
    nobody suspects is not counted. An interval would hold neither doubt.
    """
    noise = told.get("noise")
    return None if standing.hits.is_enough or not noise else float(noise["rate"])


def _in_points(effect: dict[str, Any] | None) -> dict[str, Any] | None:
    """The effect with its difference in percentage points, in words."""
    if effect is None:
        return None
    points = {name: f"{100 * effect[name]:+.1f}".replace("-", "−") for name in ("difference", "low", "high")}
    return effect | points


# --- the list -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbour:
    item_id: int
    class_name: str
    is_like_given: bool


@dataclass(frozen=True)
class Row:
    """A suspect as the list shows it. given, now: in words; support: how likely the head finds the given class and the
    other, in words, empty where no study tells."""

    suspect: Suspect
    given: str
    colour: str
    given_by: str
    doubt: str
    support: str
    near: list[Neighbour]
    now: str
    is_tiny: bool


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """The suspected labels of one ``state``; POST ``suspect``: that one's label is right."""
    membership = get_membership(request.user, project_id, REVIEW)
    part = f"{TEMPLATE}#list" if request.htmx else TEMPLATE
    if request.method != "POST":
        return render(request, part, _context(request, membership))
    try:
        kept = suspecting.keep_label(
            project=membership.project, actor=request.user, suspect_id=_suspect_id(request.POST.get("suspect", ""))
        )
    except WinnowError as error:
        return render(request, part, _context(request, membership) | {"error": error}, status=error.status)
    said = f"{kept.item.source_name}: the label stays and is not suspected again."
    if request.htmx:
        return render(request, part, _context(request, membership) | {"said": said})
    messages.success(request, said)
    response = redirect(f"{reverse('suspects', args=[project_id])}?{urlencode(_place(request))}")
    response.status_code = 303
    return response


@require_safe
@page
def download(request: PageRequest, project_id: int) -> HttpResponse:
    """All of them, settled ones too, as CSV."""
    project = get_project(request.user, project_id, REVIEW)
    response = HttpResponse(suspecting.as_csv(project), content_type="text/csv; charset=utf-8")
    name = f"{safe_stem(project)}-suspected-labels.csv"
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["Cache-Control"] = "no-store"
    return response


def _suspect_id(raw: str) -> int:
    if not raw.isascii() or not raw.isdigit() or len(raw) > 18:
        raise InvalidSettings(f"{raw[:20]!r} is not a suspected label; reload the page")
    return int(raw)


def _place(request: HttpRequest) -> dict[str, str]:
    """Which list the person looks at, from the address or from a form."""
    sent = request.POST if request.method == "POST" else request.GET
    return {"state": sent.get("state", Suspect.State.OPEN), "page": sent.get("page", "1")}


def _context(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    project, place = membership.project, _place(request)
    state = place["state"]
    if state not in STATES:
        raise InvalidSettings(f"state {state[:20]!r} is not one of {', '.join(STATES)}")
    found = Suspect.objects.filter(project=project, state=state)
    if state != Suspect.State.OPEN:
        found = found.order_by("-settled_at", "-id")
    shown = Paginator(found.select_related("item", "annotation__annotator", "label_class", "settled_by"), ON_A_PAGE)
    at = shown.get_page(place["page"])
    counts = {name: Suspect.objects.filter(project=project, state=name).count() for name in STATES}
    return {
        "project": project,
        "membership": membership,
        "state": state,
        "states": [(name, title, counts[name]) for name, title in STATES.items()],
        "at": at,
        "rows": _rows(project, at),
    } | panel(membership)


def _rows(project: Project, suspects: Iterable[Suspect]) -> list[Row]:
    classes = {each.pk: each for each in project.classes.all()}
    evidence = _study(project).get("evidence") or {}
    return [_row(project, each, classes, evidence.get(str(each.item_id)) or {}) for each in suspects]


def _row(project: Project, suspect: Suspect, classes: dict[int, LabelClass], beside: dict[str, Any]) -> Row:
    given_id = _class_id(project, suspect.annotation)
    given_class = classes.get(given_id)
    given = given_class.name if given_class else "an archived class"
    other = suspect.label_class.name if suspect.label_class else ""
    support = ""
    if beside.get("support"):
        own, likeliest = (percent(share) for share in beside["support"])
        support = f"{given} fits it to {own}" + (f", {other} to {likeliest}" if other else "")
    return Row(
        suspect=suspect,
        given=given,
        colour=given_class.colour if given_class else "#888888",
        given_by=_given_by(suspect.annotation),
        doubt=f"Perhaps {other}" if other else suspect.get_doubt_display(),
        support=support,
        near=[
            Neighbour(item_id, classes[class_id].name, class_id == given_id)
            for item_id, class_id in beside.get("near", [])
            if class_id in classes
        ],
        now=_now(project, suspect, classes),
        is_tiny=is_tiny(suspect.item),
    )


def _class_id(project: Project, annotation: Annotation) -> int:
    return int(task_types.get(project.task_type).class_ids(annotation.value or {})[0])


def _given_by(annotation: Annotation) -> str:
    if annotation.source == Annotation.Source.IMPORTED:
        return "came with the import"
    return f"by {annotation.annotator.username}"


def _now(project: Project, suspect: Suspect, classes: dict[int, LabelClass]) -> str:
    """What the second look ended with; empty while nobody took it."""
    if suspect.state == Suspect.State.DROPPED:
        return "A reviewer said that it is right" if suspect.settled_at else ""
    last = suspect.settled_by
    if suspect.state == Suspect.State.OPEN or last is None:
        return ""
    if last.kind != Annotation.Kind.LABEL:
        return f"Second look: {last.get_kind_display().lower()}"
    named = classes.get(_class_id(project, last))
    return f"Second look: {named.name if named else 'an archived class'}"
