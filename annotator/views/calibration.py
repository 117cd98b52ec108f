"""What the dashboard says of the model's confidence: whether it is true, the short lists, where the doubt is from."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from annotator import queries
from annotator.charts import Bin
from annotator.models import Item, ModelVersion, Project, Split
from annotator.views.choices import is_tiny
from annotator.wording import decimal, percent

# The same as MIN_AUDIT of ml_worker/calibrate.py.
CALIBRATED_FROM = 30
CLASSES_SHOWN = 30


@dataclass(frozen=True)
class Confidence:
    """How far confidence and accuracy lie apart, 0..1. ``is_chance``: no further than a true one may with so few
    checks. ``lean``: too sure, not sure enough, or empty."""

    n: int
    confidence: float
    accuracy: float
    error: float
    low: float
    high: float
    chance: float
    is_chance: bool
    lean: str
    brier: str
    brier_blind: str
    bins: list[Bin]
    temperature: str
    own: list[str]


@dataclass(frozen=True)
class ListedClass:
    """How often the right class was on the list, among the checks of one class."""

    name: str
    answers: int
    inside: int
    judged: int
    low: float
    high: float


@dataclass(frozen=True)
class ShortList:
    """The promise of the short lists and how it was kept. ``sizes``: (in words, share of the open images)."""

    promise: str
    n: int
    inside: int
    judged: int
    low: float
    high: float
    is_kept: bool
    sizes: list[tuple[str, float]]
    own: int
    pooled: int
    test: dict[str, Any] | None
    classes: list[ListedClass]


@dataclass(frozen=True)
class Doubtful:
    """An open image the model is in doubt about, with the two likeliest classes in words."""

    item: Item
    said: str
    is_tiny: bool


@dataclass(frozen=True)
class Doubt:
    """The two parts of the doubt about the open images, as shares of it."""

    n: int
    members: int
    epistemic: float
    aleatoric: float
    newest: list[Doubtful]
    hardest: list[Doubtful]


def panel(project: Project, model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The context of templates/calibration.html. counts: `queries.pool_counts`. At most three queries."""
    study = queries.newest_study(project) if model else None
    found = (study.result.get("doubt") if study else None) or {}
    is_known = bool(model and model.metrics.get("calibration"))
    names = {each.pk: each.name for each in project.classes.all()} if is_known else {}
    told = confidence(model, names) if model else None
    return {
        "confidence": told,
        "short_list": short_list(model, names) if model else None,
        # Of probabilities that are only an order the parts are the head's softness, whatever the images are.
        "doubt": doubt(project, found, names) if told else None,
        "calibrated_from": CALIBRATED_FROM,
        "checks_answered": counts[Split.AUDIT][Item.State.LABELLED],
    }


def confidence(model: ModelVersion, names: dict[int, str]) -> Confidence | None:
    """What the metrics say of a model's confidence; None before it is calibrated. No query."""
    report = model.metrics.get("calibration")
    if not report:
        return None
    gap = report["confidence"] - report["accuracy"]
    is_chance = report["ece"] <= report["chance_high"]
    n_classes = max(1, len(model.class_ids))
    return Confidence(
        n=report["n"],
        confidence=report["confidence"],
        accuracy=report["accuracy"],
        error=report["ece"],
        low=report["ece_low"],
        high=report["ece_high"],
        chance=report["chance"],
        is_chance=is_chance,
        lean="" if is_chance or abs(gap) < 0.01 else _("too sure") if gap > 0 else _("not sure enough"),
        brier=decimal(report["brier"], 2),
        brier_blind=decimal(1 - 1 / n_classes, 2),
        bins=[Bin(*each) for each in report["bins"]],
        temperature=decimal(model.temperature or 0.0, 2),
        own=[
            f"{names.get(class_id) or _('an archived class')} {decimal(degrees, 2)}"
            for class_id, degrees in report["class_temperatures"]
        ],
    )


def short_list(model: ModelVersion, names: dict[int, str]) -> ShortList | None:
    """What the metrics say of the short lists; None while nothing can be promised. No query."""
    report = model.metrics.get("short_list")
    if not report:
        return None
    words = (_("no class"), _("one class"), _("two or three"), _("more than three"))
    return ShortList(
        promise=cases(report["promise"]),
        n=report["n"],
        inside=report["inside"],
        judged=report["judged"],
        low=report["low"],
        high=report["high"],
        is_kept=report["high"] >= report["promise"],
        sizes=[(said, share) for said, share in zip(words, report["sizes"], strict=True) if share],
        own=report["own"],
        pooled=report["classes"] - report["own"],
        test=report["test"],
        classes=[
            ListedClass(names.get(class_id) or _("an archived class"), *rest)
            for class_id, *rest in report["by_class"][:CLASSES_SHOWN]
        ],
    )


def cases(promise: float) -> str:
    """A promise as people say it: 0.9 is ``9 of 10 cases``."""
    for of in (10, 20, 100):
        if abs(promise * of - round(promise * of)) < 1e-9:
            return _("%(n)s of %(of)s cases") % {"n": round(promise * of), "of": of}
    return _("%(share)s of cases") % {"share": percent(promise, 1)}


def doubt(project: Project, found: dict[str, Any], names: dict[int, str]) -> Doubt | None:
    """What a study found out about the doubt (`study` of ml_worker/doubting.py); None where it found nothing. One
    query."""
    if "left_out" in found or not found:
        return None
    wanted = [item_id for item_id, *_ in found["newest"] + found["hardest"]]
    items = {each.pk: each for each in Item.objects.filter(project=project, pk__in=wanted, split=Split.POOL)}
    whole = max(1e-12, found["aleatoric"] + found["epistemic"])
    return Doubt(
        n=found["n"],
        members=found["members"],
        epistemic=found["epistemic"] / whole,
        aleatoric=found["aleatoric"] / whole,
        newest=_doubtful(found["newest"], items, names),
        hardest=_doubtful(found["hardest"], items, names),
    )


def _doubtful(found: list[Any], items: dict[int, Item], names: dict[int, str]) -> list[Doubtful]:
    """Those still open: an answer since then has settled the others."""
    return [
        Doubtful(items[item_id], _in_words(likeliest, names), is_tiny(items[item_id]))
        for item_id, _, likeliest in found
        if item_id in items and items[item_id].state == Item.State.OPEN
    ]


def _in_words(likeliest: list[list[Any]], names: dict[int, str]) -> str:
    return ", ".join(
        f"{names.get(class_id) or _('an archived class')} {percent(prob)}" for class_id, prob in likeliest
    )
