"""How many answers would it have taken? Choosing what to compare, what runs, and what was found."""

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop, ngettext
from django.views.decorators.http import require_http_methods, require_safe

from annotator import algorithms, queries
from annotator.access import REVIEW, VIEW, allows, get_job, get_membership
from annotator.actions import backtesting
from annotator.actions.backtesting import ANSWERS, DIGITS, Wish
from annotator.actions.exporting import safe_stem
from annotator.backtest_charts import LOOKS, Series
from annotator.errors import Conflict, InvalidSettings
from annotator.models import Job, Membership, Project
from annotator.views import PageRequest, page
from annotator.views.model_facts import title_of
from annotator.wording import percent, promised, thousands, with_interval, within, written

TEMPLATE = "backtesting.html"
# What no catalogue names, of past answers: the order in which they were given, and random order of the whole pool.
OTHER_ORDERS = {
    "as_it_happened": gettext_lazy("As it happened"),
    "random_checks": gettext_lazy("Random checks alone"),
}
# What a result says of a difference.
VERDICTS = (gettext_noop("better"), gettext_noop("worse"), gettext_noop("no better"))
AT_FIRST = ("margin", "random_sampling", "typiclust")


@require_http_methods(["GET", "HEAD", "POST"])
@page
def show(request: PageRequest, project_id: int) -> HttpResponse:
    if request.method == "POST":
        return _ask(request, get_membership(request.user, project_id, REVIEW))
    membership = get_membership(request.user, project_id, VIEW)
    context = _context(request, membership)
    if request.htmx and request.htmx.target == "back-test":
        response = render(request, f"{TEMPLATE}#back-test", context)
        response["Cache-Control"] = "no-store"
        if not context["is_running"]:
            response.status_code = 286
        return response
    return render(request, TEMPLATE, context)


@require_safe
@page
def download(request: PageRequest, project_id: int, job_id: int) -> HttpResponse:
    """Every point of a back-test: ``?format=json`` (as `simulate --json` writes it) or ``csv``."""
    job = get_job(request.user, project_id, job_id, VIEW)
    wanted = request.GET.get("format", "json")
    if wanted not in backtesting.FORMATS:
        known = ", ".join(backtesting.FORMATS)
        raise InvalidSettings(_("%(found)s is not one of %(known)s") % {"found": repr(wanted[:20]), "known": known})
    found = backtesting.points(job)
    response: HttpResponse
    if wanted == "csv":
        response = HttpResponse(backtesting.as_csv(found), content_type="text/csv; charset=utf-8")
    else:
        response = JsonResponse(found, json_dumps_params={"indent": 1})
    name = f"{safe_stem(job.project)}-back-test-{job.pk}.{wanted}"
    response["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    response["Cache-Control"] = "no-store"
    return response


def _ask(request: PageRequest, membership: Membership) -> HttpResponse:
    try:
        wish = _wish(request, membership.project)
        backtesting.request_back_test(project=membership.project, actor=request.user, wish=wish)
    except (InvalidSettings, Conflict) as error:
        context = _context(request, membership) | _form(membership.project, request)
        context |= {"refused": error.message, "fields": error.fields}
        return render(request, TEMPLATE, context, status=error.status)
    # No notice: the page shows the job as long as it runs, and would show the notice beside its result.
    response = redirect(reverse("back-test", args=[membership.project.pk]))
    response.status_code = 303
    return response


def _wish(request: HttpRequest, project: Project) -> Wish:
    """What the form says. Raises InvalidSettings for what is no number."""
    sent, wrong = request.POST, dict[str, str]()

    def number(name: str, raw: str) -> float:
        try:
            return float(raw)
        except ValueError:
            wrong[name] = _("%(found)s is not a number") % {"found": repr(raw.strip()[:20])}
            return 0.0

    targets = [number("target_precision", each) / 100 for each in sent.get("target_precision", "").split(",")]
    wish = Wish(
        source=sent.get("source", ""),
        acquisition=sent.getlist("acquisition"),
        head=sent.getlist("head"),
        target_precision=[round(target, 6) for target in targets],
        confidence=project.settings.certificate_confidence,
        threshold_per_class=sent.get("threshold_per_class") == "on",
        budget=_whole(number("budget", sent.get("budget", ""))),
        seeds=_whole(number("seeds", sent.get("seeds", ""))),
    )
    if wrong:
        sentence = "; ".join(f"{name.replace('_', ' ')}: {why}" for name, why in wrong.items())
        raise InvalidSettings(sentence, fields=wrong)
    return wish


def _whole(number: float) -> int:
    """What is no whole number is 0, and refused as too small."""
    return int(number) if number.is_integer() else 0


def _context(request: HttpRequest, membership: Membership) -> dict[str, Any]:
    project, tests = membership.project, backtesting.back_tests(membership.project)
    active = [job for job in tests if not job.is_over]
    told = [job for job in tests if backtesting.has_result(job)]
    wanted = request.GET.get("job", "")
    shown = next((job for job in told if str(job.pk) == wanted), told[0] if told else None)
    newest = tests[0] if tests else None
    return {
        "project": project,
        "membership": membership,
        "may_ask": allows(membership.role, REVIEW),
        "running": active[-1] if active else None,
        "is_running": bool(active),
        "failed": newest if newest and newest.state == Job.State.FAILED else None,
        "worker_alive": queries.worker_state()["alive"] if active else 1,
        "shown": found(shown) if shown else None,
        "earlier": [{"job": job, "what": _what(job), "is_shown": job == shown} for job in told],
        "missing": backtesting.missing_for_replay(project),
        **_form(project),
    }


def _form(project: Project, request: HttpRequest | None = None) -> dict[str, Any]:
    """The fields as they were sent, or as they are at first."""
    usual = project.settings
    sent = request.POST if request else None
    chosen = set(sent.getlist("acquisition")) if sent else {*AT_FIRST, usual.acquisition}
    heads = set(sent.getlist("head")) if sent else {usual.head}
    return {
        "functions": [
            {"name": each.name, "title": each.title, "help": each.help, "is_chosen": each.name in chosen}
            for each in algorithms.catalogue("acquisition")
        ],
        "heads": [
            {"name": each.name, "title": each.title, "is_chosen": each.name in heads}
            for each in algorithms.catalogue("head")
        ],
        "source": sent.get("source", ANSWERS) if sent else ANSWERS,
        "sources": (ANSWERS, DIGITS),
        "target_precision": (
            sent.get("target_precision", "") if sent else f"{round(100 * usual.target_precision, 4):g}"
        ),
        "threshold_per_class": sent.get("threshold_per_class") == "on" if sent else usual.threshold_per_class,
        "certainty": promised(usual.certificate_confidence),
        "budget": sent.get("budget", "") if sent else 100,
        "seeds": sent.get("seeds", "") if sent else 5,
        "budget_range": backtesting.BUDGET,
        "seeds_range": backtesting.SEEDS,
    }


# --- what was found


def found(job: Job) -> dict[str, Any]:
    """A result with titles for names, ready for the chart and the tables."""
    summary = job.result["summary"]
    lines = [_line(place, curve, summary) for place, curve in enumerate(summary["curves"])]
    return {
        "job": job,
        "what": _what(job),
        "is_replay": job.result["measured_on"] == "checks",
        "n_pool": job.result["n_pool"],
        "n_test": job.result["n_test"],
        "seeds": summary["seeds"],
        "series": [line["series"] for line in lines],
        "lines": lines,
        "at": _rows(summary["curves"]),
        "gates": [_gate(gate, summary) for gate in summary["gates"]],
    }


def _line(place: int, curve: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    title = _title(curve, summary)
    difference = curve["area_difference"]
    saved = (curve["labels"] or {}).get("saved")
    return {
        "title": title,
        "look": place % LOOKS,
        "series": Series(title, curve["curve"], place % LOOKS),
        "is_baseline": any(each["baseline"] and _key(each["baseline"]) == _key(curve) for each in summary["curves"]),
        "lack": curve.get("lack", ""),
        "against": _title(curve["baseline"], summary) if curve["baseline"] else "",
        "area": curve["area"],
        "difference": _points(difference) if difference else "",
        "verdict": difference["verdict"] if difference else "",
        "labels": curve["labels"],
        "saved": _saved(saved) if saved else "",
        "saves": saved["verdict"] if saved else "",
    }


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return line["acquisition"], line["head"], line["trainer"]


def _title(line: dict[str, Any], summary: dict[str, Any]) -> str:
    name = line["acquisition"]
    title = str(OTHER_ORDERS.get(name) or title_of("acquisition", name))
    if len({each["head"] for each in summary["curves"]}) > 1:
        title += f", {within(title_of('head', line['head']))}"
    return title


def _points(difference: dict[str, Any]) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    mean, low, high = (
        None if difference[name] is None else written(f"{100 * difference[name]:+.1f}".replace("-", "−"))
        for name in ("mean", "low", "high")
    )
    return with_interval(mean or "", low, high) if low and high else mean or ""


def _saved(saved: dict[str, Any]) -> str:
    mean, low, high = (
        None if saved[name] is None else written(f"{saved[name]:.0f}".replace("-", "−"))
        for name in ("mean", "low", "high")
    )
    return with_interval(mean or "", low, high) if low and high else mean or ""


def _rows(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves as a table: a row for each number of answers."""
    at = sorted({point["labels"] for curve in curves for point in curve["curve"]})
    known = [{point["labels"]: point for point in curve["curve"]} for curve in curves]
    return [{"labels": labels, "points": [points.get(labels) for points in known]} for labels in at]


def _gate(gate: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """A gate's line: what it promised, and what was true."""
    right = "–" if gate["precision"] is None else percent(gate["precision"], 1)
    if gate["precision_low"] is not None:
        right = with_interval(right, percent(gate["precision_low"]), percent(gate["precision_high"]))
    broken = "–"
    if gate["broken"] is not None and gate["opened"]:
        broken = _("%(n)s of %(of)s") % {"n": gate["broken"], "of": gate["runs"]}
    promise = _("%(target)s with %(certainty)s certainty")
    if gate["threshold_per_class"]:
        promise = _("%(target)s with %(certainty)s certainty, each class")
    return gate | {
        "title": _title(gate, summary),
        "promise": promise % {"target": promised(gate["target_precision"]), "certainty": promised(gate["confidence"])},
        "right": right,
        "broken": broken,
        "accepted": percent(gate["accepted"]) if gate["opened"] else _("nothing"),
    }


def _what(job: Job) -> str:
    """A back-test in a few words."""
    asked = job.parameters
    if asked["source"] == DIGITS:
        what = ngettext(
            "%(names)s on digits, %(budget)s answers, %(seeds)s seed",
            "%(names)s on digits, %(budget)s answers, %(seeds)s seeds",
            asked["seeds"],
        )
    else:
        what = ngettext(
            "%(names)s on this project's answers, %(budget)s answers, %(seeds)s seed",
            "%(names)s on this project's answers, %(budget)s answers, %(seeds)s seeds",
            asked["seeds"],
        )
    names = ", ".join(title_of("acquisition", name) for name in asked["acquisition"])
    return what % {"names": names, "budget": thousands(asked["budget"]), "seeds": asked["seeds"]}
