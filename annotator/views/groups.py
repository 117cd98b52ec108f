"""Grids of images that get a class: look-alikes a group a screen, or all of them page by page.

Three uses of one page: what is open, to discover classes; what fits no class; one class, to split it.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods

from annotator import queries
from annotator.access import LABEL, OWN, REVIEW, allows, get_membership
from annotator.actions import assigning, grouping
from annotator.errors import InvalidClass, InvalidSettings, NotFound, WinnowError
from annotator.models import Item, Job, LabelClass, Membership, Project
from annotator.queries import GroupedImages
from annotator.views import PageRequest, page
from annotator.views.classes import Picture
from annotator.views.classes import take_back as undo_change
from annotator.views.reading import is_number

TEMPLATE = "groups.html"
A_SCREEN, LISTED = 100, 120


@dataclass(frozen=True)
class Listed:
    """A group in the list above the grid."""

    group: GroupedImages
    first: Picture
    url: str
    is_current: bool


@dataclass(frozen=True)
class Screen:
    """What the page shows. of: as queries.grouped_class reads it; source: the class that is split; group: None where
    all images are listed; next_url: what comes after this screen, empty at the end."""

    of: str
    source: LabelClass | None
    group: GroupedImages | None
    pictures: list[Picture]
    next_url: str


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """What fits no class, or the images of one: ``of`` says which."""
    membership = get_membership(request.user, project_id, REVIEW)
    of = request.POST.get("of") or request.GET.get("of", queries.NONE_OF_THESE)
    if of == queries.OPEN_IMAGES:
        return redirect("class-discover", project_id)
    return _answer(request, membership, of)


@require_http_methods(["GET", "HEAD", "POST"])
@page
def discover(request: PageRequest, project_id: int) -> HttpResponse:
    """Open images, for somebody to see which classes there are."""
    return _answer(request, get_membership(request.user, project_id, LABEL), queries.OPEN_IMAGES)


def _answer(request: PageRequest, membership: Membership, of: str) -> HttpResponse:
    try:
        queries.grouped_class(membership.project, of)
    except InvalidSettings as error:  # an address that names nothing
        raise NotFound(error.message) from None
    if request.method != "POST":
        return _page(request, membership, of)
    do, project = request.POST.get("do", ""), membership.project
    try:
        if do == "group":
            grouping.request_grouping(project=project, actor=request.user, of=of)
            return _see_other(_address(project, of))
        if do == "undo":
            is_owner = allows(membership.role, OWN)
            messages.success(
                request, undo_change(project, request.user, request.POST.get("event", ""), is_owner=is_owner)
            )
            return _see_other(_here(request, project, of))
        if do != "give":
            raise InvalidClass(_("%(do)s is not something to do with images") % {"do": repr(do[:40])})
        done = assigning.assign_images(
            project=project,
            actor=request.user,
            of=of,
            item_ids=_items(request),
            name=request.POST.get("name", ""),
            may_add=allows(membership.role, OWN),
            ask_checks_again="ask_again" in request.POST,
        )
    except WinnowError as error:
        return _page(request, membership, of, error=error)
    request.session["given"] = {"project": project.pk, "event": done.event_id}
    messages.success(request, _told(done))
    behind = request.POST.get("next", "")
    return _see_other(behind if _is_here(behind, project) else _address(project, of))


def _told(done: assigning.Assigned) -> str:
    said = ngettext("%(n)s image is %(name)s now.", "%(n)s images are %(name)s now.", done.given) % {
        "n": f"{done.given:,}",
        "name": done.label_class.name,
    }
    if done.asked_again:
        said += " " + ngettext(
            "%(n)s random check is asked again.", "%(n)s random checks are asked again.", done.asked_again
        ) % {"n": f"{done.asked_again:,}"}
    if done.left:
        said += " " + ngettext(
            "%(n)s was left alone: %(why)s.", "%(n)s were left alone, the first because %(why)s.", len(done.left)
        ) % {"n": f"{len(done.left):,}", "why": done.left[0].why}
    return said


def _items(request: HttpRequest) -> list[int]:
    raw = request.POST.getlist("item")
    if not raw or not all(is_number(each) for each in raw):
        raise InvalidClass(_("tick at least one image"))
    return [int(each) for each in raw]


# --- addresses ------------------------------------------------------------------------------------------------------


def _address(project: Project, of: str, **more: Any) -> str:
    is_open = of == queries.OPEN_IMAGES
    query = {key: value for key, value in more.items() if value} | ({} if is_open else {"of": of})
    path = reverse("class-discover" if is_open else "class-groups", args=[project.pk])
    return f"{path}?{urlencode(query)}" if query else path


def _is_here(url: str, project: Project) -> bool:
    return url.startswith(reverse("project-classes", args=[project.pk])) and not any(each in url for each in "\r\n\\")


def _here(request: HttpRequest, project: Project, of: str) -> str:
    back = request.POST.get("back", "")
    return back if _is_here(back, project) else _address(project, of)


# --- the page -------------------------------------------------------------------------------------------------------


def _page(request: HttpRequest, membership: Membership, of: str, *, error: WinnowError | None = None) -> HttpResponse:
    project = membership.project
    asked = request.POST if error else request.GET
    job = queries.newest_grouping(project, of)
    groups: list[GroupedImages] = []
    if job is not None and job.state == Job.State.DONE and job.result.get("groups"):
        try:
            groups = queries.groups_of(project, job.pk)
        except NotFound:  # its file was replaced by that of a newer one
            job = None
    screen = _screen(project, of, groups, asked)
    given = request.session.get("given") or {}
    context = {
        "project": project,
        "membership": membership,
        "of": of,
        "is_open": of == queries.OPEN_IMAGES,
        "source": screen.source,
        "screen": screen,
        "job": job,
        "is_grouping": job is not None and not job.is_over,
        "has_groups": bool(groups),
        "may_cancel": allows(membership.role, REVIEW),
        "listed": _listed(project, of, groups, screen),
        "n_groups": len(groups),
        "n_images": queries.groupable_items(project, of).count(),
        "is_owner": allows(membership.role, OWN),
        "classes": [each for each in queries.open_classes(project) if each != screen.source],
        "checks": assigning.answered_checks(project, screen.source).count() if screen.source else 0,
        "lack": "" if queries.current_embedding(project) else queries.lack_of_embedding(project, "group them"),
        "all_url": _address(project, of, all=1),
        "groups_url": _address(project, of),
        "post_url": _address(project, of).partition("?")[0],
        "here": request.POST.get("back", "") if error else request.get_full_path(),
        "ticked": set(request.POST.getlist("item")) if error and error.code != "conflict" else None,
        "posted": request.POST if error else {},
        "given_event": given.get("event") if given.get("project") == project.pk and not error else None,
        "error": error,
    }
    if not error and request.method == "GET":
        request.session.pop("given", None) if given else None
    response = render(request, TEMPLATE, context, status=error.status if error else 200)
    if getattr(request, "htmx", False) and not context["is_grouping"]:  # the groups are there: another page
        response["HX-Refresh"] = "true"
    return response


def _screen(project: Project, of: str, groups: list[GroupedImages], asked: Any) -> Screen:
    source = queries.grouped_class(project, of)
    if not groups or asked.get("all"):
        after = int(asked["after"]) if is_number(asked.get("after", "")) else 0
        found = list(queries.groupable_items(project, of).filter(pk__gt=after).order_by("pk")[: A_SCREEN + 1])
        shown = [Picture(item) for item in found[:A_SCREEN]]
        more = _address(project, of, all=1, after=shown[-1].item.pk) if len(found) > A_SCREEN else ""
        return Screen(of, source, None, shown, more)
    number = int(asked["group"]) if is_number(asked.get("group", "")) else 0
    # What was a group of its own may be given away by now: the next one takes its place.
    at = next((index for index, each in enumerate(groups) if each.number >= number), 0)
    items = Item.objects.in_bulk(groups[at].item_ids.tolist())
    pictures = [Picture(items[pk]) for pk in groups[at].item_ids.tolist() if pk in items]
    behind = groups[at + 1].number if at + 1 < len(groups) else 0
    return Screen(of, source, groups[at], pictures, _address(project, of, group=behind) if behind else "")


def _listed(project: Project, of: str, groups: list[GroupedImages], screen: Screen) -> list[Listed]:
    """Some groups about the one that is shown, each by its most typical image."""
    if screen.group is None:
        return []
    at = next(index for index, each in enumerate(groups) if each.number == screen.group.number)
    start = max(0, min(at - LISTED // 2, len(groups) - LISTED))
    some = groups[start : start + LISTED]
    firsts = Item.objects.in_bulk([int(each.item_ids[0]) for each in some])
    return [
        Listed(each, Picture(firsts[first]), _address(project, of, group=each.number), each == screen.group)
        for each in some
        for first in [int(each.item_ids[0])]
        if first in firsts
    ]


def _see_other(url: str) -> HttpResponse:
    response = redirect(url)
    response.status_code = 303
    return response
