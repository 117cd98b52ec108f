"""Answers: recorded once, never lost, doubled or overwritten."""

import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from annotator import queries
from annotator.actions import labeling, queueing
from annotator.errors import Conflict, InvalidAnnotation, LeaseLost, NotFound
from annotator.models import Annotation, Item, Job, LabelClass, Project, Proposal, QueueEntry, Split
from tests.cast import make_item


def test_an_answer_is_recorded_and_its_item_leaves_the_queue(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    annotation = answer(bob, items[0], cat, milliseconds=1200)
    items[0].refresh_from_db()
    assert annotation.value == {"class": cat.pk}
    assert (annotation.annotator, annotation.milliseconds, annotation.reason_code) == (bob, 1200, "random")
    assert items[0].state == Item.State.LABELLED
    assert not QueueEntry.objects.filter(item=items[0]).exists()


def test_submit_hands_over_the_next_items(project: Project, items: list[Item], bob: User, cat: LabelClass) -> None:
    held = queueing.reserve_items(project=project, annotator=bob, count=5)
    _, following = labeling.submit_and_reserve(
        project=project,
        annotator=bob,
        item_id=held[0].item_id,
        uuid=uuid.uuid4(),
        kind="label",
        raw_value=cat.pk,
    )
    assert [entry.item for entry in following] == items[1:6]


def test_the_same_answer_three_times_is_one_annotation(
    items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    once = uuid.uuid4()
    rows = {answer(bob, items[0], cat, uuid=once).pk for _ in range(3)}
    assert len(rows) == 1
    assert Annotation.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_same_answer_from_eight_tabs_at_once_is_one_annotation(
    items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    once = uuid.uuid4()
    rows: set[int] = set()
    barrier = threading.Barrier(8)

    def send() -> None:
        barrier.wait()
        rows.add(answer(bob, items[0], cat, uuid=once).pk)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows) == 1
    assert Annotation.objects.count() == 1


def test_an_id_used_for_another_item_is_a_conflict(items: list[Item], bob: User, cat: LabelClass, answer: Any) -> None:
    once = uuid.uuid4()
    answer(bob, items[0], cat, uuid=once)
    with pytest.raises(Conflict, match="already used for another answer"):
        answer(bob, items[1], cat, uuid=once)


def test_an_item_somebody_else_holds_is_refused(
    project: Project, items: list[Item], bob: User, carol: User, cat: LabelClass, answer: Any
) -> None:
    queueing.reserve_items(project=project, annotator=carol, count=1)
    with pytest.raises(LeaseLost, match="somebody else has it now"):
        answer(bob, items[0], cat)
    assert not Annotation.objects.exists()


def test_an_expired_lease_is_forgiven_while_nobody_took_the_item(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    queueing.reserve_items(project=project, annotator=bob, count=1)
    QueueEntry.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    assert answer(bob, items[0], cat).value == {"class": cat.pk}


def test_an_item_answered_by_somebody_else_is_refused(
    items: list[Item], bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(carol, items[0], cat)
    with pytest.raises(LeaseLost, match="answered this image meanwhile"):
        answer(bob, items[0], dog)


def test_a_second_thought_supersedes_the_first(
    items: list[Item], bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    first = answer(bob, items[0], cat)
    second = answer(bob, items[0], dog)
    assert second.supersedes == first
    assert queries.current_annotations(items[0]) == [second]


def test_a_fork_in_the_chain_of_answers_is_impossible(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    first = answer(bob, items[0], cat)
    answer(bob, items[0], cat)
    row = {"project": project, "item": items[0], "annotator": bob, "kind": "skip"}
    with pytest.raises(IntegrityError), transaction.atomic():
        Annotation.objects.create(uuid=uuid.uuid4(), supersedes=first, **row)
    with pytest.raises(IntegrityError), transaction.atomic():
        Annotation.objects.create(uuid=uuid.uuid4(), **row)


@pytest.mark.parametrize("raw", [None, "", "cat", -1, 10**12, {"class": None}, {"class": [1]}, [], 1.5e300])
def test_a_value_that_is_no_class_says_so(project: Project, items: list[Item], bob: User, raw: Any) -> None:
    with pytest.raises(InvalidAnnotation):
        labeling.record_annotation(
            project=project, annotator=bob, item_id=items[0].pk, uuid=uuid.uuid4(), kind="label", raw_value=raw
        )


def test_an_archived_class_is_refused(items: list[Item], bob: User, cat: LabelClass, answer: Any) -> None:
    LabelClass.objects.filter(pk=cat.pk).update(is_archived=True)
    with pytest.raises(InvalidAnnotation, match="not one of this project's 1 open classes"):
        answer(bob, items[0], cat)


def test_an_unknown_item_and_a_test_item_are_refused(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    with pytest.raises(Conflict, match="held-out test set"):
        answer(bob, make_item(project, 99, split=Split.TEST), cat)
    with pytest.raises(NotFound):
        answer(bob, Item(pk=10**9), cat)


@pytest.mark.parametrize(
    ("kind", "state"), [("skip", Item.State.SKIPPED), ("none_of_these", Item.State.NONE_OF_THESE)]
)
def test_skip_and_none_of_these_settle_the_item_without_a_label(
    items: list[Item], bob: User, answer: Any, kind: str, state: str
) -> None:
    annotation = answer(bob, items[0], kind=kind)
    items[0].refresh_from_db()
    assert (annotation.value, items[0].state) == (None, state)


def test_undo_takes_back_the_last_answers_one_by_one(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[1])
    for item in (items[1], items[0]):
        entry = labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
        assert entry is not None
        assert (entry.item_id, entry.leased_by_id) == (item.pk, bob.pk)
        item.refresh_from_db()
        assert item.state == Item.State.OPEN
    assert labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) is None
    assert [entry.item for entry in queries.held_entries(project, bob)] == [items[0], items[1]]
    # Nothing was deleted: two answers, two retractions.
    assert Annotation.objects.count() == 4


def test_undo_sent_twice_undoes_once(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[1], cat)
    once = uuid.uuid4()
    entries = [labeling.undo_last(project=project, annotator=bob, uuid=once) for _ in range(2)]
    assert [entry.item_id for entry in entries if entry] == [items[1].pk, items[1].pk]


def test_undo_leaves_other_peoples_answers_alone(
    project: Project, items: list[Item], bob: User, carol: User, cat: LabelClass, answer: Any
) -> None:
    answer(carol, items[0], cat)
    assert labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) is None


def test_an_undone_item_can_be_answered_again(
    project: Project, items: list[Item], bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    answer(bob, items[0], dog)
    assert [each.value for each in queries.current_annotations(items[0])] == [{"class": dog.pk}]


def test_an_answer_takes_the_models_proposal_off_the_table(
    proposals: list[Proposal], bob: User, dog: LabelClass, answer: Any
) -> None:
    answer(bob, proposals[0].item, dog)
    proposals[0].refresh_from_db()
    assert proposals[0].state == Proposal.State.WITHDRAWN


def test_ten_answers_ask_for_one_refit(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    for item in items[:9]:
        answer(bob, item, cat)
    assert not Job.objects.filter(kind=Job.Kind.REFIT).exists()
    for item in items[9:]:
        answer(bob, item, cat)
    assert Job.objects.filter(kind=Job.Kind.REFIT).count() == 1


def test_the_states_of_items_follow_from_their_answers(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    """The projection never drifts from what it projects, whatever order answers and undos come in."""
    answer(bob, items[0], cat)
    answer(bob, items[1])
    answer(bob, items[2], kind="none_of_these")
    answer(bob, items[1], cat)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    for item in Item.objects.filter(project=project):
        assert item.state == labeling.state_of(queries.current_annotations(item))
