"""Many images get a class from one grid: as own answers, or as decisions; and back, as one act."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from annotator import queries
from annotator.actions import assigning, classes, merging, queueing
from annotator.actions.assigning import Assigned
from annotator.errors import Conflict, InvalidClass, InvalidSettings, NotAllowed, NotFound
from annotator.models import (
    Annotation,
    AuditEvent,
    Certificate,
    Item,
    Job,
    LabelClass,
    Look,
    ModelVersion,
    Project,
    Proposal,
    QueueEntry,
    Split,
)
from tests.cast import make_item

pytestmark = pytest.mark.django_db
Answer = Callable[..., Annotation]


def give(project: Project, who: User, of: str, items: list[Item], **more: Any) -> Assigned:
    return assigning.assign_images(
        project=project, actor=who, of=of, item_ids=[item.pk for item in items], may_add=True, **more
    )


def label_of(item: Item) -> str | None:
    """What the image is by all that people say."""
    from annotator.task_types import single_label

    value = queries.settled_value(single_label, queries.current_annotations(item))
    return LabelClass.objects.get(pk=value["class"]).name if value else None


# --- a project without classes: discover --------------------------------------------------------------------


def test_naming_a_group_makes_the_class_and_labels_the_images_as_ones_own(
    project: Project, alice: User, items: list[Item]
) -> None:
    done = give(project, alice, "open", items[:4], name="  red   fox ")
    assert (done.label_class.name, done.given, done.left) == ("red fox", 4, [])
    for item in items[:4]:
        (said,) = queries.current_annotations(item)
        assert (said.annotator, said.kind, said.reason_code, said.source) == (alice, "label", "chosen", "person")
        assert (said.suggestion_shown, said.moved_by, said.settles) == (False, None, None)
        item.refresh_from_db()
        assert item.state == Item.State.LABELLED
        assert not QueueEntry.objects.filter(item=item).exists()


def test_a_name_that_is_there_already_is_that_class(
    project: Project, alice: User, items: list[Item], cat: LabelClass, dog: LabelClass
) -> None:
    assert give(project, alice, "open", items[:1], name="CAT").label_class == cat
    classes.archive_class(label_class=dog, actor=alice, archived=True)
    assert give(project, alice, "open", items[1:2], name="dog").label_class == dog
    dog.refresh_from_db()
    assert not dog.is_archived, "an archived one comes back"
    merging.merge_classes(project=project, actor=alice, source_id=dog.pk, target_id=cat.pk)
    assert give(project, alice, "open", items[2:3], name="dog").label_class == cat, "a merged one means the other"


def test_who_owns_nothing_uses_the_classes_there_are(project: Project, bob: User, items: list[Item]) -> None:
    of_open = {"project": project, "actor": bob, "of": "open", "item_ids": [items[0].pk]}
    with pytest.raises(NotAllowed, match="no open class called fox"):
        assigning.assign_images(**of_open, name="fox")
    assert assigning.assign_images(**of_open, name="cat").given == 1
    assert set(project.classes.values_list("name", flat=True)) == {"cat", "dog"}


def test_random_checks_test_images_answered_and_held_ones_are_left_alone_with_the_reason(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, answer: Answer
) -> None:
    check, held_out = make_item(project, 60, Split.AUDIT), make_item(project, 61, Split.TEST)
    answer(bob, items[0], cat)
    queueing.reserve_items(project=project, annotator=bob, count=1)
    held = QueueEntry.objects.get(leased_by=bob).item
    free = next(item for item in items[1:] if item != held)
    done = give(project, alice, "open", [check, held_out, items[0], held, free], name="cat")
    assert done.given == 1
    why = {each.item_id: each.why for each in done.left}
    assert "random check or test image" in why[check.pk]
    assert "random check or test image" in why[held_out.pk]
    assert "answered this image meanwhile" in why[items[0].pk]
    assert why[held.pk] == "bob is answering this image right now"
    assert queries.current_annotations(items[0])[0].annotator == bob


def test_when_nothing_is_left_to_give_no_class_is_made(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, answer: Answer
) -> None:
    answer(bob, items[0], cat)
    with pytest.raises(Conflict, match="nothing was changed: somebody answered this image meanwhile"):
        give(project, alice, "open", items[:1], name="ghost")
    assert not project.classes.filter(name="ghost").exists()


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"item_ids": [], "name": "x"}, InvalidClass),
        ({"item_ids": list(range(1, 600)), "name": "x"}, InvalidClass),
        ({"item_ids": [10**12], "name": "cat"}, NotFound),
        ({"name": " "}, InvalidClass),
        ({"name": "x" * 121}, InvalidClass),
        ({"name": "\u200f\u202e"}, InvalidClass),
        ({"class_id": 10**12}, NotFound),
        ({"name": "cat", "of": "all"}, InvalidSettings),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    project: Project, alice: User, items: list[Item], wrong: dict[str, Any], refusal: type[Exception]
) -> None:
    sent = {"project": project, "actor": alice, "of": "open", "item_ids": [items[0].pk], "may_add": True} | wrong
    with pytest.raises(refusal):
        assigning.assign_images(**sent)
    assert not Annotation.objects.exists()


# --- what fits no class, and splitting one ------------------------------------------------------------------


def test_images_of_no_class_become_one_by_decision_and_their_answers_stay_what_they_were(
    project: Project, alice: User, bob: User, items: list[Item], answer: Answer
) -> None:
    for item in items[:3]:
        answer(bob, item, kind="none_of_these")
    done = give(project, alice, "none_of_these", items[:3], name="fox")
    assert done.given == 3
    for item in items[:3]:
        theirs, hers = queries.current_annotations(item)
        assert (theirs.annotator, theirs.kind, theirs.moved_by) == (bob, "none_of_these", None)
        assert (hers.annotator, hers.reason_code) == (alice, Annotation.DECISION)
        assert label_of(item) == "fox"
        item.refresh_from_db()
        assert item.state == Item.State.LABELLED


def test_a_split_is_a_decision_about_each_image_and_takes_it_out_of_the_groups_of_the_old_class(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, answer: Answer
) -> None:
    for item in items[:4]:
        answer(bob, item, cat)
    done = give(project, alice, f"class:{cat.pk}", items[:2], name="lynx")
    assert done.given == 2
    assert [label_of(item) for item in items[:4]] == ["lynx", "lynx", "cat", "cat"]
    assert queries.current_annotation(items[0], bob).value == {"class": cat.pk}  # type: ignore[union-attr]
    assert set(queries.groupable_items(project, f"class:{cat.pk}")) == set(items[2:4])
    assert Job.objects.filter(kind=Job.Kind.REFIT).exists()
    counts = {each.name: n for each, n in queries.class_balance(project)}
    assert (counts["cat"], counts["lynx"]) == (2, 2)


def test_a_class_cannot_be_split_into_itself(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, answer: Answer
) -> None:
    answer(bob, items[0], cat)
    with pytest.raises(Conflict, match="of the class cat already"):
        give(project, alice, f"class:{cat.pk}", items[:1], name="Cat")


def test_random_checks_of_a_class_that_is_split_are_asked_again_blind_and_answered_again_by_undo(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    checks = [make_item(project, 70 + at, Split.AUDIT) for at in range(3)]
    for check, label_class in zip(checks, (cat, cat, dog), strict=True):
        answer(bob, check, label_class)
    answer(bob, items[0], cat)
    assert set(assigning.answered_checks(project, cat)) == set(checks[:2])
    done = give(project, alice, f"class:{cat.pk}", items[:1], name="lynx", ask_checks_again=True)
    assert done.asked_again == 2
    assert [Item.objects.get(pk=check.pk).state for check in checks] == ["open", "open", "labelled"]
    answer(bob, checks[0], dog)
    assigning.take_assignment_back(project=project, actor=alice, event_id=done.event_id)
    assert [label_of(check) for check in checks] == ["dog", "cat", "dog"], "what was answered anew stays"


def test_what_was_promised_of_a_class_ends_when_it_is_split(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, model: ModelVersion, answer: Answer
) -> None:
    answer(bob, items[0], cat)
    look = Look.objects.create(
        project=project, number=1, planned=1, model_version=model, answers=600, target=0.99, confidence=0.95,
        spent=0.01, delta=0.01,
    )  # fmt: skip
    promise = Certificate.objects.create(
        look=look, project=project, threshold=0.9, n=2, k=2, rest=100, answered=0, bound=0.99, target=0.99,
        confidence=0.95, delta=0.01, accepted_at=timezone.now(),
    )  # fmt: skip
    unseen = Proposal.objects.create(
        project=project, item=items[1], model_version=model, value={"class": cat.pk}, label_class=cat,
        confidence=0.99, certificate=promise, state=Proposal.State.AUTO_ACCEPTED,
    )  # fmt: skip
    give(project, alice, f"class:{cat.pk}", items[:1], name="lynx")
    promise.refresh_from_db()
    unseen.refresh_from_db()
    assert (promise.ended_why, unseen.state) == ("the class cat was split", Proposal.State.PENDING)


# --- undo ---------------------------------------------------------------------------------------------------


def test_one_screenful_is_taken_back_as_one_act(
    project: Project, alice: User, bob: User, items: list[Item], cat: LabelClass, answer: Answer
) -> None:
    for item in items[:3]:
        answer(bob, item, cat)
    answer(alice, items[3], cat)
    done = give(project, alice, f"class:{cat.pk}", items[:4], name="lynx")
    assert [label_of(item) for item in items[:4]] == ["lynx"] * 4
    assert assigning.take_assignment_back(project=project, actor=alice, event_id=done.event_id) == 4
    assert [label_of(item) for item in items[:4]] == ["cat"] * 4
    assert project.classes.get(name="lynx").is_archived, "it was made for this, and nothing names it"
    with pytest.raises(Conflict, match="taken back already"):
        assigning.take_assignment_back(project=project, actor=alice, event_id=done.event_id)


def test_taken_back_after_a_merge_and_but_for_what_was_changed_since(
    project: Project, alice: User, items: list[Item], cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    done = give(project, alice, "open", items[:3], name="lynx")
    answer(alice, items[2], dog)
    merging.merge_classes(project=project, actor=alice, source_id=done.label_class.pk, target_id=cat.pk)
    assert assigning.take_assignment_back(project=project, actor=alice, event_id=done.event_id) == 2
    assert [label_of(item) for item in items[:3]] == [None, None, "dog"]
    assert [Item.objects.get(pk=item.pk).state for item in items[:3]] == ["open", "open", "labelled"]


def test_somebody_elses_screenful_is_theirs_or_an_owners_to_take_back(
    project: Project, alice: User, bob: User, carol: User, items: list[Item], cat: LabelClass
) -> None:
    done = give(project, bob, "open", items[:1], class_id=cat.pk)
    with pytest.raises(NotAllowed):
        assigning.take_assignment_back(project=project, actor=carol, event_id=done.event_id)
    with pytest.raises(NotFound):
        assigning.take_assignment_back(project=project, actor=bob, event_id=10**9)
    assigning.take_assignment_back(project=project, actor=alice, event_id=done.event_id, is_owner=True)
    assert queries.current_annotation(items[0], bob).kind == "retraction"  # type: ignore[union-attr]
    assert AuditEvent.objects.filter(actor=alice, verb=assigning.TAKEN_BACK).exists()


def test_the_persons_own_undo_on_the_label_page_takes_back_one_of_them(
    project: Project, bob: User, items: list[Item], cat: LabelClass
) -> None:
    from annotator.actions import labeling

    give(project, bob, "open", items[:2], class_id=cat.pk)
    undone = labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert undone is not None
    assert undone.item == items[1]
    assert label_of(items[0]) == "cat"
