"""The tabs of a project: what this person may open, and which of them is open."""

from dataclasses import dataclass
from typing import Any

from django import template
from django.template import Context
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from annotator import queries
from annotator.access import LABEL, OWN, REVIEW, VIEW, allows, get_membership
from annotator.errors import WinnowError

register = template.Library()

# Title, the name of the view, the role it needs, and every view during which the tab is the open one.
TABS = (
    (gettext_noop("Dashboard"), "dashboard", VIEW, {"dashboard"}),
    (gettext_noop("Label"), "label", LABEL, {"label", "label-next", "label-undo", "guide"}),
    (gettext_noop("Review"), "review", REVIEW, {"review", "review-undo"}),
    (gettext_noop("Classes"), "project-classes", VIEW, {"project-classes", "class-groups", "class-discover"}),
    (gettext_noop("Training"), "training", VIEW, {"training", "back-test", "job", "job-cancel"}),
    (gettext_noop("Import"), "import", OWN, {"import"}),
    (gettext_noop("Export"), "export", VIEW, {"export"}),
    (gettext_noop("Settings"), "project-settings", OWN, {"project-settings", "project-members"}),
)


@dataclass(frozen=True)
class Tab:
    title: str
    url: str
    is_current: bool
    counts: bool = False
    count: int = 0
    is_more: bool = False


@register.simple_tag(takes_context=True)
def tabs(context: Context) -> list[Tab]:
    """The tabs this person's role opens; one query for what waits for review, one more without ``membership``."""
    request, project = context["request"], context["project"]
    membership: Any = context.get("membership")
    if membership is None:
        try:
            membership = get_membership(request.user, project.pk)
        except WinnowError:
            return []
    waiting, is_more = queries.bounded_count(queries.pending(project))
    here = request.resolver_match.view_name if request.resolver_match else ""
    return [
        Tab(
            title=gettext(title),
            url=reverse(view, args=[project.pk]),
            is_current=here in views,
            counts=view == "review",
            count=waiting if view == "review" else 0,
            is_more=is_more,
        )
        for title, view, needed, views in TABS
        if allows(membership.role, needed)
    ]
