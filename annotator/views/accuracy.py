"""How good is it now: templates/accuracy.html."""

from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.http import urlencode

from annotator import queries
from annotator.access import REVIEW, allows
from annotator.charts import Estimate
from annotator.models import Item, LabelClass, Membership, ModelVersion, Split
from annotator.queries.classwise import ClassMeasure, Confusion, class_measures, confusions, knows_confusions
from annotator.views import forecasting
from annotator.views.model_facts import model_facts
from annotator.views.suspecting import panel as suspects_panel

# As a square up to so many classes; of more the cells that count most are a list.
MATRIX_AT_MOST, CELLS_LISTED = 15, 30


@dataclass(frozen=True)
class AuditStanding:
    """How far the random checks have come. ``measured`` is what the newest model was measured on."""

    answered: int
    size: int
    enough: int
    measured: queries.Measured

    @property
    def is_enough(self) -> bool:
        return self.measured.n >= self.enough

    @property
    def is_too_small(self) -> bool:
        return self.size < self.enough


@dataclass(frozen=True)
class Cell:
    """``n`` images; shade 0..5 by their share of the row. url: where they can be seen, empty where not."""

    n: int
    shade: int
    is_right: bool
    said: LabelClass
    url: str = ""


@dataclass(frozen=True)
class Matrix:
    """What the model takes for what. rows: a class and its cells; listed: in the place of rows where there are too
    many classes."""

    title: str
    about: str
    n: int
    columns: list[LabelClass]
    rows: list[tuple[LabelClass, list[Cell]]]
    listed: list[tuple[Confusion, str]]
    csv: str


def audit_standing(model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> AuditStanding:
    audit = counts[Split.AUDIT]
    return AuditStanding(
        answered=audit[Item.State.LABELLED],
        size=sum(audit.values()),
        enough=queries.CHECKS_AT_LEAST,
        measured=queries.measured(model, "audit"),
    )


def panel(membership: Membership, model: ModelVersion | None, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The context of templates/accuracy.html. Nine queries."""
    project = membership.project
    classes = {each.pk: each for each in project.classes.all()}
    curve = queries.accuracy_curve(project)
    audit = audit_standing(model, counts)
    test = queries.measured(model, "test")
    # What is too little to say anything of all is too little to say anything of each class.
    sample = "audit" if audit.is_enough else "test" if test.n else ""
    return {
        "audit": audit,
        "test": test,
        "audit_curve": [_estimate(at, at.audit) for at in curve if at.audit.n >= queries.CHECKS_AT_LEAST],
        "test_curve": [_estimate(at, at.test) for at in curve if at.test.n],
        "precision": queries.proposal_precision(project),
        "by_class": class_measures(model, sample, classes) if sample else [],
        "by_class_on": sample,
        "matrices": _matrices(membership, model, classes, sample),
        "model_facts": model_facts(model) if model else None,
        "phase": queries.phase_told(project, model),
        "per_refit": project.settings.answers_per_refit,
        **suspects_panel(membership),
        **forecasting.errors_panel(project),
    }


def estimates(curve: list[queries.CurvePoint]) -> list[tuple[str, Estimate]]:
    """(sample, estimate) of every model that was measured on enough, oldest first."""
    found = [("audit", _estimate(at, at.audit)) for at in curve if at.audit.n >= queries.CHECKS_AT_LEAST]
    return found + [("test", _estimate(at, at.test)) for at in curve if at.test.n]


def _estimate(at: queries.CurvePoint, measured: queries.Measured) -> Estimate:
    # A measured sample that is not empty has all three numbers (queries.measured).
    assert measured.accuracy is not None and measured.low is not None and measured.high is not None
    return Estimate(at.answers, measured.accuracy, measured.low, measured.high, measured.n)


def _matrices(
    membership: Membership, model: ModelVersion | None, classes: dict[int, LabelClass], sample: str
) -> list[Matrix]:
    """On what measures it, and of the labels it learnt from; the images of the latter can be looked at, by those who
    review. Of random checks the counts alone are shown: they are asked again, of people who know nothing of them."""
    found = []
    if sample and knows_confusions(model, sample):
        found.append(_matrix(membership, model, classes, sample))
    if knows_confusions(model, "labels") and confusions(model, "labels", classes):
        found.append(_matrix(membership, model, classes, "labels"))
    return found


def _matrix(membership: Membership, model: ModelVersion | None, classes: dict[int, LabelClass], sample: str) -> Matrix:
    wrong = confusions(model, sample, classes)
    may_look = sample == "labels" and allows(membership.role, REVIEW)

    def url(given: LabelClass, said: LabelClass) -> str:
        words = urlencode({"label": given.pk, "said": said.pk})
        return f"{reverse('confused', args=[membership.project_id])}?{words}" if may_look else ""

    measured = {each.label_class.pk: each for each in class_measures(model, sample, classes)}
    ids = [pk for pk in (model.class_ids if model else []) if pk in classes]
    if sample == "labels":  # how many there are of each class is no news here
        ids = [pk for pk in ids if any(pk in (each.given.pk, each.said.pk) for each in wrong)]
    columns = [classes[pk] for pk in ids]
    is_listed = len(columns) > MATRIX_AT_MOST
    counts = {(each.given.pk, each.said.pk): each.n for each in wrong}
    return Matrix(
        title=sample,
        about="",
        n=sum(each.checks for each in measured.values()) or sum(each.n for each in wrong),
        columns=[] if is_listed else columns,
        rows=[] if is_listed else [(given, _cells(given, columns, counts, measured, url)) for given in columns],
        listed=[(each, url(each.given, each.said)) for each in wrong[:CELLS_LISTED]] if is_listed else [],
        csv=reverse("numbers", args=[membership.project_id, f"confusion-{sample}"]),
    )


def _cells(
    given: LabelClass,
    columns: list[LabelClass],
    counts: dict[tuple[int, int], int],
    measured: dict[int, ClassMeasure],
    url: Any,
) -> list[Cell]:
    right = measured[given.pk].right if given.pk in measured else 0
    row = [right if said == given else counts.get((given.pk, said.pk), 0) for said in columns]
    whole = max(1, sum(row))
    return [
        Cell(n, -(-5 * n // whole) if n else 0, said == given, said, url(given, said) if n and said != given else "")
        for n, said in zip(row, columns, strict=True)
    ]
