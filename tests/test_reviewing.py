"""Decisions on proposals, and the rule that people outrank models."""

import threading
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from annotator import queries
from annotator.actions import labeling, proposing, queueing, reviewing
from annotator.errors import InvalidAnnotation, NotFound
from annotator.models import Annotation, AuditEvent, Item, LabelClass, ModelVersion, Project, Proposal


def screen_of(project: Project, label_class: LabelClass) -> list[Proposal]:
    """The first screen of a class."""
    chosen = queries.read_selection(project, {"class": str(label_class.pk)})
    return queries.screen(project, chosen).rows


def _next_model(model: ModelVersion) -> ModelVersion:
    model.pk, model.number = None, model.number + 1
    model._state.adding = True
    model.save()
    return model


def test_accepting_correcting_and_rejecting_are_recorded_with_who_and_when(
    project: Project, proposals: list[Proposal], carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    yes, no, other = proposals[:3]
    decision = reviewing.decide(
        project=project, reviewer=carol, accepted=[yes.pk], rejected=[no.pk], corrected={other.pk: dog.pk}
    )
    assert (decision.accepted, decision.rejected, decision.corrected, decision.conflicts) == (1, 1, 1, [])
    for proposal, state in ((yes, "accepted"), (no, "rejected"), (other, "corrected")):
        proposal.refresh_from_db()
        assert (proposal.state, proposal.decided_by) == (state, carol)
        assert proposal.decided_at is not None
    given = {each.settles_id: each for each in Annotation.objects.all()}
    assert (given[yes.pk].kind, given[yes.pk].value) == ("label", {"class": cat.pk})
    assert (given[no.pk].kind, given[no.pk].value) == ("rejection", {"class": cat.pk})
    assert (given[other.pk].kind, given[other.pk].value) == ("label", {"class": dog.pk})
    states = {item.pk: item.state for item in Item.objects.all()}
    assert states[yes.item_id] == states[other.item_id] == Item.State.LABELLED
    assert states[no.item_id] == Item.State.OPEN


def test_a_correction_to_the_proposed_class_counts_as_accepted(
    project: Project, proposals: list[Proposal], carol: User, cat: LabelClass
) -> None:
    reviewing.decide(project=project, reviewer=carol, corrected={proposals[0].pk: cat.pk})
    proposals[0].refresh_from_db()
    assert proposals[0].state == Proposal.State.ACCEPTED


def test_a_human_answer_wins_over_a_proposal(
    project: Project, proposals: list[Proposal], bob: User, carol: User, dog: LabelClass, answer: Any
) -> None:
    answer(bob, proposals[0].item, dog)
    decision = reviewing.decide(project=project, reviewer=carol, accepted=[proposals[0].pk, proposals[1].pk])
    assert decision.accepted == 1
    assert [each.proposal_id for each in decision.conflicts] == [proposals[0].pk]
    current = queries.current_annotations(proposals[0].item)
    assert [(each.annotator, each.value) for each in current] == [(bob, {"class": dog.pk})]


def test_what_somebody_is_answering_is_neither_shown_nor_decided(
    project: Project, proposals: list[Proposal], bob: User, carol: User, cat: LabelClass
) -> None:
    held = queueing.reserve_items(project=project, annotator=bob, count=1)[0]
    proposal = next(each for each in proposals if each.item_id == held.item_id)
    assert proposal not in screen_of(project, cat)
    decision = reviewing.decide(project=project, reviewer=carol, accepted=[proposal.pk])
    assert "bob is answering" in decision.conflicts[0].why


def test_the_same_decision_twice_writes_once(project: Project, proposals: list[Proposal], carol: User) -> None:
    for _ in range(2):
        decision = reviewing.decide(project=project, reviewer=carol, accepted=[each.pk for each in proposals])
        assert decision.accepted == len(proposals)
    assert Annotation.objects.count() == len(proposals)


def test_a_decision_is_undone_whole_and_once(
    project: Project, proposals: list[Proposal], carol: User, dog: LabelClass
) -> None:
    decision = reviewing.decide(
        project=project,
        reviewer=carol,
        accepted=[proposals[0].pk],
        rejected=[proposals[1].pk],
        corrected={proposals[2].pk: dog.pk},
    )
    assert decision.event_id is not None
    for undone in (3, 0):
        assert reviewing.undo_decision(project=project, reviewer=carol, event_id=decision.event_id) == undone
    assert {each.state for each in Proposal.objects.all()} == {Proposal.State.PENDING}
    assert {each.state for each in Item.objects.all()} == {Item.State.OPEN}
    assert queries.current_annotations(proposals[0].item) == []


def test_a_proposal_of_an_item_labelled_meanwhile_is_not_put_up_again(
    project: Project, proposals: list[Proposal], bob: User, carol: User, dog: LabelClass, answer: Any
) -> None:
    decision = reviewing.decide(project=project, reviewer=carol, rejected=[each.pk for each in proposals[:2]])
    answer(bob, proposals[0].item, dog)
    assert decision.event_id is not None
    reviewing.undo_decision(project=project, reviewer=carol, event_id=decision.event_id)
    states = {each.pk: each.state for each in Proposal.objects.all()}
    assert states[proposals[0].pk] == Proposal.State.WITHDRAWN
    assert states[proposals[1].pk] == Proposal.State.PENDING


def test_a_proposal_of_a_class_archived_meanwhile_is_not_put_up_again(
    project: Project, proposals: list[Proposal], carol: User, cat: LabelClass
) -> None:
    decision = reviewing.decide(project=project, reviewer=carol, rejected=[proposals[0].pk])
    LabelClass.objects.filter(pk=cat.pk).update(is_archived=True)
    assert decision.event_id is not None
    reviewing.undo_decision(project=project, reviewer=carol, event_id=decision.event_id)
    assert Proposal.objects.get(pk=proposals[0].pk).state == Proposal.State.WITHDRAWN


def test_undoing_a_decision_brings_the_one_before_back(
    project: Project, proposals: list[Proposal], model: ModelVersion, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    item = proposals[0].item
    not_a_cat = reviewing.decide(project=project, reviewer=carol, rejected=[proposals[0].pk])
    as_a_dog = proposing.Predicted(item.pk, dog.pk, 0.95, [(dog.pk, 0.95)])
    proposing.store_proposals(project=project, model_version=_next_model(model), predictions=[as_a_dog])
    second = Proposal.objects.get(item=item, state=Proposal.State.PENDING)
    a_dog = reviewing.decide(project=project, reviewer=carol, accepted=[second.pk])
    assert not_a_cat.event_id is not None
    assert a_dog.event_id is not None
    assert reviewing.undo_decision(project=project, reviewer=carol, event_id=a_dog.event_id) == 1
    current = queries.current_annotations(item)
    assert [(each.kind, each.value, each.settles) for each in current] == [
        ("rejection", {"class": cat.pk}, proposals[0])
    ]
    # What was brought back can itself be taken back.
    for undone in (1, 0):
        assert reviewing.undo_decision(project=project, reviewer=carol, event_id=not_a_cat.event_id) == undone
    assert queries.current_annotations(item) == []


def test_a_proposal_of_an_archived_class_can_be_rejected_or_corrected_but_not_accepted(
    project: Project, proposals: list[Proposal], carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    LabelClass.objects.filter(pk=cat.pk).update(is_archived=True)
    first, second, third = (each.pk for each in proposals[:3])
    decision = reviewing.decide(
        project=project, reviewer=carol, accepted=[first], rejected=[second], corrected={third: dog.pk}
    )
    assert (decision.accepted, decision.rejected, decision.corrected) == (0, 1, 1)
    assert [each.why for each in decision.conflicts] == ["the class 'cat' is archived; choose another one"]


def test_nobody_undoes_somebody_elses_decision(
    project: Project, proposals: list[Proposal], carol: User, alice: User
) -> None:
    decision = reviewing.decide(project=project, reviewer=carol, accepted=[proposals[0].pk])
    assert decision.event_id is not None
    with pytest.raises(NotFound):
        reviewing.undo_decision(project=project, reviewer=alice, event_id=decision.event_id)


@pytest.mark.parametrize("verdicts", [{}, {"accepted": [1], "rejected": [1]}, {"accepted": list(range(2000))}])
def test_a_senseless_decision_is_refused(project: Project, carol: User, verdicts: dict[str, Any]) -> None:
    with pytest.raises(InvalidAnnotation):
        reviewing.decide(project=project, reviewer=carol, **verdicts)


def test_a_foreign_proposal_is_refused_and_nothing_is_written(
    project: Project, proposals: list[Proposal], carol: User
) -> None:
    with pytest.raises(NotFound):
        reviewing.decide(project=project, reviewer=carol, accepted=[proposals[0].pk, 10**9])
    assert not Annotation.objects.exists()


def test_a_grid_that_is_open_while_a_new_model_arrives_stays_true(
    project: Project, proposals: list[Proposal], model: ModelVersion, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    same = proposing.Predicted(proposals[0].item_id, cat.pk, 0.99, [(cat.pk, 0.99)])
    other = proposing.Predicted(proposals[1].item_id, dog.pk, 0.95, [(dog.pk, 0.95)])
    newer = _next_model(model)
    assert proposing.store_proposals(project=project, model_version=newer, predictions=[same, other]) == 2
    proposals[0].refresh_from_db()
    proposals[1].refresh_from_db()
    assert (proposals[0].state, proposals[0].confidence, proposals[0].model_version_id) == ("pending", 0.99, newer.pk)
    assert proposals[1].state == Proposal.State.WITHDRAWN
    # The reviewer saw proposals[1] as a cat and says yes: a person outranks the newer model.
    decision = reviewing.decide(project=project, reviewer=carol, accepted=[proposals[1].pk])
    assert decision.accepted == 1
    assert not Proposal.objects.filter(item=proposals[1].item, state="pending").exists()


def test_proposals_never_overwrite_answers(
    project: Project, items: list[Item], model: ModelVersion, bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], dog)
    predictions = [proposing.Predicted(item.pk, cat.pk, 0.99, []) for item in items]
    assert proposing.store_proposals(project=project, model_version=model, predictions=predictions) == len(items) - 1
    assert not Proposal.objects.filter(item=items[0]).exists()


@pytest.mark.django_db(transaction=True)
def test_an_item_answered_while_proposals_are_stored_gets_none(
    project: Project, items: list[Item], model: ModelVersion, bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    def store() -> None:
        predictions = [proposing.Predicted(item.pk, cat.pk, 0.99, []) for item in items]
        proposing.store_proposals(project=project, model_version=model, predictions=predictions)
        connection.close()

    with transaction.atomic():
        answer(bob, items[0], dog)
        storing = threading.Thread(target=store)
        storing.start()
        storing.join()
    assert Proposal.objects.count() == len(items) - 1
    assert not Proposal.objects.filter(item=items[0]).exists()


def test_the_grid_shows_one_class_most_doubtful_first(
    project: Project, proposals: list[Proposal], cat: LabelClass
) -> None:
    assert queries.review_groups(project) == [(cat, len(proposals))]
    assert screen_of(project, cat)[:3] == proposals[:3]


def test_a_screenful_takes_a_bounded_number_of_queries_per_decision(
    project: Project, proposals: list[Proposal], carol: User
) -> None:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        reviewing.decide(project=project, reviewer=carol, accepted=[each.pk for each in proposals])
    assert len(captured) < 12 * len(proposals) + 20


def test_undoing_in_the_queue_does_not_reach_into_the_review(
    project: Project, proposals: list[Proposal], carol: User
) -> None:
    reviewing.decide(project=project, reviewer=carol, accepted=[proposals[0].pk])
    assert labeling.undo_last(project=project, annotator=carol, uuid=uuid.uuid4()) is None


def test_decisions_are_in_the_log_of_the_project(project: Project, proposals: list[Proposal], carol: User) -> None:
    reviewing.decide(project=project, reviewer=carol, accepted=[proposals[0].pk])
    event = AuditEvent.objects.filter(verb="reviewed proposals").get()
    assert (event.actor, event.detail["accepted"]) == (carol, 1)
