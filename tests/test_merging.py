"""Two classes become one while others answer, and two again: no answer is lost, and it stays who said what."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from annotator import queries
from annotator.actions import assigning, classes, deciding, labeling, merging, proposing, queueing, reviewing, shares
from annotator.errors import Conflict, NotFound, WinnowError
from annotator.models import (
    Annotation,
    AuditEvent,
    Certificate,
    ClassExample,
    Item,
    Job,
    LabelClass,
    Look,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Split,
    Suspect,
)
from tests.cast import bare_items, make_item

pytestmark = pytest.mark.django_db
Answer = Callable[..., Annotation]


@pytest.fixture
def fox(project: Project, alice: User) -> LabelClass:
    return classes.add_class(project=project, actor=alice, name="fox")


def merge(project: Project, who: User, source: LabelClass, target: LabelClass) -> AuditEvent:
    return merging.merge_classes(project=project, actor=who, source_id=source.pk, target_id=target.pk)


def take_back(project: Project, who: User, event: AuditEvent) -> AuditEvent:
    return merging.take_merge_back(project=project, actor=who, event_id=event.pk)


def says(item: Item, *people: User) -> list[Any]:
    """What these people say of the item now: class ids, or the kind of what names none."""
    said = []
    for person in people:
        answer = queries.current_annotation(item, person)
        assert answer is not None
        said.append(answer.value["class"] if answer.value else str(answer.kind))
    return said


# --- the answers --------------------------------------------------------------------------------------------


def test_every_answer_follows_and_keeps_its_author_time_and_reason(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    given = answer(bob, items[0], cat, milliseconds=1234, suggestion_shown=True)
    answer(bob, items[1], dog)
    event = merge(project, alice, cat, dog)
    now = queries.current_annotation(items[0], bob)
    assert now is not None
    kept = ("annotator_id", "kind", "source", "milliseconds", "suggestion_shown", "reason_code", "reason_data")
    assert [getattr(now, name) for name in kept] == [getattr(given, name) for name in kept]
    assert (now.value, now.supersedes, now.moved_by, now.created_at) == (
        {"class": dog.pk}, given, event, given.created_at,
    )  # fmt: skip
    given.refresh_from_db()
    assert (given.value, given.moved_by) == ({"class": cat.pk}, None)
    cat.refresh_from_db()
    assert (cat.is_archived, cat.merged_into) == (True, dog)
    assert event.detail["answers"] == 1
    assert Item.objects.get(pk=items[0].pk).state == Item.State.LABELLED
    assert Job.objects.filter(kind=Job.Kind.REFIT).exists()


def test_imported_and_test_labels_follow_and_what_was_rejected_replaced_or_taken_back_does_not(
    project: Project, alice: User, bob: User, carol: User, items: list[Item], proposals: list[Proposal],
    cat: LabelClass, dog: LabelClass, fox: LabelClass, answer: Answer,
) -> None:  # fmt: skip
    reviewing.decide(project=project, reviewer=carol, rejected=[proposals[0].pk])
    rejected = proposals[0].item
    held_out = make_item(project, 90, split=Split.TEST)
    known = Annotation.objects.create(
        uuid=uuid.uuid4(), project=project, item=held_out, annotator=alice, kind="label",
        value={"class": cat.pk}, source=Annotation.Source.IMPORTED,
    )  # fmt: skip
    answer(bob, items[5], cat)
    answer(bob, items[5], fox)
    answer(bob, items[6], cat)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    event = merge(project, alice, cat, dog)
    assert says(rejected, carol) == [cat.pk]
    assert queries.current_annotation(rejected, carol).kind == Annotation.Kind.REJECTION  # type: ignore[union-attr]
    assert says(held_out, alice) == [dog.pk]
    assert known.superseded_by.source == Annotation.Source.IMPORTED
    assert says(items[5], bob) == [fox.pk]
    assert says(items[6], bob) == ["retraction"]
    assert event.detail["answers"] == 1


def test_a_dispute_between_the_two_is_over_and_one_with_a_third_goes_on(
    project: Project, alice: User, bob: User, carol: User, items: list[Item], cat: LabelClass, dog: LabelClass,
    fox: LabelClass,
) -> None:  # fmt: skip
    for item, other in ((items[0], dog), (items[1], fox)):
        disagree(project, item, (bob, cat), (carol, other))
    assert set(deciding.disputed_items(project)) == {items[0], items[1]}
    event = merge(project, alice, cat, dog)
    assert set(deciding.disputed_items(project)) == {items[1]}
    take_back(project, alice, event)
    assert set(deciding.disputed_items(project)) == {items[0], items[1]}


def disagree(project: Project, item: Item, *said: tuple[User, LabelClass]) -> None:
    """Each gives another answer, as if asked for a second opinion."""
    for who, label_class in said:
        QueueEntry.objects.update_or_create(
            item=item,
            defaults={
                "project": project, "rank": 0, "reason_code": "second_opinion", "reason_data": {},
                "leased_by": who, "leased_until": timezone.now() + timezone.timedelta(minutes=5),
            },
        )  # fmt: skip
        labeling.record_annotation(
            project=project, annotator=who, item_id=item.pk, uuid=uuid.uuid4(), kind="label",
            raw_value=label_class.pk,
        )  # fmt: skip


def test_suspicions_follow_their_answers_and_those_between_the_two_are_dropped(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, fox: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    of_cat = answer(bob, items[0], cat)
    between = answer(bob, items[1], cat)
    of_fox = answer(bob, items[2], fox)
    for annotation, instead in ((of_cat, fox), (between, dog), (of_fox, cat)):
        Suspect.objects.create(
            project=project, item=annotation.item, annotation=annotation, doubt="mislabelled", label_class=instead,
            score=0.9,
        )  # fmt: skip
    merge(project, alice, cat, dog)
    found = {each.item_id: each for each in Suspect.objects.all()}
    assert found[items[0].pk].annotation == queries.current_annotation(items[0], bob)
    assert found[items[0].pk].state == Suspect.State.OPEN
    assert found[items[1].pk].state == Suspect.State.DROPPED
    assert (found[items[2].pk].state, found[items[2].pk].label_class) == (Suspect.State.OPEN, dog)


def test_an_answer_brought_back_says_what_was_given_once_the_merge_is_gone(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, fox: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    answer(bob, items[0], cat)
    event = merge(project, alice, cat, dog)
    answer(bob, items[0], fox)
    take_back(project, alice, event)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert says(items[0], bob) == [cat.pk]


def test_a_rejection_that_is_brought_back_stays_one_of_the_class_it_named(
    project: Project, alice: User, carol: User, proposals: list[Proposal], cat: LabelClass, dog: LabelClass,
    fox: LabelClass, answer: Answer,
) -> None:  # fmt: skip
    reviewing.decide(project=project, reviewer=carol, rejected=[proposals[0].pk])
    answer(carol, proposals[0].item, fox)
    merge(project, alice, cat, dog)
    labeling.undo_last(project=project, annotator=carol, uuid=uuid.uuid4())
    assert says(proposals[0].item, carol) == [cat.pk]


def test_old_answers_that_moved_are_no_new_ones_for_the_shares_of_the_queue(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    for item in items[:3]:
        answer(bob, item, cat)
    before = len(shares.newest_answers(project))
    event = merge(project, alice, cat, dog)
    assert len(shares.newest_answers(project)) == before
    take_back(project, alice, event)
    assert len(shares.newest_answers(project)) == before


def test_an_answer_that_was_moved_and_back_is_one_answer(
    project: Project,
    alice: User,
    bob: User,
    carol: User,
    items: list[Item],
    cat: LabelClass,
    dog: LabelClass,
    fox: LabelClass,
    answer: Answer,
) -> None:
    from annotator.queries.work import work
    from ml_worker.forecasting import _asked_again

    answer(bob, items[5], fox)
    disagree(project, items[0], (bob, cat), (carol, dog))
    assert sum(each.n for each in work(project).given) == 3
    assert _asked_again(project) == (1, 1)
    event = merge(project, alice, cat, dog)
    assert sum(each.n for each in work(project).given) == 3
    assert _asked_again(project) == (1, 0), "they say the same by now"
    take_back(project, alice, event)
    assert sum(each.n for each in work(project).given) == 3
    assert _asked_again(project) == (1, 1)


# --- what still arrives -------------------------------------------------------------------------------------


def test_an_answer_that_still_arrives_for_the_merged_class_counts_as_the_other(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    event = merge(project, alice, cat, dog)
    once = uuid.uuid4()
    first = answer(bob, items[0], cat, uuid=once)
    assert answer(bob, items[0], cat, uuid=once) == first, "sent again, it is the same answer"
    assert first.value == {"class": cat.pk}
    assert says(items[0], bob) == [dog.pk]
    now = queries.current_annotation(items[0], bob)
    assert now is not None
    assert (now.moved_by, now.created_at) == (event, first.created_at)
    take_back(project, alice, event)
    assert says(items[0], bob) == [cat.pk]


def test_an_answer_sent_before_and_again_after_the_merge_is_one(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    once = uuid.uuid4()
    answer(bob, items[0], cat, uuid=once)
    merge(project, alice, cat, dog)
    answer(bob, items[0], cat, uuid=once)
    assert Annotation.objects.count() == 2
    assert says(items[0], bob) == [dog.pk]


def test_a_reviewer_who_corrects_to_or_accepts_the_merged_class_gives_the_other(
    project: Project, alice: User, carol: User, proposals: list[Proposal], cat: LabelClass, dog: LabelClass,
    fox: LabelClass,
) -> None:  # fmt: skip
    merge(project, alice, dog, fox)
    reviewing.decide(project=project, reviewer=carol, corrected={proposals[0].pk: dog.pk})
    merge(project, alice, cat, fox)
    done = reviewing.decide(project=project, reviewer=carol, accepted=[proposals[1].pk])
    assert (done.accepted, done.conflicts) == (1, [])
    assert says(proposals[0].item, carol) == says(proposals[1].item, carol) == [fox.pk]


def test_a_decision_for_the_merged_class_is_one_for_the_other(
    project: Project, alice: User, bob: User, carol: User, items: list[Item], cat: LabelClass, dog: LabelClass,
    fox: LabelClass,
) -> None:  # fmt: skip
    disagree(project, items[0], (bob, cat), (carol, dog))
    merge(project, alice, dog, fox)
    deciding.decide(project=project, item_id=items[0].pk, actor=alice, uuid=uuid.uuid4(), raw_value=dog.pk)
    assert says(items[0], alice) == [fox.pk]
    assert deciding.decided_items(project).count() == 1


def test_an_answer_for_a_class_that_was_archived_alone_is_refused_as_before(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, answer: Answer
) -> None:
    classes.archive_class(label_class=cat, actor=alice, archived=True)
    with pytest.raises(WinnowError, match=r"archived|open classes"):
        answer(bob, items[0], cat)
    assert not Annotation.objects.exists()


# --- a person's own undo ------------------------------------------------------------------------------------


def test_undo_after_a_merge_takes_back_the_persons_own_last_answer(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    answer(bob, items[0], cat)
    answer(bob, items[1], dog)
    merge(project, alice, cat, dog)
    for item in (items[1], items[0]):
        undone = labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
        assert undone is not None
        assert undone.item == item, "the newest first, though the merge wrote rows since"
        assert says(item, bob) == ["retraction"]
        assert Item.objects.get(pk=item.pk).state == Item.State.OPEN
    assert labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4()) is None


def test_an_earlier_answer_that_an_undo_brings_back_counts_as_the_other_class(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, fox: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    answer(bob, items[0], cat)
    answer(bob, items[0], fox)
    event = merge(project, alice, cat, dog)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert says(items[0], bob) == [dog.pk]
    take_back(project, alice, event)
    assert says(items[0], bob) == [cat.pk]
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert says(items[0], bob) == ["retraction"]


# --- taking it back -----------------------------------------------------------------------------------------


def test_taken_back_every_answer_is_as_it_was_but_for_those_changed_since(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, fox: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    given = answer(bob, items[0], cat)
    answer(bob, items[1], cat)
    event = merge(project, alice, cat, dog)
    answer(bob, items[1], fox)
    answer(bob, items[2], dog)
    undone = take_back(project, alice, event)
    assert [says(item, bob) for item in items[:3]] == [[cat.pk], [fox.pk], [dog.pk]]
    now = queries.current_annotation(items[0], bob)
    assert now is not None
    assert (now.moved_by, now.created_at, undone.detail["answers"]) == (None, given.created_at, 1)
    cat.refresh_from_db()
    assert (cat.is_archived, cat.merged_into, cat.shortcut) == (False, None, "1")


def test_a_merge_is_taken_back_once(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    answer(bob, items[0], cat)
    first = merge(project, alice, cat, dog)
    take_back(project, alice, first)
    rows = Annotation.objects.count()
    with pytest.raises(Conflict, match="taken back already"):
        take_back(project, alice, first)
    second = merge(project, alice, cat, dog)
    with pytest.raises(Conflict, match="taken back already"):
        take_back(project, alice, first)
    take_back(project, alice, second)
    assert (Annotation.objects.count(), says(items[0], bob)) == (rows + 2, [cat.pk])


def test_the_key_that_somebody_else_has_by_now_is_not_taken_from_them(
    project: Project, alice: User, cat: LabelClass, dog: LabelClass, fox: LabelClass
) -> None:
    event = merge(project, alice, cat, dog)
    classes.update_class(label_class=fox, actor=alice, shortcut="1")
    take_back(project, alice, event)
    assert [each.shortcut for each in project.classes.all()] == ["", "2", "1"]


def test_a_chain_of_merges_is_followed_and_taken_back_from_its_end(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, fox: LabelClass,
    answer: Answer,
) -> None:  # fmt: skip
    for item, each in zip(items, (cat, dog, fox), strict=False):
        answer(bob, item, each)
    first = merge(project, alice, cat, dog)
    second = merge(project, alice, dog, fox)
    answer(bob, items[3], cat)
    assert [says(item, bob) for item in items[:4]] == [[fox.pk]] * 4
    with pytest.raises(Conflict, match="dog was merged into fox since; take that back first"):
        take_back(project, alice, first)
    take_back(project, alice, second)
    assert [says(item, bob) for item in items[:4]] == [[dog.pk], [dog.pk], [fox.pk], [dog.pk]]
    take_back(project, alice, first)
    assert [says(item, bob) for item in items[:4]] == [[cat.pk], [dog.pk], [fox.pk], [cat.pk]]
    current = Annotation.objects.filter(superseded_by__isnull=True)
    assert not current.filter(moved_by__isnull=False).exists()


def test_classes_never_go_round_in_a_circle(
    project: Project, alice: User, cat: LabelClass, dog: LabelClass, fox: LabelClass
) -> None:
    merge(project, alice, cat, dog)
    merge(project, alice, dog, fox)
    with pytest.raises(Conflict, match="cat is archived"):
        merge(project, alice, fox, cat)
    with pytest.raises(Conflict, match="cat was merged into dog already"):
        merge(project, alice, cat, fox)
    with pytest.raises(Conflict, match="into itself"):
        merge(project, alice, fox, fox)
    with pytest.raises(NotFound, match="no class 999999"):
        merging.merge_classes(project=project, actor=alice, source_id=fox.pk, target_id=999999)
    cat.refresh_from_db()
    with pytest.raises(Conflict, match="take the merge back"):
        classes.archive_class(label_class=cat, actor=alice, archived=False)


def test_an_archived_class_is_merged_and_archived_again_when_that_is_taken_back(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    answer(bob, items[0], cat)
    classes.archive_class(label_class=cat, actor=alice, archived=True)
    event = merge(project, alice, cat, dog)
    assert says(items[0], bob) == [dog.pk]
    take_back(project, alice, event)
    cat.refresh_from_db()
    assert (cat.is_archived, cat.merged_into, says(items[0], bob)) == (True, None, [cat.pk])


# --- what nobody said ---------------------------------------------------------------------------------------


def test_proposals_short_lists_and_the_queue_name_the_other_class(
    project: Project, alice: User, items: list[Item], model: ModelVersion, cat: LabelClass, dog: LabelClass,
    fox: LabelClass,
) -> None:  # fmt: skip
    short = [(cat.pk, 0.5), (dog.pk, 0.3), (fox.pk, 0.6)]
    predictions = [proposing.Predicted(items[0].pk, cat.pk, 0.9, short)]
    proposing.store_proposals(project=project, model_version=model, predictions=predictions)
    told = {"classes": [[cat.pk, 0.5], [dog.pk, 0.4]]}
    QueueEntry.objects.filter(item=items[1]).update(reason_code="close_call", reason_data=told)
    QueueEntry.objects.filter(item=items[2]).update(reason_code="scarce", reason_data={"class": cat.pk})
    event = merge(project, alice, cat, dog)
    proposal = Proposal.objects.get()
    assert (proposal.label_class, proposal.value, proposal.state) == (dog, {"class": dog.pk}, "pending")
    assert proposal.short_list == [[dog.pk, 0.8], [fox.pk, 0.6]]
    entry = QueueEntry.objects.get(item=items[1])
    assert (entry.reason_code, entry.reason_data) == ("unsure", {"classes": [[dog.pk, 0.9]]})
    assert QueueEntry.objects.get(item=items[2]).reason_data == {"class": dog.pk}
    take_back(project, alice, event)
    proposal.refresh_from_db()
    assert (proposal.label_class, proposal.value) == (cat, {"class": cat.pk})


def test_a_model_that_learnt_before_the_merge_proposes_the_other_class(
    project: Project, alice: User, items: list[Item], model: ModelVersion, cat: LabelClass, dog: LabelClass
) -> None:
    merge(project, alice, cat, dog)
    predictions = [proposing.Predicted(items[0].pk, cat.pk, 0.9, [(cat.pk, 0.9)])]
    assert proposing.store_proposals(project=project, model_version=model, predictions=predictions) == 1
    assert Proposal.objects.get().label_class == dog


@pytest.fixture
def promised(project: Project, model: ModelVersion, cat: LabelClass) -> Certificate:
    """What a look certified of cats, with two checks, and one label accepted under it."""
    checks = bare_items(project, [Split.AUDIT] * 2 + [Split.POOL] * 3)
    look = Look.objects.create(
        project=project, number=1, planned=1, model_version=model, answers=600, target=0.99, confidence=0.95,
        spent=0.01, delta=0.01,
    )  # fmt: skip
    made = Certificate.objects.create(
        look=look, project=project, label_class=cat, threshold=0.9, n=2, k=2, rest=100, answered=0, bound=0.99,
        target=0.99, confidence=0.95, delta=0.01, checks={str(item.pk): cat.pk for item in checks[:2]},
        accepted_at=timezone.now(),
    )  # fmt: skip
    Proposal.objects.create(
        project=project, item=checks[2], model_version=model, value={"class": cat.pk}, label_class=cat,
        confidence=0.99, short_list=[[cat.pk, 0.99]], certificate=made, state=Proposal.State.AUTO_ACCEPTED,
    )  # fmt: skip
    drawn = Round.objects.create(
        project=project, number=1, model_version=model, label_class=cat, threshold=0.9, share=0.5, size=2,
        target=0.99, confidence=0.95, spent=0.01, stages=[[2, 0, 0.01]],
    )  # fmt: skip
    RoundCheck.objects.create(round=drawn, item=checks[3], position=0, predicted=cat, place=0.1)
    return made


def test_what_is_promised_holds_for_the_two_as_one_and_for_neither_alone_again(
    project: Project, alice: User, promised: Certificate, cat: LabelClass, dog: LabelClass
) -> None:
    event = merge(project, alice, cat, dog)
    promised.refresh_from_db()
    assert (promised.label_class, set(promised.checks.values()), promised.ended_at) == (dog, {dog.pk}, None)
    label = Proposal.objects.get()
    assert (label.label_class, label.state) == (dog, Proposal.State.AUTO_ACCEPTED)
    drawn = Round.objects.get()
    assert (drawn.label_class, drawn.checks.get().predicted, drawn.state) == (dog, dog, Round.State.RUNNING)
    take_back(project, alice, event)
    promised.refresh_from_db()
    assert promised.ended_why == "cat and dog are two classes again"
    label.refresh_from_db()
    assert (label.label_class, label.value, label.state) == (cat, {"class": cat.pk}, Proposal.State.PENDING)
    drawn.refresh_from_db()
    assert drawn.state == Round.State.FAILED


def test_examples_go_along_as_far_as_there_is_room(
    project: Project, alice: User, items: list[Item], cat: LabelClass, dog: LabelClass
) -> None:
    more = bare_items(project, [Split.POOL] * 4)
    classes.add_examples(label_class=cat, actor=alice, item_ids=[item.pk for item in items[:5]])
    classes.add_examples(label_class=dog, actor=alice, item_ids=[item.pk for item in [*items[4:], *more[:2]]])
    event = merge(project, alice, cat, dog)
    shown = set(dog.examples.values_list("item", flat=True))
    assert len(shown) == classes.EXAMPLES_AT_MOST
    assert len(shown & {item.pk for item in items[:4]}) == 2
    take_back(project, alice, event)
    assert ClassExample.objects.filter(label_class=dog).count() == 10
    assert ClassExample.objects.filter(label_class=cat).count() == 5


# --- at the same moment -------------------------------------------------------------------------------------


def side_by_side(*acts: Callable[[], Any]) -> list[str]:
    """Each act on a thread and a connection of its own; what each was refused with, or "done"."""

    def one(act: Callable[[], Any]) -> str:
        try:
            act()
        except WinnowError as error:
            return error.message
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(len(acts)) as threads:
        return list(threads.map(one, acts))


@pytest.mark.django_db(transaction=True)
def test_no_answer_slips_through_while_classes_are_merged_and_parted_again(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    pool = bare_items(project, [Split.POOL] * 60)

    def label(who: User, mine: list[Item]) -> None:
        for at, item in enumerate(mine):
            labeling.record_annotation(
                project=project, annotator=who, item_id=item.pk, uuid=uuid.uuid4(), kind="label", raw_value=cat.pk
            )
            if at % 5 == 4:
                labeling.undo_last(project=project, annotator=who, uuid=uuid.uuid4())

    def part_and_merge() -> None:
        for _ in range(6):
            event = merge(project, alice, cat, dog)
            take_back(project, alice, event)
        merge(project, alice, cat, dog)

    said = side_by_side(lambda: label(bob, pool[:30]), lambda: label(carol, pool[30:]), part_and_merge)
    assert said == ["done"] * 3
    current = Annotation.objects.filter(project=project, superseded_by__isnull=True)
    assert current.filter(value={"class": cat.pk}).count() == 0
    assert current.filter(value={"class": dog.pk}).count() == 48
    assert current.filter(kind=Annotation.Kind.RETRACTION).count() == 12
    assert Item.objects.filter(project=project, state=Item.State.LABELLED).count() == 48
    assert Annotation.objects.filter(project=project, moved_by__isnull=True, kind="label").exists()


@pytest.mark.django_db(transaction=True)
def test_two_owners_who_merge_at_once_do_it_once_or_one_after_the_other(
    project: Project, alice: User, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    for _ in range(4):
        said = side_by_side(lambda: merge(project, alice, cat, dog), lambda: merge(project, carol, dog, cat))
        assert sorted(each == "done" for each in said) == [False, True], said
        take_back(project, alice, AuditEvent.objects.filter(verb="merged a class").latest("pk"))
    said = side_by_side(lambda: merge(project, alice, cat, dog), lambda: merge(project, carol, cat, dog))
    assert sorted(said) == ["cat was merged into dog already", "done"]
    event = AuditEvent.objects.filter(verb="merged a class").latest("pk")
    said = side_by_side(lambda: take_back(project, alice, event), lambda: take_back(project, carol, event))
    assert sorted(said) == ["done", "this merge was taken back already; nothing was changed"]


@pytest.mark.django_db(transaction=True)
def test_labelling_reviewing_giving_refilling_and_merging_at_once_block_nobody_for_ever(
    project: Project,
    alice: User,
    bob: User,
    carol: User,
    model: ModelVersion,
    cat: LabelClass,
    dog: LabelClass,
    fox: LabelClass,
) -> None:
    pool = bare_items(project, [Split.POOL] * 120)

    def label() -> None:
        for _ in range(25):
            for entry in queueing.reserve_items(project=project, annotator=bob, count=2):
                labeling.record_annotation(
                    project=project,
                    annotator=bob,
                    item_id=entry.item_id,
                    uuid=uuid.uuid4(),
                    kind="label",
                    raw_value=cat.pk,
                )

    def review() -> None:
        for at in range(8):
            predictions = [
                proposing.Predicted(item.pk, cat.pk, 0.9, [(cat.pk, 0.9), (dog.pk, 0.1)]) for item in pool[60:90]
            ]
            proposing.store_proposals(project=project, model_version=model, predictions=predictions)
            waiting = list(Proposal.objects.filter(project=project, state="pending").values_list("pk", flat=True)[:6])
            if not waiting:
                continue
            done = reviewing.decide(
                project=project, reviewer=carol, accepted=waiting[:3], corrected=dict.fromkeys(waiting[3:], dog.pk)
            )
            if at % 2 and done.event_id:
                reviewing.undo_decision(project=project, reviewer=carol, event_id=done.event_id)

    def give() -> None:
        for at in range(8):
            try:
                done = assigning.assign_images(
                    project=project,
                    actor=carol,
                    of="open",
                    item_ids=[item.pk for item in pool[90 + 3 * at : 93 + 3 * at]],
                    class_id=cat.pk,
                )
            except Conflict:  # others were there first
                continue
            if at % 2:
                assigning.take_assignment_back(project=project, actor=carol, event_id=done.event_id)

    def refill() -> None:
        for _ in range(10):
            ranked = [queueing.Ranked(item.pk, 0.0, "close_call", {"classes": [[cat.pk, 0.5], [dog.pk, 0.4]]})
                      for item in pool[:60]]  # fmt: skip
            queueing.fill_queue(project=project, entries=ranked)

    def part_and_merge() -> None:
        for _ in range(5):
            first = merge(project, alice, cat, dog)
            second = merge(project, alice, dog, fox)
            take_back(project, alice, second)
            take_back(project, alice, first)
        merge(project, alice, cat, dog)

    assert side_by_side(label, review, give, refill, part_and_merge) == ["done"] * 5
    current = Annotation.objects.filter(project=project, superseded_by__isnull=True)
    assert not current.filter(value={"class": cat.pk}).exists()
    assert not Proposal.objects.filter(state__in=Proposal.UNDECIDED, label_class=cat).exists()
    for item in Item.objects.filter(project=project):
        assert item.state == labeling.state_of(queries.current_annotations(item))
