"""Answers: recorded once, never lost, doubled or overwritten."""

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
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


def test_an_id_used_again_with_another_answer_is_a_conflict(
    items: list[Item], bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    once = uuid.uuid4()
    stored = answer(bob, items[0], cat, uuid=once)
    sent: dict[str, Any] = {"kind": "label", "raw_value": cat.pk}
    for other in ({"raw_value": dog.pk}, {"raw_value": None}, {"kind": "skip"}, {"kind": "none_of_these"}):
        with pytest.raises(Conflict, match="already used for another answer"):
            labeling.record_annotation(
                project=items[0].project,
                annotator=bob,
                item_id=items[0].pk,
                uuid=once,
                **sent | other,
            )
    LabelClass.objects.filter(pk=cat.pk).update(is_archived=True)  # it was sent before, and comes late a second time
    assert answer(bob, items[0], cat, uuid=once) == stored
    skipped = answer(bob, items[1])
    assert answer(bob, items[1], uuid=skipped.uuid) == skipped
    assert Annotation.objects.count() == 2


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


@pytest.mark.parametrize(("kind", "is_refused"), [("label", True), ("none_of_these", True), ("skip", False)])
def test_an_item_settled_by_somebody_else_is_refused_even_when_it_is_queued(
    project: Project,
    items: list[Item],
    bob: User,
    carol: User,
    cat: LabelClass,
    answer: Any,
    kind: str,
    is_refused: bool,
) -> None:
    answer(carol, items[0], cat if kind == "label" else None, kind=kind)
    QueueEntry.objects.create(project=project, item=items[0], rank=0, reason_code="random", leased_by=None)
    if is_refused:
        with pytest.raises(LeaseLost, match="answered this image meanwhile"):
            answer(bob, items[0], cat)
    else:
        assert answer(bob, items[0], cat).value == {"class": cat.pk}


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
    with pytest.raises(InvalidAnnotation, match="the class “cat” was archived meanwhile"):
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
        undone = labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
        assert undone is not None
        assert undone.item_id == item.pk
        assert QueueEntry.objects.get(item=item).leased_by == bob
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
    undone = [labeling.undo_last(project=project, annotator=bob, uuid=once) for _ in range(2)]
    assert [each.item_id for each in undone if each] == [items[1].pk, items[1].pk]


def test_undo_leaves_other_peoples_answers_alone(
    project: Project, items: list[Item], bob: User, carol: User, cat: LabelClass, answer: Any
) -> None:
    answer(carol, items[0], cat)
    assert labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) is None


def test_undoing_a_skip_does_not_hold_an_item_that_somebody_labelled_since(
    project: Project, items: list[Item], bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    skip = answer(bob, items[0])
    label = answer(carol, items[0], cat)
    assert labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) == skip
    assert not queries.held_entries(project, bob).exists()
    assert queries.current_annotations(items[0]) == [label]
    with pytest.raises(LeaseLost):
        answer(bob, items[0], dog)


def test_undoing_a_second_thought_brings_the_first_back(
    project: Project, items: list[Item], bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat, milliseconds=1200)
    before = _standing(project, items[0])
    for label_class in (dog, None):
        answer(bob, items[0], label_class)
        labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
        assert _standing(project, items[0]) == before
        assert not QueueEntry.objects.filter(item=items[0]).exists()
    # One chain: cat, dog, taken back, cat, skip, taken back, cat.
    assert Annotation.objects.count() == 7


def test_undoing_an_answer_brings_the_imported_label_back(
    project: Project, items: list[Item], bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    imported = answer(bob, items[0], cat)
    Annotation.objects.filter(pk=imported.pk).update(source=Annotation.Source.IMPORTED)
    before = _standing(project, items[0])
    answer(bob, items[0], dog)
    answer(bob, items[0], cat)
    for _ in range(2):
        labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert _standing(project, items[0]) == before
    assert labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) is None


def test_an_answer_brought_back_is_as_old_as_it_was(
    project: Project, items: list[Item], bob: User, cat: LabelClass, dog: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[1], cat)
    answer(bob, items[0], dog)
    undone = [labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) for _ in range(4)]
    assert [each.item for each in undone if each] == [items[0], items[1], items[0]]
    assert {each.state for each in Item.objects.all()} == {Item.State.OPEN}


def _standing(project: Project, item: Item) -> list[dict[str, Any]]:
    """What an export is made from: the item's state and the columns of its current answers."""
    columns = [each.attname for each in Annotation._meta.fields if each.name not in ("id", "uuid", "supersedes")]
    current = Annotation.objects.filter(item=item, superseded_by__isnull=True).values(*columns, "item__state")
    return list(current)


def test_undo_with_an_id_used_for_an_answer_is_a_conflict(
    project: Project, items: list[Item], bob: User, carol: User, cat: LabelClass, answer: Any
) -> None:
    once = uuid.uuid4()
    answer(bob, items[0], cat, uuid=once)
    answer(carol, items[1], cat)
    for who in (bob, carol):
        with pytest.raises(Conflict, match="already used for something else"):
            labeling.undo_last(project=project, annotator=who, uuid=once)
    assert Annotation.objects.count() == 2


def test_an_answer_with_the_id_of_an_undo_is_a_conflict(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    once = uuid.uuid4()
    answer(bob, items[0], cat)
    labeling.undo_last(project=project, annotator=bob, uuid=once)
    with pytest.raises(Conflict, match="already used for another answer"):
        answer(bob, items[0], cat, uuid=once)


def _at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returned or raised, all of them started together."""
    came: list[Any] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            came.append(call())
        except Exception as error:  # whatever it is, the test is to name it
            came.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came


@pytest.mark.django_db(transaction=True)
def test_the_same_undo_from_six_tabs_at_once_undoes_once(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    answer(bob, items[0], cat)
    last = answer(bob, items[1], cat)
    undo = partial(labeling.undo_last, project=project, annotator=bob, uuid=uuid.uuid4())
    assert _at_once([undo] * 6) == [last] * 6
    assert Annotation.objects.filter(kind=Annotation.Kind.RETRACTION).count() == 1


@pytest.mark.django_db(transaction=True)
def test_one_id_for_six_items_at_once_is_stored_once(
    items: list[Item], bob: User, carol: User, cat: LabelClass, answer: Any
) -> None:
    once = uuid.uuid4()
    came = _at_once([partial(answer, (bob, carol)[n % 2], items[n], cat, uuid=once) for n in range(6)])
    assert sorted(type(each).__name__ for each in came) == ["Annotation"] + ["Conflict"] * 5
    assert Annotation.objects.count() == 1


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
    answer(bob, items[3])
    queueing.return_skipped(project=project)
    for item in Item.objects.filter(project=project):
        assert item.state == labeling.state_of(queries.current_annotations(item))
