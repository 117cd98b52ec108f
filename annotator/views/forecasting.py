"""What the dashboard says of the next answers: templates/forecasting.html."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from annotator import queries
from annotator.access import OWN, allows
from annotator.actions import forecasting
from annotator.actions.forecasting import Outlook, lasting, points
from annotator.actions.gate import Gate
from annotator.forecast_charts import forecast_chart
from annotator.models import Membership, Project, QueueEntry
from annotator.wording import between, percent, thousands, written

ORIGINS = {
    "answered": gettext_lazy("Answered by people"),
    "reviewed": gettext_lazy("Accepted in review"),
    "imported": gettext_lazy("Came with the import"),
    "unseen": gettext_lazy("Accepted unseen"),
    "sure": gettext_lazy("Open, as sure as what is proposed"),
    "less_sure": gettext_lazy("Open, less sure"),
}
BASIS = {
    "answered": gettext_lazy("second opinions"),
    "reviewed": gettext_lazy("random checks like those proposed"),
    "unseen": gettext_lazy("random checks of the certificate"),
    "sure": gettext_lazy("random checks it is as sure of"),
    "less_sure": gettext_lazy("random checks it is less sure of"),
}
UNTOLD = {"answered": gettext_lazy("second opinions would tell")}
CHOSEN_BY = {
    QueueEntry.Reason.TYPICAL: gettext_lazy("as typical of many"),
    QueueEntry.Reason.CLOSE_CALL: gettext_lazy("by close calls"),
    QueueEntry.Reason.UNSURE: gettext_lazy("by doubt"),
    QueueEntry.Reason.DISPUTED: gettext_lazy("by dispute"),
    QueueEntry.Reason.UNLIKE: gettext_lazy("as unlike what was known"),
    QueueEntry.Reason.SCARCE: gettext_lazy("from a scarce class"),
}


@dataclass(frozen=True)
class ErrorRow:
    """Labels of one origin, how many are wrong, and what says so."""

    title: str
    count: int
    wrong: str
    basis: str
    is_open: bool


def panel(membership: Membership, gate: Gate) -> dict[str, Any]:
    """The context of templates/forecasting.html. Five queries."""
    found = forecasting.outlook(membership.project, membership.user, gate)
    told = found.forecast
    return {
        "outlook": found,
        "now": _now(told),
        "ahead": [
            each | {"gain_shown": written(f"{100 * each['gain']:.1f}").replace("-", "−"), "between": _between(each)}
            for each in told.get("ahead", [])
        ],
        "curve_wide": forecast_chart(told),
        "curve_slim": forecast_chart(told, width=350, height=230),
        "hour": hour(told, found.pace, gate.review + gate.asking),
        "work_rows": [(each, _time(each)) for each in found.work],
        "gain_said": gain_sentence(found),
        "may_raise_share": allows(membership.role, OWN),
    }


def errors_panel(project: Project) -> dict[str, Any]:
    """The context of templates/forecasting.html#errors-left. One query."""
    study = queries.newest_study(project)
    errors = (study.result.get("errors_left") if study else None) or {}
    # A study of before the open images were told apart by how sure the model is: its counts were of other images.
    is_outdated = any(row["name"] not in ORIGINS for row in errors.get("open", []))
    return {
        "study": study,
        "errors": errors,
        "error_rows": error_rows(errors),
        "errors_sum": _wrong(errors.get("sum")),
        "errors_sum_open": "" if is_outdated else _wrong(errors.get("sum_with_open")),
    }


@dataclass(frozen=True)
class Hour:
    """What the next hour of answers is expected to bring, in points. minutes: less than an hour where no more images
    are open, or the forecast looks no further ahead than so many ``answers``. kind: "hour", "rest" or "horizon"."""

    kind: str
    answers: int
    minutes: int
    gain: str
    low: str
    high: str


def hour(told: dict[str, Any], pace: forecasting.Pace | None, still_open: int) -> Hour | None:
    """Read off the forecast, between its numbers of answers; None before there is one, or a pace. No query."""
    ahead = told.get("ahead") or []
    if not ahead or pace is None or not pace.seconds:
        return None
    whole = round(3600 / pace.seconds)
    kind, answers = min(
        ("hour", whole), ("rest", still_open), ("horizon", ahead[-1]["more"]), key=lambda each: each[1]
    )
    if answers < 1:
        return None
    sizes = [0, *(each["more"] for each in ahead)]

    def at(name: str) -> float:
        return float(np.interp(answers, sizes, [0.0, *(each[name] for each in ahead)]))

    return Hour(
        kind=kind,
        answers=answers,
        minutes=max(1, round(answers * pace.seconds / 60)),
        gain=points(at("gain")),
        low=points(at("gain_low")),
        high=points(at("gain_high")),
    )


def _now(told: dict[str, Any]) -> float | None:
    """What the curve has now. A study of before it was kept tells it by what comes; with nothing to come, the measured
    rate is all there is."""
    if "now" in told or not told.get("ahead"):
        return told.get("now", told.get("accuracy"))
    return float(told["ahead"][0]["accuracy"] - told["ahead"][0]["gain"])


def _between(ahead: dict[str, Any]) -> str:
    return between(points(ahead["gain_low"]), points(ahead["gain_high"]))


def _time(work: forecasting.Work) -> str:
    if work.minutes is None:
        return "–"
    spent = lasting(work.minutes)
    return _("at most %(time)s") % {"time": spent} if work.is_ceiling else spent


def error_rows(errors: dict[str, Any]) -> list[ErrorRow]:
    """The table of errors left: labels there are, then open images."""
    return [
        ErrorRow(
            title=str(ORIGINS[row["name"]]),
            count=row["count"],
            wrong=_wrong(row) or _("not measured"),
            basis=_basis(row),
            is_open=is_open,
        )
        for key, is_open in (("there", False), ("open", True))
        for row in errors.get(key, [])
        if row["name"] in ORIGINS
    ]


def _basis(row: dict[str, Any]) -> str:
    if not row["checked"]:
        return str(UNTOLD.get(row["name"], ""))
    counts = {"wrong": thousands(row["wrong"]), "checked": thousands(row["checked"])}
    return _("%(wrong)s of %(checked)s wrong: %(basis)s") % (counts | {"basis": BASIS[row["name"]]})


def _wrong(row: dict[str, Any] | None) -> str:
    """``12 to 122, likely 48``; ``at most 36``; empty where nothing is measured."""
    if not row or row["high"] is None:
        return ""
    low, high = thousands(row["low"]), thousands(row["high"])
    if row["expected"] is None:
        return between(low, high) if row["low"] else _("at most %(n)s") % {"n": high}
    ends = {"low": low, "high": high, "likely": thousands(row["expected"])}
    return _("%(low)s to %(high)s, likely %(likely)s") % ends


def gain_sentence(found: Outlook) -> str:
    """What choosing the questions gained, or how many answers that lacks."""
    gain = found.gain
    if not gain:
        return ""
    if gain["lack"]:
        return _("Not known yet what choosing the questions gains: %(why)s.") % {"why": gain["lack"]}
    sign = "+" if gain["difference"] >= 0 else ""
    said = _(
        "%(n)s answers chosen %(by)s teach %(chosen)s, %(n)s at random %(random)s: %(difference)s points (%(low)s to"
        " %(high)s)."
    ) % {
        "n": thousands(gain["n"]),
        "by": CHOSEN_BY.get(gain["by"], _("by the model")),
        "chosen": percent(gain["chosen"]),
        "random": percent(gain["baseline"]),
        "difference": sign + points(gain["difference"]),
        "low": points(gain["low"]),
        "high": points(gain["high"]),
    }
    if gain["worth"]:
        worth = ngettext(
            "They teach as much as %(n)s random one would.",
            "They teach as much as %(n)s random ones would.",
            gain["worth"],
        )
        said += " " + worth % {"n": thousands(gain["worth"])}
    return said
