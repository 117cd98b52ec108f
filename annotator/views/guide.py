"""What the classes mean: each with its description and the images that somebody nominated to show it."""

from dataclasses import dataclass

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from annotator import queries
from annotator.access import LABEL, OWN, VIEW, allows, get_membership
from annotator.models import ClassExample, LabelClass, Project, Split
from annotator.views import PageRequest, page
from annotator.views.choices import is_tiny

TEMPLATE = "guide.html"
EXAMPLES_AT_MOST = 8


@dataclass(frozen=True)
class ShownExample:
    item_id: int
    is_tiny: bool


@dataclass(frozen=True)
class ExplainedClass:
    """An open class with the examples that may be seen with it."""

    label_class: LabelClass
    examples: list[ShownExample]
    more: int


@require_safe
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """The guide; as a part it is what stands beside the image on the label page."""
    membership = get_membership(request.user, project_id, VIEW)
    context = {
        "project": membership.project,
        "membership": membership,
        "explained": explained_classes(membership.project),
        "may_own": allows(membership.role, OWN),
        "may_label": allows(membership.role, LABEL),
    }
    return render(request, f"{TEMPLATE}#guide" if request.htmx else TEMPLATE, context)


def explained_classes(project: Project) -> list[ExplainedClass]:
    """The open classes in their order. Two queries.

    Left out is an example that the guide would give away: one that became a random check or a test image since, or
    that somebody is asked about without a hint now.
    """
    nominated = (
        ClassExample.objects.filter(label_class__project=project, label_class__is_archived=False)
        .filter(item__split=Split.POOL)
        .exclude(item__queue_entry__reason_code__in=queries.BLIND)
        .select_related("item")
    )
    shown: dict[int, list[ShownExample]] = {}
    for example in nominated:
        shown.setdefault(example.label_class_id, []).append(ShownExample(example.item_id, is_tiny(example.item)))
    return [
        ExplainedClass(each, found[:EXAMPLES_AT_MOST], max(0, len(found) - EXAMPLES_AT_MOST))
        for each in queries.open_classes(project)
        for found in [shown.get(each.pk, [])]
    ]
