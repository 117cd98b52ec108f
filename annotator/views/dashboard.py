"""The dashboard: what to do next, and four questions with their answers, each in short and in depth.

``?about=`` names the question whose part is shown; without it the answers in short and what runs now.
"""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from annotator import queries
from annotator.access import LABEL, OWN, REVIEW, VIEW, allows, get_membership
from annotator.actions import certifying
from annotator.actions.forecasting import advise, pace_of
from annotator.actions.gate import given_back
from annotator.errors import Conflict, InvalidSettings
from annotator.models import Item, Job, Membership, ModelVersion, Split
from annotator.queries.work import Work, work
from annotator.views import PageRequest, accuracy, calibration, doubt, first_steps, forecasting, page
from annotator.views import work as working
from annotator.views.certifying import panel as gate_panel
from annotator.views.next_step import Standing, next_step
from annotator.views.reading import is_number
from annotator.wording import decimal, percent, thousands, within

TEMPLATE = "dashboard.html"
# The parts htmx may ask for, by the id of the element they fill.
PARTS = ("jobs", "figures")
ACCURACY, WORTH, DOUBT, WORK = "accuracy", "worth", "doubt", "work"
QUESTIONS = (ACCURACY, WORTH, DOUBT, WORK)


@dataclass(frozen=True)
class Card:
    """A question and its answer in short. figure: empty while there is none. is_open: its part is on the page."""

    about: str
    question: str
    figure: str
    said: str
    url: str
    is_open: bool


@require_safe
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    """Raises InvalidSettings for a question there is not."""
    membership = get_membership(request.user, project_id, VIEW)
    about = request.GET.get("about", "")
    if about and about not in QUESTIONS:
        raise InvalidSettings(
            _("about %(about)s is not one of %(known)s") % {"about": repr(about[:20]), "known": ", ".join(QUESTIONS)}
        )
    part = request.htmx.target if request.htmx and request.htmx.target in PARTS else None
    context = jobs_context(membership) | {"about": about}
    if part != "jobs":
        context |= _figures(membership, about)
    return polled(request, TEMPLATE, part, context)


@require_POST
@page
def draw_checks(request: PageRequest, project_id: int) -> HttpResponse:
    """Draw more random checks from the pool, ``count`` of them."""
    membership = get_membership(request.user, project_id, OWN)
    raw = request.POST.get("count", "")
    try:
        drawn = certifying.draw_checks(project=membership.project, actor=request.user, count=_count(raw))
    except (InvalidSettings, Conflict) as error:
        context = context_of(membership) | {"draw_refused": error.message, "draw_count": raw}
        return render(request, TEMPLATE, context, status=error.status)
    said = ngettext(
        "%(n)s more random check waits to be answered.", "%(n)s more random checks wait to be answered.", drawn
    )
    messages.success(request, said % {"n": thousands(drawn)})
    response = redirect(address(project_id, WORTH) + "#unseen")
    response.status_code = 303
    return response


def address(project_id: int, about: str = "") -> str:
    """Of the dashboard, with the part about one question."""
    return reverse("dashboard", args=[project_id]) + (f"?about={about}" if about else "")


def context_of(membership: Membership, about: str = WORTH) -> dict[str, Any]:
    """What the whole page needs."""
    return jobs_context(membership) | {"about": about} | _figures(membership, about)


def _count(raw: str) -> int:
    if not is_number(raw, 9):
        raise InvalidSettings(_("%(found)s is not a number of random checks") % {"found": repr(raw[:20])})
    return int(raw)


def polled(request: HttpRequest, template: str, part: str | None, context: dict[str, Any]) -> HttpResponse:
    """The page, or one part of it. The jobs part says by status 286 that there is nothing left to ask for.

    When the last job ends, ``jobs-over`` makes the figures of the page ask for themselves.
    """
    response = render(request, f"{template}#{part}" if part else template, context)
    if part:
        response["Cache-Control"] = "no-store"  # "back" must find the page, not its last part
    if part == "jobs" and not context["is_busy"]:
        response.status_code = 286
        response["HX-Trigger"] = "jobs-over"
    return response


def jobs_context(membership: Membership, limit: int = 6) -> dict[str, Any]:
    """What the list of jobs needs. Two queries."""
    jobs = queries.recent_jobs(membership.project, limit=limit)
    active = [job for job in jobs if not job.is_over]
    return {
        "project": membership.project,
        "membership": membership,
        "jobs": jobs,
        "is_busy": bool(active),
        "jobs_said": _said(active),
        "worker_alive": queries.worker_state()["alive"],
    }


def _said(active: list[Job]) -> str:
    """The active jobs for a screen reader; in quarters, so that it is not told of every percent."""
    said = []
    for job in active:
        quarter = int(job.progress * 4) / 4
        state = within(str(job.get_state_display()))
        said.append(f"{job.get_kind_display()}: {state}" + (f", {percent(quarter)}" * (quarter > 0)))
    return "; ".join(said) or _("No job is running")


def _figures(membership: Membership, about: str) -> dict[str, Any]:
    """What is below the head: the next step and the cards, and the part about one question. Some twenty queries, and
    those of the part."""
    project = membership.project
    counts = queries.pool_counts(project)
    model = queries.current_model(project)
    groups = queries.review_groups(project)
    accepted = certifying.accepted_unseen(project).count()
    asked = sum_states(counts, Split.POOL, Split.AUDIT)
    standing = Standing(
        items=sum(asked.values()),
        answered=sum(asked.values()) - asked[Item.State.OPEN],
        pending=sum(count for _class, count in groups),
        classes=len(queries.open_classes(project)),
        accepted=accepted,
        importing=Job.objects.filter(
            project=project, kind=Job.Kind.IMPORT, state__in=[Job.State.QUEUED, Job.State.RUNNING]
        ).first(),
    )
    return {
        "steps": first_steps.steps(membership) if not about else [],
        "next_step": next_step(project, membership.role, standing),
        "can_label": allows(membership.role, LABEL),
        "can_review": allows(membership.role, REVIEW),
        "standing": standing,
        "model": model,
        "groups": groups,
        "proposed_by_names": bool(groups) and queries.proposed_by_names(project),
        "cards": cards(membership, about, counts, model),
        **_part(membership, about, counts, model, accepted),
    }


def _part(
    membership: Membership,
    about: str,
    counts: dict[str, dict[str, int]],
    model: ModelVersion | None,
    accepted: int,
) -> dict[str, Any]:
    if about == ACCURACY:
        return accuracy.panel(membership, model, counts)
    if about == WORTH:
        unseen = gate_panel(membership)
        return unseen | forecasting.panel(membership, unseen["gate"])
    if about == DOUBT:
        return doubt.panel(membership, model, counts)
    if about == WORK:
        return working.panel(membership, model, counts, accepted)
    return {"splits": working.splits(counts, accepted), "given_back": given_back(membership.project)}


def sum_states(counts: dict[str, dict[str, int]], *splits: str) -> dict[str, int]:
    """Items by state over these splits."""
    return {state: sum(counts[split][state] for split in splits) for state in Item.State.values}


# --- the cards ------------------------------------------------------------------------------------------------------


def cards(
    membership: Membership, about: str, counts: dict[str, dict[str, int]], model: ModelVersion | None
) -> list[Card]:
    """The four questions with an answer each. At most nine queries."""
    project = membership.project
    asked = sum_states(counts, Split.POOL, Split.AUDIT)
    answers = {
        ACCURACY: (_("How good is it now?"), *_accuracy_card(model, counts)),
        WORTH: (_("What is the next hour worth?"), *_worth_card(membership, asked[Item.State.OPEN])),
        DOUBT: (_("What is the model unsure about?"), *_doubt_card(model, counts)),
        WORK: (_("How is the work going?"), *_work_card(work(project), asked)),
    }
    return [
        Card(name, question, figure, said, address(project.pk, name), name == about)
        for name, (question, figure, said) in answers.items()
    ]


def _accuracy_card(model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> tuple[str, str]:
    audit = accuracy.audit_standing(model, counts)
    found = audit.measured
    if audit.is_enough and found.accuracy is not None and found.low is not None and found.high is not None:
        said = _("right, 95\xa0%% interval %(low)s to %(high)s, on %(n)s random checks")
        return percent(found.accuracy), said % {
            "low": percent(found.low),
            "high": percent(found.high),
            "n": thousands(found.n),
        }
    if audit.answered >= audit.enough:
        return "", _("Enough random checks are answered. The next model shows its estimate.")
    done = {"n": audit.answered, "enough": audit.enough}
    return "", _("Not known yet: %(n)s of %(enough)s random checks are answered.") % done


def _worth_card(membership: Membership, still_open: int) -> tuple[str, str]:
    study = queries.newest_study(membership.project)
    told = (study.result.get("forecast") if study else None) or {}
    if not told or told.get("lack"):
        return "", f"{advise(told)[1]}."
    hour = forecasting.hour(told, pace_of(membership.project, membership.user), still_open)
    if hour is None:
        return "", f"{advise(told)[1]}."
    figure = f"{'' if hour.gain.startswith('−') else '+'}{hour.gain}"
    said = {
        "hour": _("points of accuracy for %(n)s answers (%(low)s to %(high)s)"),
        "rest": _("points for the %(n)s answers left, %(minutes)s minutes (%(low)s to %(high)s)"),
        "horizon": _("points for the first %(n)s answers, %(minutes)s minutes (%(low)s to %(high)s)"),
    }[hour.kind]
    return figure, said % {"n": thousands(hour.answers), "minutes": hour.minutes, "low": hour.low, "high": hour.high}


def _doubt_card(model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> tuple[str, str]:
    tenths = doubt.sure(model)
    if model is None:
        return "", _("Nothing yet: there is no model.")
    if not model.is_calibrated:
        done = {"n": counts[Split.AUDIT][Item.State.LABELLED], "enough": calibration.CALIBRATED_FROM}
        said = _("Its confidence is uncalibrated before %(enough)s random checks are answered: %(n)s so far.") % done
        return "", said + " " + _("It gives the order of the images and no share.")
    if not tenths:
        return "", _("Nothing yet: that shows with the next model.")
    said = ngettext(
        "open image of %(all)s it is less than %(sure)s sure of",
        "open images of %(all)s it is less than %(sure)s sure of",
        doubt.unsure(tenths),
    )
    return thousands(doubt.unsure(tenths)), said % {"all": thousands(sum(tenths)), "sure": percent(doubt.UNSURE_BELOW)}


def _work_card(done: Work, asked: dict[str, int]) -> tuple[str, str]:
    answered, items = sum(asked.values()) - asked[Item.State.OPEN], sum(asked.values())
    so_far = _("%(n)s of %(all)s images answered") % {"n": thousands(answered), "all": thousands(items)}
    pace = done.paces.get(None)
    if pace is None:
        return "", f"{so_far}."
    said = _("answers an hour at the desk, %(seconds)s\xa0s each; %(so_far)s")
    return thousands(pace.per_hour), said % {"seconds": decimal(pace.median_s), "so_far": so_far}
