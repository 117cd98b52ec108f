"""What a reader wants to know of a model, with titles for the names in the catalogue."""

from typing import Any

from django.utils.translation import gettext as _

from annotator import algorithms, queries
from annotator.errors import InvalidSettings
from annotator.models import ModelVersion


def model_facts(model: ModelVersion) -> dict[str, Any]:
    """What a reader wants to know of a model, with the titles of its parts."""
    seconds = model.metrics.get("seconds") or {}
    # Nobody taught this one.
    names_alone = _("The class names alone, read by the encoder")
    return {
        "head": names_alone if model.is_zero_shot else title_of(queries.learner_kind(model), model.algorithm),
        "encoder": _("The trained network") if model.encoder == "trained" else title_of("encoder", model.encoder),
        "classes": len(model.class_ids),
        "seconds": sum(each for each in seconds.values() if isinstance(each, int | float)),
    }


def title_of(kind: str, name: str) -> str:
    """The catalogue's title, in the language of the page; a name that has left the catalogue stands for itself."""
    try:
        return _(algorithms.get(kind, name).title)
    except InvalidSettings:
        return name
