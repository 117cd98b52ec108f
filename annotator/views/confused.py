"""Images people gave one class and the model takes for another: a cell of the matrix, opened by those who review."""

import uuid as uuids
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from annotator import queries
from annotator.access import REVIEW, get_membership
from annotator.actions import deciding
from annotator.errors import InvalidAnnotation, InvalidSettings, NotFound, WinnowError
from annotator.models import Item, LabelClass, Membership, Project
from annotator.queries.predictions import contradicted
from annotator.views import PageRequest, page
from annotator.views.choices import is_tiny
from annotator.views.reading import is_number, read_uuid
from annotator.wording import percent

TEMPLATE = "confused.html"
ON_A_PAGE = 40
# In the place of a class: the image is of none of them.
NONE = "none"


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """``label`` and ``said`` name the two classes. POST ``item``, ``class`` and ``uuid``: what that image is."""
    membership = get_membership(request.user, project_id, REVIEW)
    if request.method != "POST":
        return render(request, TEMPLATE, _context(request, membership))
    try:
        said = _decide(request, membership)
    except WinnowError as error:
        return render(request, TEMPLATE, _context(request, membership) | {"error": error}, status=error.status)
    messages.success(request, said)
    words = {name: request.POST.get(name, "") for name in ("label", "said", "page")}
    response = redirect(f"{reverse('confused', args=[project_id])}?{urlencode(words)}")
    response.status_code = 303
    return response


def _decide(request: PageRequest, membership: Membership) -> str:
    named = request.POST.get("class", "")
    if not named:
        raise InvalidAnnotation(_("No class was chosen; choose what the image is, then decide."))
    decision = deciding.decide(
        project=membership.project,
        item_id=_number(request.POST.get("item", ""), _("%(found)s is not an image; reload the page")),
        actor=request.user,
        uuid=read_uuid(request.POST.get("uuid", "")),
        raw_value=None if named == NONE else named,
        checking=True,
    )
    return _("%(name)s: decided. To take it back, undo your newest answer while labelling.") % {
        "name": decision.item.source_name
    }


def _number(raw: str, refusal: str) -> int:
    if not is_number(raw):
        raise InvalidSettings(refusal % {"found": repr(raw[:20])})
    return int(raw)


def _class(project: Project, raw: str) -> LabelClass:
    found = project.classes.filter(pk=_number(raw, _("%(found)s is not a class; reload the page"))).first()
    if found is None:
        raise NotFound(_("There is no such class in this project."))
    return found


def _context(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    sent, project = request.POST if request.method == "POST" else request.GET, membership.project
    given, said = _class(project, sent.get("label", "")), _class(project, sent.get("said", ""))
    if given == said:
        raise InvalidSettings(_("A class is not confused with itself; choose two classes."))
    model, found = contradicted(project, given.pk, said.pk)
    at = Paginator(found, ON_A_PAGE).get_page(sent.get("page", "1"))
    items = Item.objects.in_bulk([item_id for item_id, _confidence in at])
    return {
        "project": project,
        "membership": membership,
        "model": model,
        "given": given,
        "said": said,
        "at": at,
        "rows": [
            {
                "item": items[item_id],
                "sure": percent(confidence),
                "uuid": uuids.uuid4(),
                "is_tiny": is_tiny(items[item_id]),
            }
            for item_id, confidence in at
            if item_id in items
        ],
        "classes": queries.open_classes(project),
        "none": NONE,
    }
