"""What is the model unsure about: templates/doubt.html."""

from typing import Any

from django.utils.translation import gettext as _

from annotator import queries
from annotator.charts import Column, Part
from annotator.models import Job, Membership, ModelVersion
from annotator.views import calibration
from annotator.wording import percent

# A confidence below this is called unsure: what is proposed for review by default is surer.
UNSURE_BELOW = 0.9


def panel(membership: Membership, model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The context of templates/doubt.html. At most six queries."""
    project = membership.project
    tenths = sure(model)
    drawing = Job.objects.filter(project=project, kind=Job.Kind.MAP, state__in=[Job.State.QUEUED, Job.State.RUNNING])
    return {
        "tenths": tenths,
        "by_confidence": confidence_columns(tenths),
        "unsure": unsure(tenths),
        "unsure_below": UNSURE_BELOW,
        "image_map": queries.image_map(project),
        "drawing": drawing.first(),
        **calibration.panel(project, model, counts),
    }


def sure(model: ModelVersion | None) -> list[int]:
    """Open images by the model's confidence, in tenths from 0 to 1; empty before it was kept."""
    found = (model.metrics.get("sure") if model else None) or []
    return [int(each) for each in found] if sum(found) else []


def unsure(tenths: list[int]) -> int:
    """Open images it is less than UNSURE_BELOW sure of."""
    return sum(tenths[: round(10 * UNSURE_BELOW)])


def confidence_columns(tenths: list[int]) -> list[Column]:
    """From the first tenth that holds an image."""
    first = next((place for place, n in enumerate(tenths) if n), 0)
    return [
        Column(percent((first + place) / 10), [Part(_("Open images"), n, "labelled")])
        for place, n in enumerate(tenths[first:])
    ]
