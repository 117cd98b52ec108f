"""Embeddings, models, trainings and what was measured of them."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from annotator import algorithms, task_types
from annotator.models import (
    Annotation,
    Item,
    Job,
    ModelVersion,
    Project,
    Proposal,
    Split,
)
from annotator.queries.answers import class_balance
from annotator.wording import thousands

# An accuracy from fewer random checks would say nothing but its interval: no page shows one.
CHECKS_AT_LEAST = 10


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
        return _("the answers cover fewer than two classes; answer some more images first")
    if n_checks < CHECKS_AT_LEAST:
        return _(
            "%(n)s of %(wanted)s random checks are answered, too few to tell whether the network would be better;"
            " go on labelling"
        ) % {"n": n_checks, "wanted": CHECKS_AT_LEAST}
    return ""


# What waits for the embedding, and the two reasons why it cannot be done without: no images, or not embedded ones.
_FOR_EMBEDDING = {
    "train": (
        gettext_noop("there are no images yet; import some, then train"),
        gettext_noop("the images are not embedded yet; train once they are"),
    ),
    "compare encoders": (
        gettext_noop("there are no images yet; import some, then compare encoders"),
        gettext_noop("the images are not embedded yet; compare encoders once they are"),
    ),
    "back-test": (
        gettext_noop("there are no images yet; import some, then back-test"),
        gettext_noop("the images are not embedded yet; back-test once they are"),
    ),
    "group them": (
        gettext_noop("there are no images yet; import some, then group them"),
        gettext_noop("the images are not embedded yet; group them once they are"),
    ),
    "draw the map": (
        gettext_noop("there are no images yet; import some, then draw the map"),
        gettext_noop("the images are not embedded yet; draw the map once they are"),
    ),
}


def lack_of_embedding(project: Project, what: str) -> str:
    """Why a project without an embedding cannot do this yet. One query."""
    no_images, not_embedded = _FOR_EMBEDDING[what]
    return _(not_embedded if project.items.exists() else no_images)


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
        wanted: dict[str, Any] = {"wanted": ANSWERS_TO_COMPARE}
        if not counts:
            return _("it takes %(wanted)s labelled images of at least two classes; there are none yet") % wanted
        return ngettext(
            "it takes %(wanted)s labelled images of at least two classes; there are %(n)s of %(classes)s class so far",
            "it takes %(wanted)s labelled images of at least two classes;"
            " there are %(n)s of %(classes)s classes so far",
            len(counts),
        ) % (wanted | {"n": thousands(sum(counts)), "classes": len(counts)})
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
