"""How many answers would it have taken? Asking for a back-test, and what was found by the earlier ones.

The worker runs it (ml_worker/backtesting.py). What is shown is in the job's result; every point lies in a file beside
the other artifacts, which web server and workers share.
"""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotator import algorithms, backtest_tables, jobs, queries
from annotator.errors import Conflict, InvalidSettings, NotFound
from annotator.models import Annotation, AuditEvent, Item, Job, Project, Split
from annotator.wording import thousands

# Where the answers come from: what people said here, or the handwritten digits that come along.
ANSWERS, DIGITS = "answers", "digits"
# Images of the pool that people named, and answered random checks, of which half measure.
LABELS_AT_LEAST, CHECKS_AT_LEAST = 30, 20
FUNCTIONS_AT_MOST, HEADS_AT_MOST, TARGETS_AT_MOST = 8, 4, 4
BUDGET, SEEDS = (10, 5000), (2, 30)
KEPT = 20  # results; the oldest goes when another is made
FORMATS = ("json", "csv")


@dataclass(frozen=True)
class Wish:
    """What to compare; names as in the catalogue, rates 0..1."""

    source: str
    acquisition: Sequence[str]
    head: Sequence[str]
    target_precision: Sequence[float]
    confidence: float
    threshold_per_class: bool
    budget: int
    seeds: int


def request_back_test(*, project: Project, actor: User, wish: Wish) -> Job:
    """Have a back-test run. The same wish twice is one job.

    Raises InvalidSettings with a sentence for each bad field; Conflict while answers are missing for it, or when
    another back-test waits already.
    """
    parameters = clean(wish)
    if wish.source == ANSWERS and (missing := missing_for_replay(project)):
        raise Conflict(missing)
    job = jobs.enqueue(project, Job.Kind.BACK_TEST, parameters=parameters, created_by=actor)
    if {**job.parameters, **parameters} != job.parameters:
        why = _("another back-test waits already, as job %(job)s; cancel it first, or let it be")
        raise Conflict(why % {"job": job.pk})
    AuditEvent.objects.create(project=project, actor=actor, verb="back-test requested", detail=parameters)
    return job


def clean(wish: Wish) -> dict[str, Any]:
    """The wish as the job keeps it. Raises InvalidSettings, naming every field that is wrong."""
    wrong: dict[str, str] = {}
    if wish.source not in (ANSWERS, DIGITS):
        wrong["source"] = _is_none_of(wish.source, (ANSWERS, DIGITS))
    for kind, names, most in (
        ("acquisition", wish.acquisition, FUNCTIONS_AT_MOST),
        ("head", wish.head, HEADS_AT_MOST),
    ):
        known = [each.name for each in algorithms.catalogue(kind)]
        if unknown := [name for name in names if name not in known]:
            wrong[kind] = _is_none_of(unknown[0], known)
        elif not 1 <= len(set(names)) <= most:
            wrong[kind] = _("%(n)s were chosen; choose 1 to %(most)s") % {"n": len(set(names)), "most": most}
    targets = list(dict.fromkeys(wish.target_precision))
    if not 1 <= len(targets) <= TARGETS_AT_MOST:
        named = {"n": len(targets), "most": TARGETS_AT_MOST}
        wrong["target_precision"] = _("%(n)s were named; name 1 to %(most)s") % named
    elif not all(0.5 <= target <= 0.999 for target in targets):
        wrong["target_precision"] = _("wanted shares of 50 to 99.9 %")
    if not 0.5 <= wish.confidence <= 0.999:
        wrong["confidence"] = _("wanted a certainty of 50 to 99.9 %")
    for name, value, (least, most) in (("budget", wish.budget, BUDGET), ("seeds", wish.seeds, SEEDS)):
        if not least <= value <= most:
            ends = {"found": value, "least": least, "most": thousands(most)}
            wrong[name] = _("%(found)s is not between %(least)s and %(most)s") % ends
    if wrong:
        sentence = "; ".join(f"{name.replace('_', ' ')}: {why}" for name, why in wrong.items())
        raise InvalidSettings(sentence, fields=wrong)
    return {
        "source": wish.source,
        "acquisition": list(dict.fromkeys(wish.acquisition)),
        "head": list(dict.fromkeys(wish.head)),
        "target_precision": targets,
        "confidence": wish.confidence,
        "threshold_per_class": wish.threshold_per_class,
        "budget": wish.budget,
        "seeds": wish.seeds,
    }


def _is_none_of(name: str, known: Sequence[str]) -> str:
    return _("%(found)s is not one of %(known)s") % {"found": repr(name[:40]), "known": ", ".join(known)}


def missing_for_replay(project: Project) -> str:
    """What a back-test on this project's answers would be refused for now, as a sentence; empty if nothing. Four
    queries."""
    if queries.current_embedding(project) is None:
        return queries.lack_of_embedding(project, "back-test")
    given = Annotation.objects.filter(
        project=project, source=Annotation.Source.PERSON, kind=Annotation.Kind.LABEL, superseded_by__isnull=True
    )
    answered = Item.objects.filter(project=project, state=Item.State.LABELLED)
    named = answered.filter(split=Split.POOL, pk__in=given.values("item")).count()
    checks = answered.filter(split=Split.AUDIT, pk__in=given.values("item")).count()
    return lack_for_replay(named, checks)


def lack_for_replay(n_labels: int, n_checks: int) -> str:
    """Why so many named images of the pool and answered random checks do not suffice; empty if they do."""
    labels, checks = max(0, LABELS_AT_LEAST - n_labels), max(0, CHECKS_AT_LEAST - n_checks)
    numbers = {"labels": labels, "have": thousands(n_labels), "checks": checks, "answered": thousands(n_checks)}
    if labels and checks:
        said = ngettext(
            "it takes %(labels)s more labelled images (there are %(have)s) and %(checks)s more answered random check"
            " (there are %(answered)s); go on labelling",
            "it takes %(labels)s more labelled images (there are %(have)s) and %(checks)s more answered random checks"
            " (there are %(answered)s); go on labelling",
            checks,
        )
    elif labels:
        said = ngettext(
            "it takes %(labels)s more labelled image (there are %(have)s); go on labelling",
            "it takes %(labels)s more labelled images (there are %(have)s); go on labelling",
            labels,
        )
    elif checks:
        said = ngettext(
            "it takes %(checks)s more answered random check (there are %(answered)s); go on labelling",
            "it takes %(checks)s more answered random checks (there are %(answered)s); go on labelling",
            checks,
        )
    else:
        return ""
    return said % numbers


# --- what was found


def back_tests(project: Project, limit: int = KEPT) -> list[Job]:
    """The newest back-tests of a project, in whatever state. One query."""
    return list(Job.objects.filter(project=project, kind=Job.Kind.BACK_TEST).order_by("-id")[:limit])


def has_result(job: Job) -> bool:
    """Whether the job found out something."""
    return job.kind == Job.Kind.BACK_TEST and job.state == Job.State.DONE and "summary" in job.result


def points(job: Job) -> dict[str, Any]:
    """Everything a back-test found, as `simulate --json` writes it. Raises Conflict before the job is over, NotFound
    where there is nothing (any more)."""
    if not job.is_over:
        raise Conflict(_("job %(job)s is not done yet; ask again when it is") % {"job": job.pk})
    if has_result(job):
        try:
            found: dict[str, Any] = json.loads(result_path(job).read_text())
            return found
        except (OSError, ValueError):
            pass  # as much as if it never was: newer ones took its place, or the disk was tidied
    why = _("there are no points of job %(job)s, or newer back-tests took their place; run it again")
    raise NotFound(why % {"job": job.pk})


def as_csv(found: dict[str, Any]) -> str:
    """A line for each point of each run and gate."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(backtest_tables.COLUMNS)
    writer.writerows(backtest_tables.rows(found))
    return out.getvalue()


def result_path(job: Job) -> Path:
    """Where every point of this job lies, or will."""
    return _artifacts(job.project_id) / f"back-test-{job.pk}.json"


def work_folder(job: Job) -> Path:
    """Where the job works; what is finished there outlives a worker that dies."""
    return _artifacts(job.project_id) / f"back-test-{job.pk}"


def prune(project: Project, but: Job) -> None:
    """Remove the points of results that newer ones replaced, and what cancelled runs left behind. but: the job that
    runs."""
    kept = {result_path(job).name for job in [but, *back_tests(project)]}
    for path in _artifacts(project.pk).glob("back-test-*.json"):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    active = {work_folder(job).name for job in back_tests(project) if not job.is_over} | {work_folder(but).name}
    for folder in _artifacts(project.pk).glob("back-test-*/"):
        if folder.name not in active:
            shutil.rmtree(folder, ignore_errors=True)


def _artifacts(project_id: int) -> Path:
    return Path(settings.ARTIFACT_ROOT) / str(project_id)
