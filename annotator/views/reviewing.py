"""The review page: a screenful of proposals of one class, decided by one request."""

import math
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST

from annotator import queries
from annotator.access import REVIEW, get_membership
from annotator.actions import certifying, reviewing
from annotator.actions.gate import given_back
from annotator.actions.projects import PAGE_KEYS
from annotator.errors import InvalidAnnotation, WinnowError
from annotator.models import AuditEvent, Item, LabelClass, Membership, Project, Proposal, Split
from annotator.views import PageRequest, calibration, page
from annotator.views.certifying import promise
from annotator.views.choices import choices_of, is_tiny
from annotator.wording import percent, promised

TEMPLATE = "reviewing.html"
TILES = 60
SHORT_LIST = 3
# What is named on the tile itself; and the longest list with a promise, as LISTED_AT_MOST of ml_worker/refitting.py.
NAMED_ON_TILE, LISTED_AT_MOST = 2, 12
# What ``show`` asks for instead of what waits: labels that count although nobody looked.
UNSEEN = "unseen"
# How sure the headline wants to be, below which sureness it names none, and when confidences are calibrated.
SURENESS, SURENESS_SAID, CALIBRATED_FROM = 0.95, 0.5, 30
CHECKS_AT_MOST = 20_000


@dataclass(frozen=True)
class Tile:
    """One proposal in the grid. ``short_list``: the listed classes in words, or the likeliest where no list has a
    promise. ``listed``: their ids; ``others``: what else it may be, for the tile itself."""

    proposal: Proposal
    confidence: str
    short_list: str
    listed: list[int]
    others: str
    is_tiny: bool


@dataclass(frozen=True)
class Group:
    """A class that has proposals waiting."""

    label_class: LabelClass
    pending: int
    is_current: bool


@dataclass(frozen=True)
class Trust:
    """What the random checks say of the proposals as a whole.

    ``sureness``: how sure one may be that at least the project's target is right; empty below SURENESS_SAID, where
    the number would be read as something. ``missing``: how many more checks, all of them
    right, would make that 95 %; None when more checks cannot be expected to. ``waiting``: checks not answered yet.
    """

    right: int
    checked: int
    estimate: str
    at_least: str
    sureness: str
    is_enough: bool
    missing: int | None
    waiting: int


@dataclass(frozen=True)
class Left:
    """A proposal that a decision left as it was: which image, what was said of it, and why that did not count."""

    proposal: Proposal
    wanted: str
    why: str


@require_http_methods(["GET", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    membership = get_membership(request.user, project_id, REVIEW)
    if request.method == "POST":
        return _decide(request, membership)
    decided = _last_decision(request, membership.project)
    context = _context(membership, request.GET) | {"decided": decided}
    return render(request, f"{TEMPLATE}#grid" if request.htmx else TEMPLATE, context)


@require_POST
@page
def undo(request: PageRequest, project_id: int) -> HttpResponse:
    """Take back the screenful named by ``event``."""
    membership = get_membership(request.user, project_id, REVIEW)
    try:
        event_id = _read_id(request.POST.get("event"))
        undone = reviewing.undo_decision(project=membership.project, reviewer=request.user, event_id=event_id)
    except WinnowError as error:
        return _refused(request, membership, error)
    if not request.htmx:
        return _see_other(membership.project, _place(request.POST))
    before = reviewing.decision_before(project=membership.project, reviewer=request.user, event_id=event_id)
    context = _context(membership, request.POST) | {"decided": _counts(before) if before else None}
    return render(request, f"{TEMPLATE}#grid", context | {"undone": undone, "is_undone": True})


def _decide(request: PageRequest, membership: Membership) -> HttpResponse:
    try:
        wanted = _read_decisions(request.POST)
        decision = reviewing.decide(project=membership.project, reviewer=request.user, **wanted)
    except WinnowError as error:
        return _refused(request, membership, error)
    left = _left(membership.project, decision, wanted)
    if not request.htmx and not left:
        event = {"decided": decision.event_id} if decision.event_id else {}
        return _see_other(membership.project, _place(request.POST) | event)
    # What was left alone cannot be told after a redirect: it is nowhere but here.
    context = _context(membership, request.POST) | {"decided": decision, "left": left}
    return render(request, f"{TEMPLATE}#grid" if request.htmx else TEMPLATE, context)


def _left(project: Project, decision: reviewing.Decision, wanted: dict[str, Any]) -> list[Left]:
    """The conflicts with the name of each image and what the reviewer had said of it."""
    why = {each.proposal_id: each.why for each in decision.conflicts}
    names = {each.pk: each.name for each in project.classes.all()}
    proposals = Proposal.objects.select_related("item").filter(project=project, pk__in=why).order_by("pk")
    return [Left(each, _verdict(each, wanted, names), why[each.pk]) for each in proposals]


def _verdict(proposal: Proposal, wanted: dict[str, Any], names: dict[int, str]) -> str:
    """What the reviewer said of this proposal, in words."""
    proposed = names.get(proposal.label_class_id or 0, "this")
    if proposal.pk in wanted["rejected"]:
        return f"not {proposed}"
    if proposal.pk in wanted["corrected"]:
        return names.get(int(wanted["corrected"][proposal.pk]["class"]), "another class")
    return proposed


def _read_decisions(posted: QueryDict) -> dict[str, Any]:
    """Every ``shown`` proposal not named by ``wrong`` or ``corrected`` (``<proposal>:<class>``) is accepted."""
    corrected = {}
    for each in posted.getlist("corrected"):
        proposal, _, class_id = each.partition(":")
        corrected[_read_id(proposal)] = {"class": _read_id(class_id)}
    rejected = {_read_id(each) for each in posted.getlist("wrong")} - set(corrected)
    shown = [_read_id(each) for each in posted.getlist("shown")]
    accepted = [each for each in dict.fromkeys(shown) if each not in rejected and each not in corrected]
    return {"accepted": accepted, "rejected": sorted(rejected), "corrected": corrected}


def _place(sent: QueryDict) -> dict[str, str]:
    """Which grid somebody is at, for the address that leads back there."""
    return {"class": sent.get("class", "")} | ({"show": UNSEEN} if sent.get("show") == UNSEEN else {})


def _read_id(raw: str | None) -> int:
    if raw is None or not raw.isascii() or not raw.isdigit() or len(raw) > 18:
        raise InvalidAnnotation(f"{(raw or '')[:40]!r} is not the number of a proposal; reload the page")
    return int(raw)


def _refused(request: PageRequest, membership: Membership, error: WinnowError) -> HttpResponse:
    context = _context(membership, request.POST) | {"error": error}
    template = f"{TEMPLATE}#grid" if request.htmx else TEMPLATE
    return render(request, template, context, status=error.status)


def _see_other(project: Project, query: dict[str, Any]) -> HttpResponse:
    response = redirect(f"{reverse('review', args=[project.pk])}?{urlencode(query)}")
    response.status_code = 303
    return response


def _last_decision(request: HttpRequest, project: Project) -> dict[str, Any] | None:
    """What the redirect after a form without JavaScript reports: the counts of this person's own decision."""
    raw = request.GET.get("decided", "")
    if not raw.isascii() or not raw.isdigit() or len(raw) > 18:
        return None
    event = AuditEvent.objects.filter(pk=int(raw), project=project, actor_id=request.user.pk).first()
    if event is None or "accepted" not in event.detail:
        return None
    return _counts(event)


def _counts(event: AuditEvent) -> dict[str, int]:
    counts = {name: event.detail.get(name, 0) for name in ("accepted", "rejected", "corrected")}
    return counts | {"event_id": event.pk}


def _context(membership: Membership, sent: QueryDict) -> dict[str, Any]:
    """The grid of the wanted class, else of the first one that has proposals waiting; or labels accepted unseen."""
    project, wanted, is_unseen = membership.project, sent.get("class"), sent.get("show") == UNSEEN
    state = Proposal.State.AUTO_ACCEPTED if is_unseen else Proposal.State.PENDING
    groups = queries.review_groups(project, state)
    chosen = next((each for each, _ in groups if str(each.pk) == wanted), groups[0][0] if groups else None)
    classes = queries.open_classes(project)
    model = queries.current_model(project)
    context = {
        "project": project,
        "membership": membership,
        "task_type": f"task_types/{project.task_type}.html",
        "groups": [Group(each, pending, each == chosen) for each, pending in groups],
        "waiting": sum(pending for _, pending in groups),
        "label_class": chosen,
        "posted_class": wanted or "",
        "tiles": _tiles(project, chosen, state) if chosen else [],
        "is_unseen": is_unseen,
        "unseen": certifying.accepted_unseen(project).count(),
        "promises": [promise(each) for each in certifying.standing_certificates(project) if each.accepted_at],
        "given_back": given_back(project),
        "choices": choices_of(classes, PAGE_KEYS),
        "trust": _trust(project),
        "calibrated_from": CALIBRATED_FROM,
        "checks_at_least": queries.CHECKS_AT_LEAST,
        "target": promised(project.settings.target_precision),
        "checks_needed": checks_missing(project.settings.target_precision, SURENESS, 0, 0),
        "checks_like_these": (queries.proposal_precision(project) or {}).get("checked", 0),
        "checks": queries.measured(model, "audit").n,
        "short_lists": calibration.short_list(model, {}) if model else None,
    }
    if chosen is None:
        context |= {"progress": queries.label_progress(project, membership.user)}
    return context


def _tiles(project: Project, label_class: LabelClass, state: str) -> list[Tile]:
    names = {each.pk: each.name for each in project.classes.all()}
    proposals = queries.pending_proposals(project, label_class.pk, limit=TILES, state=state)
    return [_tile(each, names) for each in proposals]


def _tile(proposal: Proposal, names: dict[int, str]) -> Tile:
    listed = [(class_id, names.get(class_id, "an archived class"), prob) for class_id, prob in proposal.short_list]
    shown, others = listed[:SHORT_LIST], ""
    if _is_promised(proposal):
        others = _others(proposal, [(class_id, name) for class_id, name, _ in listed])
        shown = listed if len(listed) <= LISTED_AT_MOST else shown
    words = ", ".join(f"{name} {percent(prob)}" for _, name, prob in shown)
    return Tile(
        proposal=proposal,
        confidence=percent(proposal.confidence),
        short_list="unlike anything labelled" if others == "unlike" else words,
        listed=[class_id for class_id, _, _ in listed[:LISTED_AT_MOST]],
        others=others,
        is_tiny=is_tiny(proposal.item),
    )


def _others(proposal: Proposal, listed: list[tuple[int, str]]) -> str:
    """What else, or instead, the list of a proposal names; empty where it names the proposed class alone."""
    if not listed:
        return "unlike"
    if len(listed) > LISTED_AT_MOST:
        return f"or {LISTED_AT_MOST}+"
    named = [name for class_id, name in listed if class_id != proposal.label_class_id]
    if not named:
        return ""
    more = len(named) - NAMED_ON_TILE
    # One class has its own threshold, so the likeliest may be left out where the second is not.
    start = "rather" if len(named) == len(listed) else "or"
    return f"{start} {', '.join(named[:NAMED_ON_TILE])}{f' +{more}' if more > 0 else ''}"


def _is_promised(proposal: Proposal) -> bool:
    """Whether its list is one of which a share is promised to hold the right class: see ml_worker/conformal.py."""
    return proposal.certificate_id is None and bool(proposal.model_version.metrics.get("short_list"))


def _trust(project: Project) -> Trust | None:
    """The headline's numbers, or None before CHECKS_AT_LEAST random checks were answered on which the model is this
    confident."""
    precision = queries.proposal_precision(project)
    if precision is None or precision["checked"] < queries.CHECKS_AT_LEAST:
        return None
    right, checked = precision["right"], precision["checked"]
    target = project.settings.target_precision
    sureness = sureness_of(target, right, checked)
    return Trust(
        right=right,
        checked=checked,
        estimate=percent(right / checked),
        at_least=f"{math.floor(precision['low'] * 1000) / 10:.1f} %",
        sureness=f"{math.floor(sureness * 100)} %" if sureness >= SURENESS_SAID else "",
        is_enough=sureness >= SURENESS,
        missing=checks_missing(target, SURENESS, right, checked),
        waiting=queries.pool_counts(project)[Split.AUDIT][Item.State.OPEN],
    )


def sureness_of(target: float, right: int, checked: int) -> float:
    """The confidence, 0..1, of the claim that at least ``target`` of all are right, from so many random checks.

    The level at which the one-sided Clopper-Pearson lower bound equals the target: one minus the probability of
    ``checked - right`` errors or fewer, were exactly ``target`` right. Source: Clopper and Pearson 1934.
    """
    at_least_as_good, term = 0.0, target**checked
    for errors in range(checked - right + 1):
        at_least_as_good += term
        term *= (checked - errors) / (errors + 1) * (1 - target) / target
    return max(0.0, 1 - at_least_as_good)


def checks_missing(target: float, sureness: float, right: int, checked: int) -> int | None:
    """The fewest further checks, all right, that give this sureness; None when the estimate is below the target.

    By bisection between none and CHECKS_AT_MOST; None beyond that, too.
    """
    if right < target * checked and checked - right > 1:
        return None
    too_few, enough = -1, CHECKS_AT_MOST
    if sureness_of(target, right + enough, checked + enough) < sureness:
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if sureness_of(target, right + middle, checked + middle) >= sureness:
            enough = middle
        else:
            too_few = middle
    return enough
