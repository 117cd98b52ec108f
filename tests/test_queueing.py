"""Who is asked what, and who holds it."""

import random
import threading
import uuid as uuids
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from annotator import queries
from annotator.actions import labeling, queueing, reviewing
from annotator.errors import LeaseLost
from annotator.models import Annotation, Item, LabelClass, Project, Proposal, QueueEntry, Split
from tests.cast import make_item


def test_items_are_reserved_in_rank_order(project: Project, items: list[Item], bob: User) -> None:
    held = queueing.reserve_items(project=project, annotator=bob, count=3)
    assert [entry.item for entry in held] == items[:3]


def test_a_reserved_item_is_not_served_twice(project: Project, items: list[Item], bob: User, carol: User) -> None:
    bobs = queueing.reserve_items(project=project, annotator=bob, count=5)
    carols = queueing.reserve_items(project=project, annotator=carol, count=5)
    assert not {entry.item_id for entry in bobs} & {entry.item_id for entry in carols}


def test_reserving_again_renews_and_takes_nothing_more(project: Project, items: list[Item], bob: User) -> None:
    first = queueing.reserve_items(project=project, annotator=bob, count=5)
    QueueEntry.objects.filter(leased_by=bob).update(leased_until=timezone.now() + timedelta(seconds=1))
    again = queueing.reserve_items(project=project, annotator=bob, count=5)
    assert [entry.pk for entry in first] == [entry.pk for entry in again]
    assert all(entry.leased_until > timezone.now() + timedelta(seconds=200) for entry in again)


def test_an_expired_lease_goes_to_the_next_person(project: Project, items: list[Item], bob: User, carol: User) -> None:
    queueing.reserve_items(project=project, annotator=bob, count=2)
    QueueEntry.objects.filter(leased_by=bob).update(leased_until=timezone.now() - timedelta(seconds=1))
    carols = queueing.reserve_items(project=project, annotator=carol, count=2)
    assert [entry.item for entry in carols] == items[:2]
    assert not queries.held_entries(project, bob).exists()


@pytest.mark.django_db(transaction=True)
def test_many_people_at_once_never_share_an_item(project: Project, alice: User, bob: User, carol: User) -> None:
    made = [make_item(project, seed) for seed in range(40)]
    queueing.fill_queue(project=project, entries=[queueing.Ranked(item.pk, 0.0, "random") for item in made])
    people = [alice, bob, carol, *(User.objects.create_user(f"guest{n}") for n in range(5))]
    held: dict[int, list[int]] = {}
    barrier = threading.Barrier(len(people))

    def reserve(user: User) -> None:
        barrier.wait()
        held[user.pk] = [e.item_id for e in queueing.reserve_items(project=project, annotator=user, count=5)]
        connection.close()

    threads = [threading.Thread(target=reserve, args=[user]) for user in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [item_id for mine in held.values() for item_id in mine]
    assert len(everything) == 40
    assert len(set(everything)) == 40


@pytest.mark.django_db(transaction=True)
def test_people_answer_while_rankings_are_written(project: Project, alice: User, bob: User, carol: User) -> None:
    # Bob works in two windows. Each ranking is short, so that it runs out and people top it up at the same time.
    everything = [make_item(project, seed).pk for seed in range(120)]
    target = LabelClass.objects.filter(project=project).first()
    assert target is not None
    failures: list[Exception] = []
    done = threading.Event()

    def answer(user: User) -> None:
        held: list[QueueEntry] = []
        while Item.objects.filter(project=project, state=Item.State.OPEN).exists() and not failures:
            if not held:
                held = queueing.reserve_items(project=project, annotator=user, count=3)
                continue
            try:
                _, held = labeling.submit_and_reserve(
                    project=project,
                    annotator=user,
                    item_id=held[0].item_id,
                    uuid=uuids.uuid4(),
                    kind="label",
                    raw_value=target.pk,
                    count=3,
                )
            except LeaseLost:
                held = []

    def rank() -> None:
        shuffle = random.Random(0)
        while not done.is_set():
            some = shuffle.sample(everything, 8)
            queueing.fill_queue(project=project, entries=[queueing.Ranked(pk, 0.0, "random") for pk in some])

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the test is to name it
            failures.append(error)
        finally:
            connection.close()

    ranking = threading.Thread(target=guarded, args=[rank])
    people = [threading.Thread(target=guarded, args=[partial(answer, user)]) for user in (alice, bob, bob, carol)]
    for thread in [ranking, *people]:
        thread.start()
    for thread in people:
        thread.join()
    done.set()
    ranking.join()
    assert failures == []
    assert Item.objects.filter(project=project, state=Item.State.LABELLED).count() == len(everything)
    assert not QueueEntry.objects.filter(project=project, item__state=Item.State.LABELLED).exists()


def test_a_new_ranking_keeps_what_people_hold(project: Project, items: list[Item], bob: User) -> None:
    held = queueing.reserve_items(project=project, annotator=bob, count=3)
    backwards = [queueing.Ranked(item.pk, 1.0, "close_call", {"classes": []}) for item in reversed(items)]
    queueing.fill_queue(project=project, entries=backwards)
    assert [entry.pk for entry in queries.held_entries(project, bob)] == [entry.pk for entry in held]
    free = QueueEntry.objects.filter(project=project, leased_by__isnull=True)
    assert [entry.item for entry in free] == list(reversed(items[3:]))


def test_what_is_held_longest_comes_first_however_often_the_queue_is_ranked_anew(
    project: Project, bob: User, cat: LabelClass
) -> None:
    project.settings_json = dict.fromkeys(
        ("audit_share", "baseline_share", "second_opinion_share", "suspect_share", "automatic_share"), 0.0
    )
    project.save()
    made = [make_item(project, seed) for seed in range(20)]
    ranking = [queueing.Ranked(item.pk, 0.0, "random") for item in made]
    queueing.fill_queue(project=project, entries=ranking)
    held = queueing.reserve_items(project=project, annotator=bob)
    handed_out = [each.item_id for each in held]
    for count in range(1, 11):
        queueing.fill_queue(project=project, entries=[each for each in ranking if each.item_id not in handed_out])
        _, held = labeling.submit_and_reserve(
            project=project,
            annotator=bob,
            item_id=held[0].item_id,
            uuid=uuids.uuid4(),
            kind="label",
            raw_value=cat.pk,
        )
        handed_out.append(held[-1].item_id)
        assert [each.item_id for each in held] == handed_out[count:]


def test_a_check_that_is_held_waits_behind_no_fresh_question(
    project: Project, items: list[Item], bob: User, cat: LabelClass
) -> None:
    check = make_item(project, 100, split=Split.AUDIT)
    QueueEntry.objects.create(
        project=project, item=check, rank=40, reason_code="audit", leased_by=bob, leased_until=queueing.lease_end()
    )
    assert queueing.reserve_items(project=project, annotator=bob)[0].item == check


def test_a_new_ranking_leaves_out_what_was_answered_meanwhile(
    project: Project, items: list[Item], bob: User, cat: LabelClass, answer: Any
) -> None:
    ranking = [queueing.Ranked(item.pk, 1.0, "random") for item in items]
    answer(bob, items[0], cat)
    queueing.fill_queue(project=project, entries=ranking)
    assert not QueueEntry.objects.filter(item=items[0]).exists()
    assert QueueEntry.objects.count() == len(items) - 1


def test_an_empty_queue_is_refilled_at_random_with_checks_at_their_share(project: Project, bob: User) -> None:
    pool = {make_item(project, seed).pk for seed in range(40)}
    audit = {make_item(project, 100 + seed, split=Split.AUDIT).pk for seed in range(10)}
    held = queueing.reserve_items(project=project, annotator=bob, count=50)
    assert {entry.item_id for entry in held} == pool | audit
    checks = {entry.item_id for entry in held if entry.reason_code == "audit"}
    assert checks == audit
    assert {entry.reason_code for entry in held} == {"audit", "random", "baseline"}


def test_test_images_are_never_queued(project: Project, bob: User) -> None:
    make_item(project, 1, split=Split.TEST)
    assert queueing.reserve_items(project=project, annotator=bob) == []


def test_the_audit_reason_gives_no_hint(project: Project, bob: User) -> None:
    item = make_item(project, 1, split=Split.AUDIT)
    entry = QueueEntry(item=item, project=project, reason_code="audit", reason_data={"classes": [[1, 0.9], [2, 0.1]]})
    project.settings_json = {"show_suggestions": True}
    assert queries.suggestion(entry, project) is None
    assert not queries.shows_hint(entry, project)


@pytest.mark.parametrize(
    ("code", "reason_data", "sentence", "is_hint"),
    [
        ("unsure", {"classes": [[1, 0.384], [2, 0.3]]}, "Unsure: cat is likeliest, at 38\xa0%", True),
        ("scarce", {"class": 2}, "Looking for more of dog, which has the fewest answers", True),
        ("disputed", {}, "Disputed: the answers so far can be read in different ways", False),
        ("unlike", {}, "Unlike anything labelled so far", False),
    ],
)
def test_a_reason_is_a_sentence(
    project: Project, code: str, reason_data: dict[str, Any], sentence: str, is_hint: bool
) -> None:
    item = make_item(project, 1)
    entry = QueueEntry.objects.create(item=item, project=project, rank=0, reason_code=code, reason_data=reason_data)
    assert queries.reason_text(entry, {1: "cat", 2: "dog"}) == sentence
    assert queries.shows_hint(entry, project) == is_hint
    assert queries.phase(project)


def test_skipped_items_come_back_when_asked_for(project: Project, items: list[Item], bob: User, answer: Any) -> None:
    answer(bob, items[0])
    assert queueing.return_skipped(project=project) == 1
    items[0].refresh_from_db()
    assert items[0].state == Item.State.OPEN
    assert QueueEntry.objects.filter(item=items[0]).exists()


def test_a_returned_skip_is_taken_back_in_the_name_of_whoever_skipped(
    project: Project, items: list[Item], bob: User, carol: User, cat: LabelClass, answer: Any
) -> None:
    skips = [answer(bob, items[0]), answer(carol, items[0]), answer(carol, items[1])]
    label = answer(bob, items[2], cat)
    assert queueing.return_skipped(project=project) == 2
    retractions = Annotation.objects.filter(kind=Annotation.Kind.RETRACTION).order_by("supersedes")
    assert [(each.supersedes, each.annotator) for each in retractions] == [(skip, skip.annotator) for skip in skips]
    for item in items:
        item.refresh_from_db()
        assert item.state == labeling.state_of(queries.current_annotations(item))
    assert Item.objects.exclude(state=Item.State.OPEN).get() == items[2]
    # What was returned is no answer any more: undo goes on to the one before.
    undone = labeling.undo_last(project=project, annotator=bob, uuid=uuids.uuid4())
    assert undone is not None
    assert undone.item_id == label.item_id
    assert labeling.undo_last(project=project, annotator=carol, uuid=uuids.uuid4()) is None


def test_a_returned_item_stays_open_when_its_proposal_is_rejected(
    project: Project, proposals: list[Proposal], bob: User, carol: User, answer: Any
) -> None:
    item = proposals[0].item
    answer(bob, item)
    queueing.return_skipped(project=project)
    # The proposal was withdrawn by the skip; a grid that is still open may decide it nevertheless.
    reviewing.decide(project=project, reviewer=carol, rejected=[proposals[0].pk])
    item.refresh_from_db()
    assert item.state == Item.State.OPEN


def test_an_item_answered_while_the_queue_is_topped_up_is_not_queued(
    project: Project, bob: User, cat: LabelClass, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_item(project, seed) for seed in range(3)]
    draw = queueing._random_pool_items

    def draw_and_answer(project: Project, count: int) -> list[int]:
        drawn = draw(project, count)
        answer(bob, made[0], cat)
        return drawn

    monkeypatch.setattr(queueing, "_random_pool_items", draw_and_answer)
    assert queueing.refill_queue(project=project, count=3) == 2
    assert not QueueEntry.objects.filter(item=made[0]).exists()
