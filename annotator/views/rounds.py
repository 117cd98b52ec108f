"""Starting and cancelling a certification round, from the dashboard."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from annotator.access import OWN, get_membership
from annotator.actions import rounds
from annotator.errors import Conflict, InvalidSettings
from annotator.models import Membership
from annotator.views import PageRequest, dashboard, page
from annotator.views.reading import is_number
from annotator.wording import thousands


@require_POST
@page
def start(request: PageRequest, project_id: int) -> HttpResponse:
    """Start a round over the region proposed, with ``count`` checks at most."""
    membership = get_membership(request.user, project_id, OWN)
    raw = request.POST.get("count", "").strip()
    try:
        drawn = rounds.start_round(project=membership.project, actor=request.user, count=_count(raw))
    except (InvalidSettings, Conflict) as error:
        return _refused(request, membership, error, raw)
    first = drawn.stages[0][0]
    messages.success(
        request,
        _("Round %(number)s has begun; it is judged once %(first)s checks are answered.")
        % {"number": drawn.number, "first": thousands(first)},
    )
    return _see_panel(project_id)


@require_POST
@page
def cancel(request: PageRequest, project_id: int, round_id: int) -> HttpResponse:
    """End a running round before its time."""
    membership = get_membership(request.user, project_id, OWN)
    try:
        drawn = rounds.cancel_round(project=membership.project, actor=request.user, round_id=round_id)
    except Conflict as error:
        return _refused(request, membership, error)
    messages.success(
        request,
        _("Round %(number)s is cancelled. What it spent of the certainty stays spent.") % {"number": drawn.number},
    )
    return _see_panel(project_id)


def _count(raw: str) -> int | None:
    if not raw:
        return None
    if not is_number(raw, 9):
        raise InvalidSettings(_("%(found)s is not a number of checks") % {"found": repr(raw[:20])})
    return int(raw)


def _refused(
    request: PageRequest, membership: Membership, error: InvalidSettings | Conflict, raw: str = ""
) -> HttpResponse:
    context = dashboard.context_of(membership) | {"round_refused": error.message, "round_count": raw}
    return render(request, dashboard.TEMPLATE, context, status=error.status)


def _see_panel(project_id: int) -> HttpResponse:
    response = redirect(dashboard.address(project_id, dashboard.WORTH) + "#unseen")
    response.status_code = 303
    return response
