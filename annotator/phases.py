"""Who leads the queue, and why, in a sentence: what a model's metrics keep under "phase" (ml_worker/handover.py)."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator.wording import thousands

# Order that is by lot or by typical images from the first answer to the last has nothing to hand over.
NEVER_HAND_OVER = frozenset({"probcover", "random_sampling", "typiclust"})


def sentence(phase: Mapping[str, Any] | None, acquisition: str) -> str:
    """Why the overview goes on, or since when it is over; empty where there is nothing to say.

    Counts, not rates: an accuracy of so few random checks would be little but its interval.
    """
    if not phase or acquisition in NEVER_HAND_OVER:
        return ""
    if phase["since"] is None:
        return _why_not_yet(phase)
    since = {"since": thousands(phase["since"])}
    if phase["why"] == "enough":
        said = _(
            "The model's doubt leads since answer %(since)s: by then the overview had taken its share, whatever the"
            " checks said."
        )
    else:
        said = ngettext(
            "The model's doubt leads since answer %(since)s: right on %(model)s of %(checks)s random check, the"
            " clusters on %(clusters)s.",
            "The model's doubt leads since answer %(since)s: right on %(model)s of %(checks)s random checks, the"
            " clusters on %(clusters)s.",
            phase["checks"],
        )
        since |= _right(phase)
    said %= since
    if not phase["is_seeking"]:
        return said
    seeking = ngettext(
        "A quarter of the questions looks for the one class without an answer.",
        "A quarter of the questions looks for the %(n)s classes without an answer.",
        phase["unmet"],
    )
    return f"{said} {seeking % {'n': phase['unmet']}}"


def _why_not_yet(phase: Mapping[str, Any]) -> str:
    if phase["why"] == "first_answers":
        return _("The first answers are always for that.")
    if not phase["checks"]:
        return _("No random check is answered yet that could tell whether the model knows more than the clusters.")
    if phase["why"] == "clusters":
        said = ngettext(
            "The clusters still know more than the model: right on %(clusters)s of %(checks)s random check, the model"
            " on %(model)s.",
            "The clusters still know more than the model: right on %(clusters)s of %(checks)s random checks, the model"
            " on %(model)s.",
            phase["checks"],
        )
    else:
        said = ngettext(
            "The model is right on %(model)s of %(checks)s random check, the clusters on %(clusters)s: too few to go"
            " by its doubt.",
            "The model is right on %(model)s of %(checks)s random checks, the clusters on %(clusters)s: too few to go"
            " by its doubt.",
            phase["checks"],
        )
    return said % _right(phase)


def _right(phase: Mapping[str, Any]) -> dict[str, str]:
    """How many of the random checks each was right on."""
    return {
        "model": thousands(phase["model_right"]),
        "clusters": thousands(phase["clusters_right"]),
        "checks": thousands(phase["checks"]),
    }
