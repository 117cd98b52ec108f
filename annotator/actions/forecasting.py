"""What the next answers are worth to whoever looks: the newest study, this person's pace, and what follows of both.

Nothing here writes. The study's own numbers come from ml_worker/forecasting.py.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from django.contrib.auth.models import User

from annotator import queries
from annotator.actions.gate import Gate, gate_of
from annotator.actions.labeling import ANSWERS
from annotator.models import Annotation, AuditEvent, Job, Project
from annotator.wording import percent, promised

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
        most = "at most " if reviewing.is_ceiling else "about "
        advice += f"; reviewing the {reviewing.count:,} proposals takes {most}{lasting(reviewing.minutes)}"
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
        return "early", "Too early to tell: nothing has been studied yet"
    if forecast.get("lack"):
        return "early", f"Too early to tell: {forecast['lack']}"
    ahead = next((each for each in forecast["ahead"] if each["more"] == forecast["advised"]), None)
    if ahead is None:
        return "stop", "No image is left to ask about"
    answers = "The next answer is" if ahead["more"] == 1 else f"The next {ahead['more']:,} answers are"
    between = f"{points(ahead['gain_low'])} to {points(ahead['gain_high'])}"
    worth = f"{points(ahead['gain'])} point{'' if points(ahead['gain']) in ('1', '1.0') else 's'}"
    if forecast["advice"] == "stop" and points(ahead["gain"]) == "0":
        return "stop", f"{answers} not expected to raise accuracy ({between} points): going on pays little"
    if forecast["advice"] == "stop":
        return "stop", f"{answers} expected to raise accuracy by {worth} ({between}): going on pays little"
    if forecast["advice"] == "go_on":
        return "go_on", f"Go on: {answers[0].lower()}{answers[1:]} worth about {worth} ({between})"
    return (
        "open",
        f"Whether going on pays cannot be told yet: {answers[0].lower()}{answers[1:]} worth {worth} ({between})",
    )


def points(rate: float) -> str:
    """A difference of rates in percentage points: ``3``, ``0.4``, ``−1``."""
    value = round(100 * rate, 1)
    shown = f"{abs(value):.0f}" if abs(value) >= 2 or value == 0 else f"{abs(value):.1f}"
    return f"−{shown}" if value < 0 and float(shown) else shown


def lasting(minutes: float) -> str:
    """A time as people plan with it."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 90:
        return f"{minutes:.0f} minute{'' if round(minutes) == 1 else 's'}"
    return f"{minutes / 60:.1f} hours" if minutes < 600 else f"{minutes / 60:,.0f} hours"


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
        title = f"Until {promised(forecast['target'])} accuracy is forecast"
        note = _until(forecast, likely, few, many)
        work.append(Work("target", title, likely, minutes(likely, each_s), note))
    if gate.missing:
        note = "if none of them shows an error"
        work.append(
            Work("certificate", "Random checks a certificate lacks", gate.missing, minutes(gate.missing, each_s), note)
        )
    if gate.review:
        seconds, is_ceiling = (each_s, True) if screenful_s is None else (screenful_s, False)
        title = "Review the proposals that wait"
        work.append(Work("review", title, gate.review, minutes(gate.review, seconds), is_ceiling=is_ceiling))
    still_open = gate.review + gate.asking
    if still_open:
        work.append(Work("open", "Answer every open image", still_open, minutes(still_open, each_s)))
    return work


def _until(forecast: dict[str, Any], likely: int | None, few: int | None, many: int | None) -> str:
    if few is None:
        return f"out of reach: the curve levels off at about {percent(forecast['floor'])}"
    if likely is not None:
        if many is None:
            return f"{few:,} at least, perhaps never" if few else "perhaps reached already, perhaps never"
        return f"{few:,} to {many:,}" if few else f"{many:,} at most, perhaps reached already"
    return f"most likely out of reach; at best after {few:,} answers" if few else "perhaps reached, most likely never"
