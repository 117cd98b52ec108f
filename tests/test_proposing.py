"""Proposals: one pending per item, behind what people say, steady under people's eyes."""

from collections.abc import Callable

import pytest

from annotator.actions import proposing
from annotator.models import Annotation, Item, LabelClass, ModelVersion, Project, Proposal


def predicted(item: Item, label_class: LabelClass, confidence: float = 0.95) -> proposing.Predicted:
    return proposing.Predicted(item.pk, label_class.pk, confidence, [(label_class.pk, confidence)])


@pytest.fixture
def newer(model: ModelVersion) -> ModelVersion:
    """The same model, refitted."""
    columns = {each.name: getattr(model, each.name) for each in ModelVersion._meta.concrete_fields}
    return ModelVersion.objects.create(**columns | {"id": None, "number": 2})


def test_a_prediction_becomes_a_pending_proposal(
    project: Project, items: list[Item], model: ModelVersion, cat: LabelClass
) -> None:
    pending = proposing.store_proposals(
        project=project, model_version=model, predictions=[predicted(items[0], cat, 0.97)]
    )
    assert pending == 1
    proposal = Proposal.objects.get()
    assert (proposal.item, proposal.value, proposal.confidence) == (items[0], {"class": cat.pk}, 0.97)
    assert proposal.is_calibrated
    assert proposal.short_list == [[cat.pk, 0.97]]


def test_no_proposal_for_what_people_have_answered(
    project: Project,
    items: list[Item],
    model: ModelVersion,
    cat: LabelClass,
    alice: object,
    answer: Callable[..., Annotation],
) -> None:
    answer(alice, items[0], cat)
    assert proposing.store_proposals(project=project, model_version=model, predictions=[predicted(items[0], cat)]) == 0


def test_a_prediction_that_stays_keeps_its_row(
    project: Project, proposals: list[Proposal], newer: ModelVersion, items: list[Item], cat: LabelClass
) -> None:
    proposing.store_proposals(
        project=project, model_version=newer, predictions=[predicted(item, cat, 0.99) for item in items]
    )
    assert {each.pk for each in proposals} == set(
        Proposal.objects.filter(state="pending").values_list("pk", flat=True)
    )
    assert set(Proposal.objects.values_list("confidence", "model_version")) == {(0.99, newer.pk)}


def test_a_changed_mind_withdraws_the_old_row(
    project: Project, proposals: list[Proposal], newer: ModelVersion, items: list[Item], dog: LabelClass
) -> None:
    proposing.store_proposals(project=project, model_version=newer, predictions=[predicted(items[0], dog)])
    pending = Proposal.objects.get(state=Proposal.State.PENDING)
    assert (pending.item, pending.label_class) == (items[0], dog)
    assert Proposal.objects.filter(state=Proposal.State.WITHDRAWN).count() == len(items)


def test_no_predictions_withdraw_everything(project: Project, proposals: list[Proposal], newer: ModelVersion) -> None:
    assert proposing.store_proposals(project=project, model_version=newer, predictions=[]) == 0
