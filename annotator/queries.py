"""Questions about a project. Nothing here writes; every function says how many queries it makes when it is not one."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from annotator import algorithms, jobs, phases, task_types
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

# An accuracy from fewer random checks would say nothing but its interval: no page shows one.
CHECKS_AT_LEAST = 10

# An answer to these is worth something because whoever gives it was told nothing.
BLIND = (
    QueueEntry.Reason.AUDIT,
    QueueEntry.Reason.SECOND_OPINION,
    QueueEntry.Reason.SUSPECT,
    QueueEntry.Reason.AUTOMATIC,
)
# These ask about an image that has an answer, of somebody else or of the same person.
ASKED_AGAIN = (QueueEntry.Reason.SECOND_OPINION, QueueEntry.Reason.SUSPECT)


def open_classes(project: Project) -> list[LabelClass]:
    """The classes people may choose, in their order."""
    return list(project.classes.filter(is_archived=False))


def held_entries(project: Project, user: User) -> QuerySet[QueueEntry]:
    """What this person holds now, in rank order, with the items."""
    return (
        QueueEntry.objects.select_related("item")
        .filter(project=project, leased_by_id=user.pk, leased_until__gt=timezone.now())
        .order_by("rank", "id")
    )


def other_holders(project: Project, user: User) -> list[QueueEntry]:
    """What others hold now: for telling somebody who finds the queue empty."""
    held = QueueEntry.objects.select_related("leased_by").filter(project=project, leased_until__gt=timezone.now())
    return list(held.exclude(leased_by_id=user.pk).exclude(leased_by__isnull=True).order_by("leased_until")[:50])


def current_annotation(item: Item, user: User) -> Annotation | None:
    """The end of this person's chain of answers to the item (it may be a retraction), or None."""
    return Annotation.objects.filter(item=item, annotator_id=user.pk, superseded_by__isnull=True).first()


def current_annotations(item: Item) -> list[Annotation]:
    """The current answers of everybody to the item, retractions left out, oldest first."""
    chain_ends = Annotation.objects.filter(item=item, superseded_by__isnull=True)
    return list(chain_ends.exclude(kind=Annotation.Kind.RETRACTION).order_by("id"))


def counted_answers(current: list[Annotation]) -> list[Annotation]:
    """Of the current answers to one item those that say what it is: people's, or, without any, imported labels.

    Where two or more views of it have equally many people behind them and the newest was given as a blind check of a
    suspected label, that one alone counts: model and checker then speak against the first answer, or the checker
    looked again, knowing that one of the two may be a slip, and the first person did not. A second opinion is no such
    check. Nothing spoke against the first answer, so the two stay level until somebody else decides.
    """
    naming = (Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE)
    people = [each for each in current if each.kind in naming and each.source == Annotation.Source.PERSON]
    if not people:
        return [each for each in current if each.kind == Annotation.Kind.LABEL]
    views = Counter(json.dumps([each.kind, each.value], sort_keys=True) for each in people).most_common(2)
    if len(views) == 2 and views[0][1] == views[1][1]:
        # By the time it was given: what an undo brought back is as old as it was.
        newest = max(people, key=lambda each: (each.created_at, each.pk))
        if newest.reason_code == QueueEntry.Reason.SUSPECT:
            return [newest]
    return people


def settled_value(task_type: Any, current: list[Annotation]) -> dict[str, Any] | None:
    """What these current answers to one item settle on, or None: most say none of these, or nothing has a majority."""
    return _settled(task_type, counted_answers(current))[0]


def is_disputed(task_type: Any, current: list[Annotation]) -> bool:
    """Whether people answered an item differently and neither side has more of them."""
    value, is_none = _settled(task_type, counted := counted_answers(current))
    return bool(counted) and value is None and not is_none


def _settled(task_type: Any, counted: list[Annotation]) -> tuple[dict[str, Any] | None, bool]:
    """The value, and whether it is none of the classes instead."""
    labels = [each.value for each in counted if each.kind == Annotation.Kind.LABEL]
    against = len(counted) - len(labels)
    value: dict[str, Any] | None = task_type.consensus(labels)
    agree = 0 if value is None else sum(task_type.agreement(each, value) >= 0.5 for each in labels)
    if agree > against:
        return value, False
    return None, against > max(Counter(json.dumps(each, sort_keys=True) for each in labels).values(), default=0)


def reason_text(entry: QueueEntry, class_names: dict[int, str]) -> str:
    """Why this image, in words a person understands."""
    if entry.reason_code == QueueEntry.Reason.CLOSE_CALL:
        named = [class_names.get(class_id, "an archived class") for class_id, _ in entry.reason_data["classes"]]
        return f"Close call: {named[0]} or {named[1]}"
    if entry.reason_code == QueueEntry.Reason.UNSURE:
        class_id, prob = entry.reason_data["classes"][0]
        return f"Unsure: {class_names.get(class_id, 'an archived class')} is likeliest, at {100 * prob:.0f} %"
    if entry.reason_code == QueueEntry.Reason.SCARCE:
        name = class_names.get(entry.reason_data["class"], "an archived class")
        return f"Looking for more of {name}, which has the fewest answers"
    if entry.reason_code == QueueEntry.Reason.SECOND_OPINION:
        people = entry.reason_data.get("people", 0)
        if people:  # and not a word of what they said
            return f"{'Two' if people == 2 else people} people disagreed about this image; you decide afresh"
        return "Second opinion: somebody else answered this image, you answer it afresh"
    return {
        QueueEntry.Reason.AUDIT: "Random check: measures how good the model is, so no hints",
        QueueEntry.Reason.BASELINE: "Picked at random, to compare the order of the questions with",
        QueueEntry.Reason.SUSPECT: "A second look at an image that was answered before",
        QueueEntry.Reason.AUTOMATIC: "Check of automatic labels: measures how often they are right, so no hints",
        QueueEntry.Reason.TYPICAL: "Typical of many images like it, none of them labelled yet",
        QueueEntry.Reason.DISPUTED: "Disputed: the answers so far can be read in different ways",
        QueueEntry.Reason.UNLIKE: "Unlike anything labelled so far",
        QueueEntry.Reason.RANDOM: "Picked at random",
        QueueEntry.Reason.RETURNED: "You took your answer back",
    }[QueueEntry.Reason(entry.reason_code)]


def shows_hint(entry: QueueEntry, project: Project) -> bool:
    """Whether the page tells the person what the model thinks of this item. Never for random checks."""
    if entry.reason_code in BLIND:
        return False
    naming = (QueueEntry.Reason.CLOSE_CALL, QueueEntry.Reason.UNSURE, QueueEntry.Reason.SCARCE)
    return entry.reason_code in naming or suggestion(entry, project) is not None


def suggestion(entry: QueueEntry, project: Project) -> tuple[int, float] | None:
    """The model's best guess (class id, probability) where the project shows it; never for random checks."""
    if not project.settings.show_suggestions or entry.item.split == Split.AUDIT or entry.reason_code in BLIND:
        return None
    classes = entry.reason_data.get("classes")
    return (classes[0][0], classes[0][1]) if classes else None


def pool_counts(project: Project) -> dict[str, dict[str, int]]:
    """Items by split and state; every split and state is there, 0 included."""
    counts: dict[str, dict[str, int]] = {split: dict.fromkeys(Item.State.values, 0) for split in Split.values}
    for row in Item.objects.filter(project=project).values("split", "state").annotate(n=Count("pk")).order_by():
        counts[row["split"]][row["state"]] = row["n"]
    return counts


def class_balance(project: Project) -> list[tuple[LabelClass, int]]:
    """Labelled items by class over pool and audit, open classes in their order, archived ones with labels after them.

    Three queries. An item that people answered differently counts once, as what it is settled on, or not at all.
    """
    labels = Annotation.objects.filter(
        project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True
    ).exclude(item__split=Split.TEST)
    task_type = task_types.get(project.task_type)
    counts: Counter[int] = Counter()
    for row in labels.values("value").annotate(n=Count("item", distinct=True)).order_by():
        for class_id in task_type.class_ids(row["value"] or {}):
            counts[class_id] += row["n"]
    for given in _answered_differently(project).values():
        values = [each.value or {} for each in given if each.kind == Annotation.Kind.LABEL]
        for named in {json.dumps(each): each for each in values}.values():
            counts.subtract(task_type.class_ids(named))
        value = settled_value(task_type, given)
        counts.update(task_type.class_ids(value) if value else [])
    classes = sorted(project.classes.all(), key=lambda each: (each.is_archived, each.position, each.pk))
    return [(each, counts[each.pk]) for each in classes if not each.is_archived or counts[each.pk]]


def _answered_differently(project: Project) -> dict[int, list[Annotation]]:
    """The current answers to items outside the test set that do not all say the same, by item."""
    current = Annotation.objects.filter(project=project, superseded_by__isnull=True).exclude(item__split=Split.TEST)
    again = current.filter(reason_code__in=ASKED_AGAIN)
    naming = current.filter(
        kind__in=[Annotation.Kind.LABEL, Annotation.Kind.NONE_OF_THESE], item__in=again.values("item")
    )
    says = (
        naming.order_by()
        .values("item")
        .annotate(n=Count("pk"), labels=Count("value"), said=Count("value", distinct=True))
    )
    differently = [row["item"] for row in says if row["said"] > 1 or (row["labels"] and row["labels"] < row["n"])]
    answers: dict[int, list[Annotation]] = {item_id: [] for item_id in differently}
    for annotation in naming.filter(item__in=differently).order_by("id"):
        answers[annotation.item_id].append(annotation)
    return answers


def current_model(project: Project) -> ModelVersion | None:
    """The newest model version."""
    return ModelVersion.objects.filter(project=project).order_by("-number").first()


def current_embedding(project: Project) -> Job | None:
    """The newest embedding: of a finished embedding job, or of a network that was promoted. Its result says
    ``folder``, ``n``, ``image_px`` and ``encoder``."""
    made = Job.objects.filter(project=project, kind__in=[Job.Kind.EMBED, Job.Kind.TRAIN], result__has_key="folder")
    return made.filter(state=Job.State.DONE).order_by("-finished_at", "-id").first()


def network_in_use(project: Project) -> ModelVersion | None:
    """The version whose network encodes the project now, as it was when it took over; None without one. Two queries.

    A training stores its version before it is done, and only then does its network encode anything.
    """
    embedding = current_embedding(project)
    if embedding is None or embedding.result["encoder"] != "trained":
        return None
    trainers = [trainer.name for trainer in algorithms.catalogue("trainer")]
    versions = ModelVersion.objects.filter(project=project, encoder="trained", algorithm__in=trainers)
    over = versions.filter(Q(job=None) | Q(job__state=Job.State.DONE))
    return over.order_by("-number").first()


def lacks_views(project: Project) -> bool:
    """Whether the head goes by views of the images that were not embedded, or show what the owner allows no more.

    An embedding of a pool too large for views says that it has 0, and lacks none. One query.
    """
    if not algorithms.get("head", project.settings.head).by_views or (embedding := current_embedding(project)) is None:
        return False
    views, is_mirrored = embedding.result.get("views"), embedding.result.get("mirrored")
    return views is None or (views > 0 and is_mirrored != project.settings.augment_mirror)


def augmentation_switches(project: Project) -> dict[str, bool]:
    """What the owner allows to be done to the images while a network trains, by the name of the setting. No query."""
    return {name: value for name, value in project.settings.to_json().items() if name.startswith("augment_")}


def lack_for_training(n_classes: int, n_checks: int) -> str:
    """Why answers of so many classes and so many answered random checks do not suffice to train; empty if they do."""
    if n_classes < 2:
        return "the answers cover fewer than two classes; answer some more images first"
    if n_checks < CHECKS_AT_LEAST:
        return (
            f"{n_checks} of {CHECKS_AT_LEAST} random checks are answered, too few to tell whether the network would"
            " be better; go on labelling"
        )
    return ""


def lack_of_embedding(project: Project, what: str) -> str:
    """Why a project without an embedding cannot do this yet. One query."""
    if not project.items.exists():
        return f"there are no images yet; import some, then {what}"
    return f"the images are not embedded yet; {what} once they are"


def missing_for_training(project: Project) -> str:
    """What a training would be refused for now, as a sentence; empty if nothing. Three queries."""
    if current_embedding(project) is None:
        return lack_of_embedding(project, "train")
    labels = Annotation.objects.filter(project=project, kind=Annotation.Kind.LABEL, superseded_by__isnull=True)
    named: set[int] = set()
    task_type = task_types.get(project.task_type)
    for value in labels.filter(item__split=Split.POOL).order_by().values_list("value", flat=True).distinct():
        named.update(task_type.class_ids(value or {}))
    open_ids = set(project.classes.filter(is_archived=False).values_list("pk", flat=True))
    checks = Item.objects.filter(project=project, split=Split.AUDIT, state=Item.State.LABELLED).count()
    return lack_for_training(len(named & open_ids), checks)


def newest_training(project: Project) -> Job | None:
    """The training that runs or waits, else the one that ended last. One query."""
    trainings = list(Job.objects.filter(project=project, kind=Job.Kind.TRAIN).order_by("-id")[:5])
    active = [job for job in trainings if not job.is_over]
    # One that was cancelled hides nothing that an earlier one found out.
    told = [job for job in trainings if job.state != Job.State.CANCELLED] or trainings
    return active[-1] if active else told[0] if told else None


def newest_preview(project: Project) -> Job | None:
    """The refit that drew what a network would be shown; its result's ``preview`` says where it lies and under which
    ``switches``. One query."""
    return Job.objects.filter(project=project, result__has_key="preview").order_by("-id").first()


# Answers to images of two classes below which encoders cannot be told apart; as in ml_worker/encoder_report.py.
ANSWERS_TO_COMPARE = 10


def missing_for_comparison(project: Project) -> str:
    """What comparing encoders would be refused for now, as a sentence; empty if nothing. Three queries."""
    if current_embedding(project) is None:
        return lack_of_embedding(project, "compare encoders")
    counts = [count for label_class, count in class_balance(project) if count and not label_class.is_archived]
    if sum(counts) < ANSWERS_TO_COMPARE or len(counts) < 2:
        classes = f"class{'' if len(counts) == 1 else 'es'}"
        so_far = f"there are {sum(counts):,} of {len(counts)} {classes} so far" if counts else "there are none yet"
        return f"it takes {ANSWERS_TO_COMPARE} labelled images of at least two classes; {so_far}"
    return ""


def newest_comparison(project: Project) -> tuple[Job | None, Job | None]:
    """The comparison of encoders that runs, waits or ended last, and the last one with a report. Two queries."""
    comparisons = Job.objects.filter(project=project, kind=Job.Kind.COMPARE).order_by("-id")
    return comparisons.first(), comparisons.filter(state=Job.State.DONE, result__has_key="encoders").first()


def newest_study(project: Project) -> Job | None:
    """The study of the answers that ended last; its result holds what each part of ml_worker/studying.py found. One
    query."""
    return Job.objects.filter(project=project, kind=Job.Kind.STUDY, state=Job.State.DONE).order_by("-id").first()


def proposed_by_names(project: Project) -> bool:
    """Whether proposals wait that nobody's answers but the names of the classes led to. One query."""
    pending = Proposal.objects.filter(project=project, state=Proposal.State.PENDING)
    return pending.filter(model_version__algorithm=ModelVersion.ZERO_SHOT).exists()


def learner_kind(model: ModelVersion) -> str:
    """Whether a model's ``algorithm`` is a "head" or a "trainer" of the catalogue, or "zero_shot". No query."""
    if model.is_zero_shot:
        return ModelVersion.ZERO_SHOT
    return "trainer" if model.algorithm in {each.name for each in algorithms.catalogue("trainer")} else "head"


@dataclass(frozen=True)
class Measured:
    """An accuracy with its 95 % interval; all None before the first random check was answered."""

    accuracy: float | None
    low: float | None
    high: float | None
    n: int


def measured(model: ModelVersion | None, sample: str) -> Measured:
    """Accuracy of a model on ``audit`` or ``test``, from the metrics stored with it. No query."""
    report = (model.metrics.get(sample) if model else None) or {}
    if not report.get("n"):
        return Measured(None, None, None, 0)
    return Measured(report["accuracy"], report["low"], report["high"], report["n"])


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
        phase=phase_told(project, model),
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
        return "Nothing waits in the queue"
    return {
        QueueEntry.Reason.TYPICAL: "Getting an overview: images that are typical of many others",
        QueueEntry.Reason.CLOSE_CALL: "Asking about close calls: images the model cannot tell apart",
        QueueEntry.Reason.UNSURE: "Asking about what the model is least sure of",
        QueueEntry.Reason.DISPUTED: "Asking where the answers so far can be read in different ways",
        QueueEntry.Reason.UNLIKE: "Asking about images unlike anything labelled so far",
        QueueEntry.Reason.SCARCE: "Looking for more of the class with the fewest answers",
        QueueEntry.Reason.RANDOM: "Random order, until the images are embedded",
        QueueEntry.Reason.RETURNED: "Back to what was taken back",
        QueueEntry.Reason.AUDIT: "Only random checks are left",
        QueueEntry.Reason.BASELINE: "The last images, in random order",
        QueueEntry.Reason.SECOND_OPINION: "Only second opinions are left",
        QueueEntry.Reason.SUSPECT: "Only second looks are left",
        QueueEntry.Reason.AUTOMATIC: "Only checks of labels that were accepted unseen are left",
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
    """The estimate over the number of answers, oldest first; thinned evenly when there are more models."""
    models = list(
        ModelVersion.objects.filter(project=project).order_by("number").defer("class_ids", "artifact_folder")
    )
    step = max(1, math.ceil(len(models) / points_at_most))
    kept = models[::-1][::step][::-1]  # from the newest backwards, so that the newest is always there
    return [
        CurvePoint(model.number, model.answer_count, measured(model, "audit"), measured(model, "test"))
        for model in kept
    ]


def pending(project: Project, state: str = Proposal.State.PENDING) -> QuerySet[Proposal]:
    """Proposals that wait for a decision, or are in another state a reviewer may look through, without those whose
    image somebody is answering right now."""
    return Proposal.objects.filter(project=project, state=state).exclude(
        item__queue_entry__leased_until__gt=timezone.now()
    )


def review_groups(project: Project, state: str = Proposal.State.PENDING) -> list[tuple[LabelClass, int]]:
    """The classes that have proposals waiting, with how many, in class order. Two queries."""
    by_class = pending(project, state).order_by().values_list("label_class").annotate(n=Count("pk"))
    counts = dict(by_class.values_list("label_class", "n"))
    return [(each, counts[each.pk]) for each in project.classes.all() if counts.get(each.pk)]


def pending_proposals(
    project: Project, class_id: int, limit: int = 60, state: str = Proposal.State.PENDING
) -> list[Proposal]:
    """The proposals of one class that wait, the most doubtful first."""
    waiting = pending(project, state).filter(label_class_id=class_id).select_related("item", "model_version")
    return list(waiting.order_by("confidence", "id")[:limit])


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
