"""What the random checks say of the proposals as a whole: how sure one may be before accepting them."""

import math
from dataclasses import dataclass
from typing import Any

from annotator import queries
from annotator.models import Item, Project, Split
from annotator.views import calibration
from annotator.wording import percent, promised

# How sure the headline wants to be, below which sureness it names none, and when confidences are calibrated.
SURENESS, SURENESS_SAID, CALIBRATED_FROM = 0.95, 0.5, 30
CHECKS_AT_MOST = 20_000


@dataclass(frozen=True)
class Trust:
    """What the random checks say of the proposals as a whole.

    ``sureness``: how sure one may be that at least the project's target is right; empty below SURENESS_SAID, where
    the number would be read as something. ``missing``: how many more checks, all of them
    right, would make that 95 %; None when more checks cannot be expected to. ``waiting``: checks not answered yet.
    """

    right: int
    checked: int
    estimate: str
    at_least: str
    sureness: str
    is_enough: bool
    missing: int | None
    waiting: int


def trust_context(project: Project) -> dict[str, Any]:
    """What the line above the tiles is made of."""
    model = queries.current_model(project)
    return {
        "trust": trust(project),
        "calibrated_from": CALIBRATED_FROM,
        "checks_at_least": queries.CHECKS_AT_LEAST,
        "target": promised(project.settings.target_precision),
        "checks_needed": checks_missing(project.settings.target_precision, SURENESS, 0, 0),
        "checks_like_these": (queries.proposal_precision(project) or {}).get("checked", 0),
        "checks": queries.measured(model, "audit").n,
        "short_lists": calibration.short_list(model, {}) if model else None,
    }


def trust(project: Project) -> Trust | None:
    """The headline's numbers, or None before CHECKS_AT_LEAST random checks were answered on which the model is this
    confident."""
    precision = queries.proposal_precision(project)
    if precision is None or precision["checked"] < queries.CHECKS_AT_LEAST:
        return None
    right, checked = precision["right"], precision["checked"]
    target = project.settings.target_precision
    sureness = sureness_of(target, right, checked)
    return Trust(
        right=right,
        checked=checked,
        estimate=percent(right / checked),
        at_least=percent(math.floor(precision["low"] * 1000) / 1000, 1),
        sureness=percent(math.floor(sureness * 100) / 100) if sureness >= SURENESS_SAID else "",
        is_enough=sureness >= SURENESS,
        missing=checks_missing(target, SURENESS, right, checked),
        waiting=queries.pool_counts(project)[Split.AUDIT][Item.State.OPEN],
    )


def sureness_of(target: float, right: int, checked: int) -> float:
    """The confidence, 0..1, of the claim that at least ``target`` of all are right, from so many random checks.

    The level at which the one-sided Clopper-Pearson lower bound equals the target: one minus the probability of
    ``checked - right`` errors or fewer, were exactly ``target`` right. Source: Clopper and Pearson 1934.
    """
    at_least_as_good, term = 0.0, target**checked
    for errors in range(checked - right + 1):
        at_least_as_good += term
        term *= (checked - errors) / (errors + 1) * (1 - target) / target
    return max(0.0, 1 - at_least_as_good)


def checks_missing(target: float, sureness: float, right: int, checked: int) -> int | None:
    """The fewest further checks, all right, that give this sureness; None when the estimate is below the target.

    By bisection between none and CHECKS_AT_MOST; None beyond that, too.
    """
    if right < target * checked and checked - right > 1:
        return None
    too_few, enough = -1, CHECKS_AT_MOST
    if sureness_of(target, right + enough, checked + enough) < sureness:
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if sureness_of(target, right + middle, checked + middle) >= sureness:
            enough = middle
        else:
            too_few = middle
    return enough
