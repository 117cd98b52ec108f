"""Who leads the queue, and why, in a sentence: what a model's metrics keep under "phase" (ml_worker/handover.py)."""

from collections.abc import Mapping
from typing import Any

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
    since = f"The model's doubt leads since answer {phase['since']:,}"
    if phase["why"] == "enough":
        said = f"{since}: by then the overview had taken its share, whatever the checks said."
    else:
        said = f"{since}: right on {_right(phase, 'model')}, the clusters on {phase['clusters_right']}."
    if not phase["is_seeking"]:
        return said
    what = "one class" if phase["unmet"] == 1 else f"{phase['unmet']} classes"
    return f"{said} A quarter of the questions looks for the {what} without an answer."


def _why_not_yet(phase: Mapping[str, Any]) -> str:
    if phase["why"] == "first_answers":
        return "The first answers are always for that."
    if not phase["checks"]:
        return "No random check is answered yet that could tell whether the model knows more than the clusters."
    if phase["why"] == "clusters":
        return (
            f"The clusters still know more than the model: right on {_right(phase, 'clusters')},"
            f" the model on {phase['model_right']}."
        )
    return (
        f"The model is right on {_right(phase, 'model')}, the clusters on {phase['clusters_right']}:"
        " too few to go by its doubt."
    )


def _right(phase: Mapping[str, Any], who: str) -> str:
    checks = phase["checks"]
    return f"{phase[f'{who}_right']:,} of {checks:,} random check{'' if checks == 1 else 's'}"
