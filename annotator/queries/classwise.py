"""What was measured of a model class by class, and what it takes one class for another: read off its metrics."""

import math
from collections import Counter
from dataclasses import dataclass

from annotator.models import LabelClass, ModelVersion

# Fewer checks of a class say nothing of it but their interval.
CLASS_CHECKS_AT_LEAST = 5


@dataclass(frozen=True)
class ClassMeasure:
    """A class on a sample: ``right`` of its ``checks`` are named rightly, with the 95 % interval of that rate; and
    ``said_right`` of the ``said`` that the model calls so are of it. mistaken: the class it is most often taken for,
    and how often."""

    label_class: LabelClass
    checks: int
    right: int
    low: float
    high: float
    said: int
    said_right: int
    mistaken: tuple[LabelClass, int] | None

    @property
    def is_enough(self) -> bool:
        return self.checks >= CLASS_CHECKS_AT_LEAST

    @property
    def rate(self) -> float:
        return self.right / self.checks if self.checks else 0.0

    @property
    def said_rate(self) -> float:
        return self.said_right / self.said if self.said else 0.0


@dataclass(frozen=True)
class Confusion:
    """``n`` images of one class that the model takes for another."""

    given: LabelClass
    said: LabelClass
    n: int


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate seen ``right`` times in n; (0, 1) when n is 0. Source: Wilson 1927, uncorrected."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    rate = right / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def confusions(model: ModelVersion | None, sample: str, classes: dict[int, LabelClass]) -> list[Confusion]:
    """What a model takes for something else on ``audit``, on ``test`` or of the ``labels`` it learnt from, most
    frequent first. classes: all of the project, by id. No query; empty for a model of before that was kept."""
    report = (model.metrics.get(sample) if model else None) or {}
    ids = model.class_ids if model else []
    return [
        Confusion(classes[ids[given]], classes[ids[said]], n)
        for given, said, n in report.get("confused", [])
        if ids[given] in classes and ids[said] in classes
    ]


def class_measures(model: ModelVersion | None, sample: str, classes: dict[int, LabelClass]) -> list[ClassMeasure]:
    """Every class the model knows, in the order of its classes. sample: ``audit`` or ``test``. No query."""
    report = (model.metrics.get(sample) if model else None) or {}
    if model is None or not report.get("recall") or not report.get("n"):
        return []
    wrong: Counter[int] = Counter()
    worst: dict[int, tuple[LabelClass, int]] = {}
    for each in confusions(model, sample, classes):
        wrong[each.said.pk] += each.n
        worst.setdefault(each.given.pk, (each.said, each.n))
    found = []
    for class_id, (right, checks) in zip(model.class_ids, report["recall"], strict=True):
        if class_id in classes:
            low, high = wilson(right, checks)
            said = right + wrong[class_id]
            found.append(ClassMeasure(classes[class_id], checks, right, low, high, said, right, worst.get(class_id)))
    return found


def knows_confusions(model: ModelVersion | None, sample: str) -> bool:
    """Whether what it takes for what was kept with this model."""
    return "confused" in ((model.metrics.get(sample) if model else None) or {})
