"""How the work goes: what is answered, what the queue does, what waits for review."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Count, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import jobs, phases
from annotator.models import (
    Annotation,
    Item,
    Job,
    LabelClass,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Split,
)
from annotator.queries.answers import pool_counts
from annotator.queries.learning import Measured, current_model, measured
from annotator.queries.reasons import BLIND


@dataclass(frozen=True)
class LabelProgress:
    """What the labelling page keeps in view. ``until_refit`` counts down from ``answers_per_refit``."""

    answers: int
    mine: int
    pool: int
    open: int
    until_refit: int
    answers_per_refit: int
    is_learning: bool
    phase: str
    model_number: int | None
    label_count: int
    accuracy: float | None
    low: float | None
    high: float | None
    audit_answers: int
    audit_size: int


def label_progress(project: Project, user: User) -> LabelProgress:
    """Eight small queries, none over the pool's payload. What is accepted unseen is not open: nobody is asked."""
    counts = pool_counts(project)
    asked = {split: sum(counts[split].values()) for split in (Split.POOL, Split.AUDIT)}
    still_open = counts[Split.POOL][Item.State.OPEN] + counts[Split.AUDIT][Item.State.OPEN]
    unseen = Proposal.objects.filter(project=project, state=Proposal.State.AUTO_ACCEPTED).count()
    model = current_model(project)
    accuracy = measured(model, "audit")
    per_refit = project.settings.answers_per_refit
    refit = Job.objects.filter(project=project, kind=Job.Kind.REFIT).order_by("-id").first()
    watermark = refit.result.get("watermark", 0) if refit else 0
    given = Annotation.objects.filter(project=project, source=Annotation.Source.PERSON)
    since = answers_since(project, watermark)[:per_refit].count()
    mine = given.filter(annotator_id=user.pk, superseded_by__isnull=True).exclude(kind=Annotation.Kind.RETRACTION)
    return LabelProgress(
        answers=sum(asked.values()) - still_open,
        mine=mine.count(),
        pool=sum(asked.values()),
        open=still_open - unseen,
        until_refit=per_refit - since,
        answers_per_refit=per_refit,
        is_learning=is_learning(project),
        phase=phase(project),
        model_number=model.number if model else None,
        label_count=model.label_count if model else 0,
        accuracy=accuracy.accuracy,
        low=accuracy.low,
        high=accuracy.high,
        audit_answers=counts[Split.AUDIT][Item.State.LABELLED],
        audit_size=asked[Split.AUDIT],
    )


def answers_since(project: Project, watermark: int) -> QuerySet[Annotation]:
    """What people said after this annotation and still say: an answer taken back teaches nothing."""
    given = Annotation.objects.filter(project=project, id__gt=watermark, source=Annotation.Source.PERSON)
    return given.filter(superseded_by__isnull=True).exclude(kind=Annotation.Kind.RETRACTION)


def is_learning(project: Project) -> bool:
    """Whether a new model may come without another answer: a refit is asked for, or an embedding it will follow."""
    return Job.objects.filter(
        project=project,
        kind__in=[Job.Kind.EMBED, Job.Kind.REFIT],
        state__in=[Job.State.QUEUED, Job.State.RUNNING],
    ).exists()


def phase(project: Project) -> str:
    """What the queue does at the moment, in one sentence: read off the entries that wait.

    What checks and compares comes in between all the time, so it leads only where nothing else waits.
    """
    beside = (*BLIND, QueueEntry.Reason.BASELINE)
    waiting = QueueEntry.objects.filter(project=project).order_by("rank").values_list("reason_code", flat=True)
    reasons = Counter(waiting.exclude(reason_code__in=beside)[:20]) or Counter(waiting[:20])
    if not reasons:
        return _("Nothing waits in the queue")
    return {
        QueueEntry.Reason.TYPICAL: _("Getting an overview: images that are typical of many others"),
        QueueEntry.Reason.CLOSE_CALL: _("Asking about close calls: images the model cannot tell apart"),
        QueueEntry.Reason.UNSURE: _("Asking about what the model is least sure of"),
        QueueEntry.Reason.DISPUTED: _("Asking where the answers so far can be read in different ways"),
        QueueEntry.Reason.UNLIKE: _("Asking about images unlike anything labelled so far"),
        QueueEntry.Reason.SCARCE: _("Looking for more of the class with the fewest answers"),
        QueueEntry.Reason.RANDOM: _("Random order, until the images are embedded"),
        QueueEntry.Reason.RETURNED: _("Back to what was taken back"),
        QueueEntry.Reason.CHOSEN: _("Asking about images that somebody chose"),
        QueueEntry.Reason.AUDIT: _("Only random checks are left"),
        QueueEntry.Reason.BASELINE: _("The last images, in random order"),
        QueueEntry.Reason.SECOND_OPINION: _("Only second looks are left"),
        QueueEntry.Reason.SUSPECT: _("Only second looks are left"),
        QueueEntry.Reason.AUTOMATIC: _("Only checks of labels that were accepted unseen are left"),
    }[QueueEntry.Reason(reasons.most_common(1)[0][0])]


def phase_told(project: Project, model: ModelVersion | None) -> str:
    """What the queue does, and why not something else yet, as found when this model ranked it. One query."""
    why = phases.sentence(model.metrics.get("phase") if model else None, project.settings.acquisition)
    return f"{phase(project)}. {why}" if why else phase(project)


@dataclass(frozen=True)
class CurvePoint:
    """One model version's accuracy. ``answers`` counts everything people had answered by then."""

    model_number: int
    answers: int
    audit: Measured
    test: Measured


def accuracy_curve(project: Project, points_at_most: int = 200) -> list[CurvePoint]:
    """The estimate over the number of answers, oldest first; thinned evenly when there are more models.

    A model that knew of answers which were taken back since has no place on the way to the newest one.
    """
    models: list[ModelVersion] = []
    for model in (
        ModelVersion.objects.filter(project=project).order_by("-number").defer("class_ids", "artifact_folder")
    ):
        if not models or model.answer_count < models[-1].answer_count:
            models.append(model)
    models.reverse()
    step = max(1, math.ceil(len(models) / points_at_most))
    kept = models[::-1][::step][::-1]  # from the newest backwards, so that the newest is always there
    return [
        CurvePoint(model.number, model.answer_count, measured(model, "audit"), measured(model, "test"))
        for model in kept
    ]


def pending(project: Project, state: str = Proposal.State.PENDING) -> QuerySet[Proposal]:
    """Proposals that wait for a decision, or are in another state a reviewer may look through, without those whose
    image somebody is answering right now."""
    held = QueueEntry.objects.filter(project=project, leased_until__gt=timezone.now()).values("item_id")
    return Proposal.objects.filter(project=project, state=state).exclude(item_id__in=held)


def review_groups(project: Project, state: str = Proposal.State.PENDING) -> list[tuple[LabelClass, int]]:
    """The classes that have proposals waiting, with how many, in class order. Two queries, one of them a count by
    class over the index `pending_proposals_by_doubt`."""
    by_class = pending(project, state).order_by().values_list("label_class").annotate(n=Count("pk"))
    counts = dict(by_class.values_list("label_class", "n"))
    return [(each, counts[each.pk]) for each in project.classes.all() if counts.get(each.pk)]


def proposal_precision(project: Project) -> dict[str, Any] | None:
    """On the audit sample, of what this confident a model would have proposed, how much was right; None before."""
    model = current_model(project)
    report = (model.metrics.get("proposals") if model else None) or {}
    return report if report.get("checked") else None


def recent_jobs(project: Project, limit: int = 8) -> list[Job]:
    """The newest jobs, running and waiting ones first."""
    order = {Job.State.RUNNING: 0, Job.State.QUEUED: 1}
    newest = list(project.jobs.order_by("-id")[: limit * 3])
    return sorted(newest, key=lambda job: (order.get(Job.State(job.state), 2), -job.pk))[:limit]


def worker_state() -> dict[str, int]:
    """How many workers are connected."""
    return {"alive": jobs.workers_alive()}
