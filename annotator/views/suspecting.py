"""Labels that may be wrong: what the dashboard says of them, and the lists for those who review and decide.

Annotators never see the lists. Whoever knows that a label is doubted looks for its fault.
"""

import uuid as uuids
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header, urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_http_methods, require_safe

from annotator import queries, task_types
from annotator.access import OWN, REVIEW, allows, get_membership, get_project
from annotator.actions import deciding, suspecting
from annotator.actions.exporting import safe_stem
from annotator.actions.suspecting import HitRate, Standing
from annotator.errors import InvalidAnnotation, InvalidSettings, WinnowError
from annotator.models import Annotation, Item, LabelClass, Membership, Project, Suspect
from annotator.views import PageRequest, page
from annotator.views.choices import is_tiny
from annotator.views.reading import is_number, read_uuid
from annotator.wording import percent, within, written

TEMPLATE = "suspecting.html"
ON_A_PAGE = 30
# Lists of images, beside those of suspects: what people disagree about, and what was decided.
DISPUTED, DECIDED = "disputed", "decided"
NONE = "none"
# Titles of the lists, in the order in which they are offered.
STATES = {
    Suspect.State.OPEN: gettext_lazy("Waiting"),
    DISPUTED: gettext_lazy("Disputed"),
    DECIDED: gettext_lazy("Decided"),
    Suspect.State.REPAIRED: gettext_lazy("Were wrong"),
    Suspect.State.CONFIRMED: gettext_lazy("Were right"),
    Suspect.State.DROPPED: gettext_lazy("No longer suspected"),
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
    points = {name: written(f"{100 * effect[name]:+.1f}".replace("-", "−")) for name in ("difference", "low", "high")}
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
    uuid: uuids.UUID


@dataclass(frozen=True)
class ItemRow:
    """A disputed or decided image. decided: what it was decided to be, and by whom, empty while disputed; said: the
    answers that differ, in words, most frequent first, with names for owners alone; uuid: of the decision to come."""

    item: Item
    decided: str
    said: list[str]
    is_tiny: bool
    uuid: uuids.UUID


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """The suspected labels of one ``state``, or the disputed or decided images; POST ``suspect``: that one's label is
    right; POST ``item``, ``class`` and ``uuid``: what that image is."""
    membership = get_membership(request.user, project_id, REVIEW)
    part = f"{TEMPLATE}#list" if request.htmx else TEMPLATE
    if request.method != "POST":
        return render(request, part, _context(request, membership))
    try:
        said = _decide(request, membership) if "item" in request.POST else _keep(request, membership)
    except WinnowError as error:
        return render(request, part, _context(request, membership) | {"error": error}, status=error.status)
    if request.htmx:
        return render(request, part, _context(request, membership) | {"said": said})
    messages.success(request, said)
    response = redirect(f"{reverse('suspects', args=[project_id])}?{urlencode(_place(request))}")
    response.status_code = 303
    return response


def _keep(request: PageRequest, membership: Membership) -> str:
    suspect_id = _number(request.POST.get("suspect", ""), _("%(found)s is not a suspected label; reload the page"))
    kept = suspecting.keep_label(project=membership.project, actor=request.user, suspect_id=suspect_id)
    return _("%(image)s: the label stays and is not suspected again.") % {"image": kept.item.source_name}


def _decide(request: PageRequest, membership: Membership) -> str:
    named = request.POST.get("class", "")
    if not named:
        raise InvalidAnnotation(_("no class was chosen; choose what the image is, then decide"))
    decision = deciding.decide(
        project=membership.project,
        item_id=_number(request.POST["item"], _("%(found)s is not an image; reload the page")),
        actor=request.user,
        uuid=read_uuid(request.POST.get("uuid", "")),
        raw_value=None if named == NONE else named,
        again=_place(request)["state"] == DECIDED,
    )
    names = dict(membership.project.classes.values_list("pk", "name"))
    what = _named(membership.project, decision, names)
    said = _("%(image)s: decided, %(what)s. To take it back, undo your newest answer while labelling.")
    return said % {"image": decision.item.source_name, "what": what}


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


def _number(raw: str, refusal: str) -> int:
    if not is_number(raw):
        raise InvalidSettings(refusal % {"found": repr(raw[:20])})
    return int(raw)


def _place(request: HttpRequest) -> dict[str, str]:
    """Which list the person looks at, from the address or from a form."""
    sent = request.POST if request.method == "POST" else request.GET
    return {"state": sent.get("state", Suspect.State.OPEN), "page": sent.get("page", "1")}


def _context(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    project, place = membership.project, _place(request)
    state = place["state"]
    if state not in STATES:
        why = _("state %(found)s is not one of %(known)s")
        raise InvalidSettings(why % {"found": repr(state[:20]), "known": ", ".join(STATES)})
    lists: dict[str, QuerySet[Any]] = {name: _suspects(project, name) for name in Suspect.State.values}
    lists |= {DISPUTED: deciding.disputed_items(project), DECIDED: deciding.decided_items(project)}
    at = Paginator(lists[state], ON_A_PAGE).get_page(place["page"])
    is_of_items = state in (DISPUTED, DECIDED)
    return {
        "project": project,
        "membership": membership,
        "state": state,
        "states": [(name, title, lists[name].count()) for name, title in STATES.items()],
        "at": at,
        "rows": [] if is_of_items else _rows(project, at),
        "item_rows": _item_rows(membership, list(at)) if is_of_items else [],
        "classes": queries.open_classes(project),
        "none": NONE,
    } | panel(membership)


def _suspects(project: Project, state: str) -> QuerySet[Suspect]:
    found = Suspect.objects.filter(project=project, state=state)
    if state != Suspect.State.OPEN:
        found = found.order_by("-settled_at", "-id")
    return found.select_related("item", "annotation__annotator", "label_class", "settled_by")


def _rows(project: Project, suspects: Iterable[Suspect]) -> list[Row]:
    classes = {each.pk: each for each in project.classes.all()}
    evidence = _study(project).get("evidence") or {}
    return [_row(project, each, classes, evidence.get(str(each.item_id)) or {}) for each in suspects]


def _row(project: Project, suspect: Suspect, classes: dict[int, LabelClass], beside: dict[str, Any]) -> Row:
    given_id = _class_id(project, suspect.annotation)
    given_class = classes.get(given_id)
    given = given_class.name if given_class else _("an archived class")
    other = suspect.label_class.name if suspect.label_class else ""
    support = ""
    if beside.get("support"):
        own, likeliest = (percent(share) for share in beside["support"])
        said = (
            _("%(given)s fits it to %(own)s, %(other)s to %(likeliest)s")
            if other
            else _("%(given)s fits it to %(own)s")
        )
        support = said % {"given": given, "own": own, "other": other, "likeliest": likeliest}
    return Row(
        suspect=suspect,
        given=given,
        colour=given_class.colour if given_class else "#888888",
        given_by=_given_by(suspect.annotation),
        doubt=_("Perhaps %(other)s") % {"other": other} if other else suspect.get_doubt_display(),
        support=support,
        near=[
            Neighbour(item_id, classes[class_id].name, class_id == given_id)
            for item_id, class_id in beside.get("near", [])
            if class_id in classes
        ],
        now=_now(project, suspect, classes),
        is_tiny=is_tiny(suspect.item),
        uuid=uuids.uuid4(),
    )


def _item_rows(membership: Membership, items: list[Item]) -> list[ItemRow]:
    """One query over the answers, one over the classes."""
    project, may_see_names = membership.project, allows(membership.role, OWN)
    names = dict(project.classes.values_list("pk", "name"))
    given: dict[int, list[Annotation]] = defaultdict(list)
    naming = [Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE]
    current = Annotation.objects.filter(item__in=items, kind__in=naming, superseded_by__isnull=True)
    for annotation in current.select_related("annotator").order_by("id"):
        given[annotation.item_id].append(annotation)
    return [_item_row(project, item, given[item.pk], names, may_see_names) for item in items]


def _item_row(
    project: Project, item: Item, given: list[Annotation], names: dict[int, str], may_see_names: bool
) -> ItemRow:
    decisions = [each for each in given if each.reason_code == Annotation.DECISION]
    newest = max(decisions, key=lambda each: (each.created_at, each.pk), default=None)
    answers = [each for each in given if each is not newest]
    said = Counter(_named(project, each, names) for each in answers)
    people = {
        what: ", ".join(_author(each) for each in answers if _named(project, each, names) == what) for what in said
    }
    decided = ""
    if newest:
        who = {"what": _named(project, newest, names), "name": newest.annotator.username}
        decided = _("%(what)s, decided by %(name)s") % who
    return ItemRow(
        item=item,
        decided=decided,
        said=[f"{what}: {people[what] if may_see_names else _answers(n)}" for what, n in said.most_common()],
        is_tiny=is_tiny(item),
        uuid=uuids.uuid4(),
    )


def _answers(n: int) -> str:
    return ngettext("%(n)s answer", "%(n)s answers", n) % {"n": n}


def _author(annotation: Annotation) -> str:
    is_imported = annotation.source == Annotation.Source.IMPORTED
    return _("the import") if is_imported else annotation.annotator.username


def _named(project: Project, annotation: Annotation, names: dict[int, str]) -> str:
    if annotation.kind != Annotation.Kind.LABEL:
        return within(annotation.get_kind_display())
    return names.get(_class_id(project, annotation), _("an archived class"))


def _class_id(project: Project, annotation: Annotation) -> int:
    return int(task_types.get(project.task_type).class_ids(annotation.value or {})[0])


def _given_by(annotation: Annotation) -> str:
    if annotation.source == Annotation.Source.IMPORTED:
        return _("came with the import")
    return _("by %(name)s") % {"name": annotation.annotator.username}


def _now(project: Project, suspect: Suspect, classes: dict[int, LabelClass]) -> str:
    """What the second look ended with; empty while nobody took it."""
    if suspect.state == Suspect.State.DROPPED:
        return _("A reviewer said that it is right") if suspect.settled_at else ""
    last = suspect.settled_by
    if suspect.state == Suspect.State.OPEN or last is None:
        return ""
    said = (
        _("Decided by a reviewer: %(what)s") if last.reason_code == Annotation.DECISION else _("Second look: %(what)s")
    )
    return said % {"what": _named(project, last, {pk: each.name for pk, each in classes.items()})}
