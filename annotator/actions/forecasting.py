"""What the next answers are worth to whoever looks: the newest study, this person's pace, and what follows of both.

Nothing here writes. The study's own numbers come from ml_worker/forecasting.py.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from django.contrib.auth.models import User
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator import queries
from annotator.actions.gate import Gate, gate_of
from annotator.actions.labeling import ANSWERS
from annotator.models import Annotation, AuditEvent, Job, Project
from annotator.wording import decimal, percent, promised, thousands, written

# The answers a pace is taken from, and how many say something.
PACE_ANSWERS, PACE_AT_LEAST = 100, 5
# A longer pause between two screenfuls is no part of reviewing them.
PAUSE_S = 300
SCREENFULS = 40


@dataclass(frozen=True)
class Pace:
    """Median seconds for an answer, idle time left out. whose: "your" or "the team's"."""

    seconds: float
    answers: int
    whose: str


@dataclass(frozen=True)
class Work:
    """Something that could be done next. count: images, None where it is out of reach. minutes: None while no pace is
    known. is_ceiling: it takes at most so long."""

    name: str
    title: str
    count: int | None
    minutes: float | None
    note: str = ""
    is_ceiling: bool = False


@dataclass(frozen=True)
class Outlook:
    """Everything the page and the API tell. forecast, errors, gain: parts of the study, empty before there is one."""

    study: Job | None
    forecast: dict[str, Any]
    errors: dict[str, Any]
    gain: dict[str, Any]
    pace: Pace | None
    advice: str
    kind: str
    work: list[Work] = field(default_factory=list)


def outlook(project: Project, user: User, gate: Gate | None = None) -> Outlook:
    """What is known now. gate: where it is known already. Five queries, and the eight of the gate."""
    study = queries.newest_study(project)
    found = study.result if study else {}
    gate = gate or gate_of(project)
    forecast = found.get("forecast") or {}
    pace, screenful_s = pace_of(project, user), review_seconds(project, user)
    work = _work(project, forecast, gate, pace, screenful_s)
    kind, advice = advise(forecast)
    reviewing = next((each for each in work if each.name == "review"), None)
    if kind == "stop" and reviewing and reviewing.count and reviewing.minutes is not None:
        said = _("%(advice)s; reviewing the %(n)s proposals takes about %(time)s")
        if reviewing.is_ceiling:
            said = _("%(advice)s; reviewing the %(n)s proposals takes at most %(time)s")
        words = {"advice": advice, "n": thousands(reviewing.count), "time": lasting(reviewing.minutes)}
        advice = said % words
    return Outlook(
        study=study,
        forecast=forecast,
        errors=found.get("errors_left") or {},
        gain=found.get("gain") or {},
        pace=pace,
        advice=f"{advice}.",
        kind=kind,
        work=work,
    )


def advise(forecast: dict[str, Any]) -> tuple[str, str]:
    """What to do, and why in a sentence without its full stop. The first: "stop", "go_on", "open", or "early" before
    anything can be told. The rule is `Forecast.advice` in ml_worker/forecast.py."""
    if not forecast:
        return "early", _("Too early to tell: nothing has been studied yet")
    if forecast.get("lack"):
        return "early", _("Too early to tell: %(lack)s") % {"lack": forecast["lack"]}
    ahead = next((each for each in forecast["ahead"] if each["more"] == forecast["advised"]), None)
    if ahead is None:
        return "stop", _("No image is left to ask about")
    more, gain = ahead["more"], points(ahead["gain"])
    # "1.0" is one point, as "1" is.
    worth = ngettext("%(points)s point", "%(points)s points", 1 if round(100 * ahead["gain"], 1) == 1 else 2)
    words = {
        "n": thousands(more),
        "worth": worth % {"points": gain},
        "low": points(ahead["gain_low"]),
        "high": points(ahead["gain_high"]),
    }
    if forecast["advice"] == "stop" and gain == "0":
        said = ngettext(
            "The next answer is not expected to raise accuracy (%(low)s to %(high)s points): going on pays little",
            "The next %(n)s answers are not expected to raise accuracy (%(low)s to %(high)s points): going on pays"
            " little",
            more,
        )
        return "stop", said % words
    if forecast["advice"] == "stop":
        said = ngettext(
            "The next answer is expected to raise accuracy by %(worth)s (%(low)s to %(high)s): going on pays little",
            "The next %(n)s answers are expected to raise accuracy by %(worth)s (%(low)s to %(high)s): going on pays"
            " little",
            more,
        )
        return "stop", said % words
    if forecast["advice"] == "go_on":
        said = ngettext(
            "Go on: the next answer is worth about %(worth)s (%(low)s to %(high)s)",
            "Go on: the next %(n)s answers are worth about %(worth)s (%(low)s to %(high)s)",
            more,
        )
        return "go_on", said % words
    said = ngettext(
        "Whether going on pays cannot be told yet: the next answer is worth %(worth)s (%(low)s to %(high)s)",
        "Whether going on pays cannot be told yet: the next %(n)s answers are worth %(worth)s (%(low)s to %(high)s)",
        more,
    )
    return "open", said % words


def points(rate: float) -> str:
    """A difference of rates in percentage points: ``3``, ``0.4``, ``−1``."""
    value = round(100 * rate, 1)
    shown = f"{abs(value):.0f}" if abs(value) >= 2 or value == 0 else f"{abs(value):.1f}"
    return written(f"−{shown}" if value < 0 and float(shown) else shown)


def lasting(minutes: float) -> str:
    """A time as people plan with it."""
    if minutes < 1:
        return _("less than a minute")
    if minutes < 90:
        n = round(minutes)
        return ngettext("%(n)s minute", "%(n)s minutes", n) % {"n": n}
    return _("%(n)s hours") % {"n": decimal(minutes / 60, 1 if minutes < 600 else 0)}


def pace_of(project: Project, user: User) -> Pace | None:
    """Of this person's last answers, else of everybody's; None from fewer than five. At most two queries."""
    timed = Annotation.objects.filter(project=project, kind__in=ANSWERS, milliseconds__isnull=False)
    newest = timed.order_by("-id").values_list("milliseconds", flat=True)
    for whose, answers in (("your", newest.filter(annotator_id=user.pk)), ("the team's", newest)):
        spent = [each for each in answers[:PACE_ANSWERS] if each is not None]
        if len(spent) >= PACE_AT_LEAST:
            return Pace(median(spent) / 1000, len(spent), whose)
    return None


def review_seconds(project: Project, user: User) -> float | None:
    """Seconds for a reviewed image: from one screenful this person sent to the next, pauses left out; None from fewer
    than three. One query."""
    events = AuditEvent.objects.filter(project=project, actor_id=user.pk, verb="reviewed proposals").order_by("-id")
    kinds = ("detail__accepted", "detail__rejected", "detail__corrected")
    rows = [(at, sum(each or 0 for each in counts)) for at, *counts in events.values_list("at", *kinds)[:SCREENFULS]]
    spent = [
        ((at - before).total_seconds(), count)
        for (at, count), (before, _) in pairwise(rows)
        if count and (at - before).total_seconds() <= PAUSE_S
    ]
    if len(spent) < 3:
        return None
    return sum(seconds for seconds, _ in spent) / sum(count for _, count in spent)


def _work(
    project: Project, forecast: dict[str, Any], gate: Gate, pace: Pace | None, screenful_s: float | None
) -> list[Work]:
    each_s = pace.seconds if pace else None

    def minutes(count: int | None, seconds: float | None) -> float | None:
        return None if count is None or seconds is None else count * seconds / 60

    work = []
    # A target that is reached leaves nothing to plan.
    if forecast.get("reached") and forecast["reached"][0] != 0:
        likely, few, many = forecast["reached"]
        title = _("Until %(target)s accuracy is forecast") % {"target": promised(forecast["target"])}
        note = _until(forecast, likely, few, many)
        work.append(Work("target", title, likely, minutes(likely, each_s), note))
    if gate.missing:
        note, title = _("if none of them shows an error"), _("Random checks a certificate lacks")
        work.append(Work("certificate", title, gate.missing, minutes(gate.missing, each_s), note))
    if gate.review:
        seconds, is_ceiling = (each_s, True) if screenful_s is None else (screenful_s, False)
        title = _("Review the proposals that wait")
        work.append(Work("review", title, gate.review, minutes(gate.review, seconds), is_ceiling=is_ceiling))
    still_open = gate.review + gate.asking
    if still_open:
        work.append(Work("open", _("Answer every open image"), still_open, minutes(still_open, each_s)))
    return work


def _until(forecast: dict[str, Any], likely: int | None, few: int | None, many: int | None) -> str:
    if few is None:
        return _("out of reach: the curve levels off at about %(rate)s") % {"rate": percent(forecast["floor"])}
    if likely is not None and many is None:
        said = _("%(few)s at least, perhaps never") if few else _("perhaps reached already, perhaps never")
    elif likely is not None:
        said = _("%(few)s to %(many)s") if few else _("%(many)s at most, perhaps reached already")
    elif few:
        said = _("most likely out of reach; at best after %(few)s answers")
    else:
        said = _("perhaps reached, most likely never")
    return said % {"few": thousands(few), "many": thousands(many or 0)}
