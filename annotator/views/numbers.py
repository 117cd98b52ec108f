"""The numbers behind each plot of the dashboard as CSV, for whoever may see the plot."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from django.http import HttpResponse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from annotator import queries
from annotator.access import VIEW, get_membership
from annotator.actions.exporting import safe_stem
from annotator.errors import NotFound
from annotator.formats.csv_rows import guarded
from annotator.models import Membership
from annotator.queries.classwise import class_measures, confusions
from annotator.queries.work import work
from annotator.views import PageRequest, accuracy, calibration, page
from annotator.views import work as working

Table = tuple[Sequence[str], list[Sequence[Any]]]


@require_safe
@page
def show(request: PageRequest, project_id: int, which: str) -> HttpResponse:
    """Raises NotFound for numbers there are not, naming those there are."""
    membership = get_membership(request.user, project_id, VIEW)
    if which not in TABLES:
        raise NotFound(
            _("there are no numbers called %(which)s; there are %(known)s")
            % {"which": repr(which[:40]), "known": ", ".join(TABLES)}
        )
    header, rows = TABLES[which](membership)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows([guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    response = HttpResponse(out.getvalue(), content_type="text/csv; charset=utf-8")
    name = f"{safe_stem(membership.project)}-{which}.csv"
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["Cache-Control"] = "no-store"
    return response


def _accuracy(membership: Membership) -> Table:
    """Rates are 0..1 here as everywhere in files."""
    rows = accuracy.estimates(queries.accuracy_curve(membership.project))
    return ("measured_on", "answers", "accuracy", "low", "high", "images"), [
        (sample, at.answers, at.accuracy, at.low, at.high, at.n) for sample, at in rows
    ]


def _sample(membership: Membership) -> tuple[Any, str]:
    model = queries.current_model(membership.project)
    is_enough = queries.measured(model, "audit").n >= queries.CHECKS_AT_LEAST
    return model, "audit" if is_enough else "test"


def _classes(membership: Membership) -> Table:
    model, sample = _sample(membership)
    found = class_measures(model, sample, {each.pk: each for each in membership.project.classes.all()})
    return ("class", "measured_on", "checks", "right", "low", "high", "said", "said_right"), [
        (each.label_class.name, sample, each.checks, each.right, each.low, each.high, each.said, each.said_right)
        for each in found
    ]


def _confusion(sample: str) -> Callable[[Membership], Table]:
    def table(membership: Membership) -> Table:
        model = queries.current_model(membership.project)
        is_shown = sample != "audit" or _sample(membership)[1] == "audit"
        classes = {each.pk: each for each in membership.project.classes.all()}
        found = confusions(model, sample, classes) if is_shown else []
        return ("people_say", "model_says", "images"), [(each.given.name, each.said.name, each.n) for each in found]

    return table


def _forecast(membership: Membership) -> Table:
    study = queries.newest_study(membership.project)
    told = (study.result.get("forecast") if study else None) or {}
    rows: list[Sequence[Any]] = [("measured", n, rate, "", "") for n, rate in told.get("points", [])]
    rows += [("curve", round(n), rate, low, high) for n, rate, low, high in told.get("curve", [])]
    return ("kind", "answers", "accuracy", "low", "high"), rows


def _reliability(membership: Membership) -> Table:
    model = queries.current_model(membership.project)
    found = calibration.confidence(model, {}) if model else None
    return ("confidence", "checks", "right", "low", "high"), [
        (each.confidence, each.n, each.right, each.low, each.high) for each in (found.bins if found else [])
    ]


def _confidence(membership: Membership) -> Table:
    model = queries.current_model(membership.project)
    tenths = (model.metrics.get("sure") if model else None) or []
    return ("confidence_from", "open_images"), [(place / 10, n) for place, n in enumerate(tenths)]


def _over(counts: Callable[[Any], working.Counts]) -> Callable[[Membership], Table]:
    def table(membership: Membership) -> Table:
        rows = counts(work(membership.project))
        return ("from", "answered", "decided_in_review"), [(at.isoformat(), *numbers) for at, *numbers in rows]

    return table


def _by_reason(membership: Membership) -> Table:
    return ("reason", "answers"), list(work(membership.project).by_reason())


def _by_person(membership: Membership) -> Table:
    """Everybody for owners, oneself for others: the page's own rows, without the sum of the others."""
    rows = working.people(membership, work(membership.project))
    return ("person", "answers", "decided_in_review", "median_seconds"), [
        (each.name, each.answers, each.reviewed, each.pace.median_s if each.pace else "") for each in rows if each.name
    ]


def _by_class(membership: Membership) -> Table:
    balance, _counted_by = working.class_balance(membership, queries.current_model(membership.project))
    return ("class", "labels"), [(each.name, n) for each, n in balance]


TABLES: dict[str, Callable[[Membership], Table]] = {
    "accuracy": _accuracy,
    "classes": _classes,
    "confusion-audit": _confusion("audit"),
    "confusion-test": _confusion("test"),
    "confusion-labels": _confusion("labels"),
    "forecast": _forecast,
    "reliability": _reliability,
    "confidence": _confidence,
    "answers-by-hour": _over(working.hours),
    "answers-by-day": _over(working.days),
    "answers-by-reason": _by_reason,
    "answers-by-person": _by_person,
    "labels-by-class": _by_class,
}
