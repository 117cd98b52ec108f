"""What questions are for: the share of each need, and what follows from an answer to an image that had one."""

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from annotator import queries
from annotator.actions import exporting, labeling, needs, queueing, shares
from annotator.errors import InvalidSettings, LeaseLost
from annotator.models import (
    Annotation,
    Certificate,
    Item,
    LabelClass,
    Look,
    ModelVersion,
    Project,
    ProjectSettings,
    Proposal,
    QueueEntry,
    Split,
    Suspect,
)
from ml_worker import certifying as worker
from ml_worker import snapshot
from tests.cast import make_item

Answer = Callable[..., Annotation]
Reason = QueueEntry.Reason
NONE = dict.fromkeys(
    ("audit_share", "baseline_share", "second_opinion_share", "suspect_share", "automatic_share"), 0.0
)


def only(project: Project, **wanted: float) -> None:
    """Leave these shares and none beside them."""
    project.settings_json = NONE | wanted
    project.save()


def bare_items(project: Project, count: int, split: str = Split.POOL) -> list[Item]:
    """Images whose bytes nobody will ask for."""
    first = Item.objects.count()
    return Item.objects.bulk_create(
        Item(
            project=project,
            sha256=f"{first + number:064}",
            storage_key="x",
            thumbnail_key="x",
            width=8,
            height=8,
            size_bytes=1,
            mime="image/png",
            source_name=str(first + number),
            split=split,
        )
        for number in range(count)
    )


def give(project: Project, who: User, entry: QueueEntry, label_class: LabelClass | None, count: int = 5) -> Any:
    """Answer what is held and be handed the next; without a class it is skipped."""
    return labeling.submit_and_reserve(
        project=project,
        annotator=who,
        item_id=entry.item_id,
        uuid=uuid.uuid4(),
        kind="label" if label_class else "skip",
        raw_value=label_class.pk if label_class else None,
        count=count,
    )


def next_for(project: Project, who: User, reason: str) -> QueueEntry | None:
    """What this person is handed for one need, whatever is due."""
    desk = needs.Desk(project, who, shares.newest_answers(project), queueing.lease_end(), 0)
    needs.take(desk, reason)
    return queries.held_entries(project, who).filter(reason_code=reason).first()


def held_for(project: Project, who: User, reason: str) -> QueueEntry:
    entry = next_for(project, who, reason)
    assert entry is not None
    return entry


def suspect(annotation: Annotation, score: float = 0.9, doubt: str = "mislabelled") -> Suspect:
    return Suspect.objects.create(
        project_id=annotation.project_id, item_id=annotation.item_id, annotation=annotation, doubt=doubt, score=score
    )


def rows(project: Project) -> dict[int, dict[str, Any]]:
    """Every row of an export by item."""
    return {row.item_id: row.as_json() for _, row in exporting._rows(project)}


# --- shares ---


def test_an_account_by_hand() -> None:
    # Half of the answers, alone at the desk: 0.5 ahead is due at once; one answer to it leaves 0.5 - 1 + 0.5 = 0.
    half = {"audit": 0.5}
    assert shares.Ledger(half, [], [], 1).due() == ["audit"]
    assert shares.Ledger(half, ["audit"], [], 1).due() == []
    # An informative answer pays 0.5 in again: (199 / 200) * -0.5 + 0.5 + 0.5 ahead = 0.5025.
    assert shares.Ledger(half, ["audit", "random"], [], 1).due() == ["audit"]
    # Somebody else holds one: that counts 0.6, but two people are 1.0 ahead: 0.4.
    assert shares.Ledger(half, [], [("audit", 2)], 1).due() == []


def test_a_need_that_had_nothing_to_ask_is_not_owed_all_it_missed() -> None:
    ledger = shares.Ledger({"audit": 0.2}, ["random"] * 600, [], 1)
    asked = 0
    while ledger.due():
        ledger.hand_out("audit")
        asked += 1
    assert asked <= shares.MOST_OWED + 1


def windows(answers: list[str], share: dict[str, float]) -> dict[str, float]:
    """By need: how far the worst of all 200 answers in a row was from its share, in answers."""
    worst = dict.fromkeys(share, 0.0)
    for start in range(len(answers) - shares.WINDOW + 1):
        seen = Counter(answers[start : start + shares.WINDOW])
        for need, part in share.items():
            worst[need] = max(worst[need], round(abs(seen[need] - part * shares.WINDOW), 6))
    return worst


@pytest.mark.parametrize("rates", [[1], [1, 1, 1], [1, 2, 3], [1, 5, 20]])
def test_two_hundred_answers_in_a_row_hold_the_shares_however_fast_each_person_is(rates: list[int]) -> None:
    """The accounts alone, without a database: people answer in turns drawn by their speed, the due ones first."""
    share = shares.shares(ProjectSettings())
    chance = random.Random(1)
    desks: list[list[str]] = [[] for _ in rates]
    answers: list[str] = []

    def hand_out(who: int) -> None:
        held = [(reason, person) for person, desk in enumerate(desks) for reason in desk]
        due = shares.Ledger(share, answers[-shares.NEWEST :], held, who).due()
        desks[who].insert(0, due[0]) if due else desks[who].append("random")

    for who in range(len(rates)):
        for _ in range(5):
            hand_out(who)
    while len(answers) < 1000:
        who = chance.choices(range(len(rates)), rates)[0]
        answers.append(desks[who].pop(0))
        hand_out(who)
    assert max(windows(answers[:200], share).values()) <= 1
    assert max(windows(answers, share).values()) <= (1 if len(rates) == 1 else 2)


@pytest.mark.django_db(transaction=True)
def test_three_people_at_once_and_a_ranking_every_ten_answers_keep_the_shares(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass
) -> None:
    only(project, audit_share=0.2, baseline_share=0.1, second_opinion_share=0.1)
    pool = bare_items(project, 600)
    bare_items(project, 100, Split.AUDIT)
    for item in pool[:80]:  # somebody else labelled these: there is enough to give a second opinion on
        labeling.record_annotation(
            project=project, annotator=alice, item_id=item.pk, uuid=uuid.uuid4(), kind="label", raw_value=cat.pk
        )
    before = Annotation.objects.latest("pk").pk
    failures: list[Exception] = []

    def given() -> int:
        return Annotation.objects.filter(pk__gt=before).count()

    def label(user: User, seed: int) -> None:
        chance = random.Random(seed)
        held: list[QueueEntry] = []
        try:
            while given() < 200:
                held = held or queueing.reserve_items(project=project, annotator=user)
                threading.Event().wait(chance.random() / 100)
                if not held:  # the ranking is just being written
                    continue
                _, held = give(project, user, held[0], cat)
        except Exception as error:  # whatever it is, the test is to name it
            failures.append(error)
        finally:
            connection.close()

    def rank() -> None:
        done = -1
        while (now := given()) < 200 and not failures:
            if now // 10 != done:
                done = now // 10
                ranking = [queueing.Ranked(each.pk, 0.0, "close_call", {"classes": []}) for each in pool[80:]]
                queueing.fill_queue(project=project, entries=ranking[:200])
        connection.close()

    threads = [threading.Thread(target=label, args=each) for each in ((alice, 1), (bob, 2), (carol, 3))]
    threads.append(threading.Thread(target=rank))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    answers = list(Annotation.objects.filter(pk__gt=before).order_by("pk").values_list("reason_code", flat=True)[:200])
    served = Counter(answers)
    wanted = {Reason.AUDIT: 40, Reason.BASELINE: 20, Reason.SECOND_OPINION: 20}
    assert {need: served[need] for need in wanted if abs(served[need] - wanted[need]) > 1} == {}
    twice = Annotation.objects.values_list("item_id", "annotator_id")
    assert len(twice) == len(set(twice))


def test_what_a_dry_need_leaves_is_informative(project: Project, bob: User, cat: LabelClass) -> None:
    only(project, audit_share=0.2, second_opinion_share=0.3, suspect_share=0.3)
    bare_items(project, 60)
    bare_items(project, 20, Split.AUDIT)
    held = queueing.reserve_items(project=project, annotator=bob)
    for _ in range(50):
        _, held = give(project, bob, held[0], cat)
    served = Counter(Annotation.objects.values_list("reason_code", flat=True))
    assert set(served) == {"audit", "random"}
    assert abs(served["audit"] - 10) <= 1


def test_what_is_due_comes_before_what_is_held(project: Project, bob: User, cat: LabelClass) -> None:
    only(project, baseline_share=0.5)
    bare_items(project, 20)
    held = queueing.reserve_items(project=project, annotator=bob)
    _, following = give(project, bob, next(each for each in held if each.reason_code == "random"), cat)
    fresh = {each.item_id for each in following} - {each.item_id for each in held}
    if following[0].item_id in fresh:
        assert following[0].reason_code == "baseline"
    assert Counter(each.reason_code for each in following)["baseline"] >= 2


def test_one_handing_out_takes_few_queries(
    project: Project, bob: User, carol: User, cat: LabelClass, answer: Answer, django_assert_max_num_queries: Any
) -> None:
    pool = bare_items(project, 60)
    queueing.start_queue(project=project)
    answer(carol, pool[0], cat)
    held = queueing.reserve_items(project=project, annotator=bob)
    QueueEntry.objects.filter(pk=held[0].pk).delete()
    with django_assert_max_num_queries(25):
        queueing.reserve_items(project=project, annotator=bob)


# --- settings ---


def test_shares_beyond_the_whole_are_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"come to 1\.1; together they are at most 1") as refused:
        ProjectSettings.clean(NONE | {"audit_share": 0.7, "suspect_share": 0.4})
    assert set(refused.value.fields) == {"audit_share"}


def test_a_project_from_before_keeps_the_share_its_owner_chose() -> None:
    settings = ProjectSettings.clean({"audit_share": 0.9})
    assert settings.audit_share == 0.9
    assert sum(shares.shares(settings).values()) == pytest.approx(1.0)
    assert ProjectSettings.clean({"audit_share": 1.0}).baseline_share == 0.0


# --- second opinions ---


def test_a_second_opinion_goes_to_somebody_else_and_blind(
    project: Project, bob: User, carol: User, cat: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    project.settings_json = {"show_suggestions": True}
    answer(bob, item, cat)
    assert next_for(project, bob, Reason.SECOND_OPINION) is None
    entry = held_for(project, carol, Reason.SECOND_OPINION)
    assert entry.item == item
    assert not queries.shows_hint(entry, project)
    assert queries.suggestion(entry, project) is None
    assert "cat" not in queries.reason_text(entry, {cat.pk: "cat"})


def test_only_what_one_person_labelled_waits_for_a_second_opinion(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, answer: Answer
) -> None:
    skipped, foreign, twice, test = (make_item(project, seed) for seed in range(4))
    answer(bob, skipped)
    answer(bob, foreign, kind="none_of_these")
    answer(bob, twice, cat)
    give(project, carol, held_for(project, carol, Reason.SECOND_OPINION), cat, count=0)
    answer(bob, test, cat)
    Item.objects.filter(pk=test.pk).update(split=Split.TEST)
    assert next_for(project, alice, Reason.SECOND_OPINION) is None


def test_nobody_is_asked_about_a_label_of_an_archived_class(
    project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    answer(bob, make_item(project), cat)
    item = make_item(project, 1)
    answer(bob, item, dog)
    LabelClass.objects.filter(pk=cat.pk).update(is_archived=True)  # whoever is asked now cannot choose it
    assert held_for(project, carol, Reason.SECOND_OPINION).item == item
    queueing.release_items(project=project, annotator=carol)
    LabelClass.objects.filter(pk=dog.pk).update(is_archived=True)
    assert next_for(project, carol, Reason.SECOND_OPINION) is None


@pytest.mark.parametrize("kind", ["label", "none_of_these"])
def test_an_answered_random_check_gets_a_second_opinion_too(
    project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer, kind: str
) -> None:
    check = make_item(project)
    Item.objects.filter(pk=check.pk).update(split=Split.AUDIT)
    held_for(project, bob, Reason.AUDIT)
    answer(bob, check, *([cat] if kind == "label" else []), kind=kind)
    give(project, carol, held_for(project, carol, Reason.SECOND_OPINION), dog, count=0)
    answers = worker.blind_answers(project)  # disputed: still there, and wrong whatever the model says
    assert (answers.class_ids.tolist(), answers.in_turn.tolist()) == ([worker.NO_CLASS], [True])


def test_labels_and_random_checks_are_drawn_alike_for_second_opinions(
    project: Project, bob: User, carol: User
) -> None:
    pool, checks = bare_items(project, 90), bare_items(project, 30, split=Split.AUDIT)
    random.seed(7)
    Item.objects.filter(project=project).update(state=Item.State.LABELLED)
    desk = needs.Desk(project, carol, [], queueing.lease_end(), 0)
    seen = Counter(needs._answered_nearby(desk)[0] for _ in range(400))
    assert set(seen) <= {item.pk for item in [*pool, *checks]}
    share = sum(seen[item.pk] for item in checks) / 400
    assert 0.15 < share < 0.35  # a quarter of all


def test_the_first_answer_to_a_disputed_check_measures_until_it_is_settled(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    item, check = make_item(project), make_item(project, 1)
    Item.objects.filter(pk=check.pk).update(split=Split.AUDIT)
    for each in (item, check):
        answer(bob, each, cat)
    for _ in range(2):
        give(project, carol, held_for(project, carol, Reason.SECOND_OPINION), dog, count=0)
    ids = np.array([item.pk, check.pk])
    embedded = snapshot.Embedded(Any, ids, np.array([0, 1], np.uint8))  # type: ignore[arg-type]
    classes = [cat.pk, dog.pk]
    said = snapshot._answers(project, embedded, classes)
    assert (len(said["pool"].rows), said["audit"].rows.tolist(), said["audit"].targets.tolist()) == (0, [1], [0])
    for _ in range(2):
        give(project, alice, held_for(project, alice, Reason.SECOND_OPINION), dog, count=0)
    assert snapshot._answers(project, embedded, classes)["audit"].targets.tolist() == [1]


def test_a_second_answer_is_refused_where_none_was_asked_for(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    answer(bob, item, cat)
    held_for(project, carol, Reason.SECOND_OPINION)
    with pytest.raises(LeaseLost, match="somebody else has it"):
        answer(alice, item, dog)
    queueing.release_items(project=project, annotator=carol)
    with pytest.raises(LeaseLost, match="answered this image meanwhile"):
        answer(alice, item, dog)
    assert Annotation.objects.count() == 1


def test_two_who_agree_are_a_consensus_and_nothing_doubles(
    project: Project, bob: User, carol: User, cat: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    answer(bob, item, cat)
    give(project, carol, held_for(project, carol, Reason.SECOND_OPINION), cat, count=0)
    row = rows(project)[item.pk]
    assert (row["label"], row["origin"], row["annotators"]) == ("cat", "consensus", ["bob", "carol"])
    assert exporting.row_counts(project) == {"consensus": 1}
    assert dict(queries.class_balance(project))[cat] == 1
    assert not QueueEntry.objects.filter(item=item).exists()


@pytest.fixture
def disputed(project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer) -> Item:
    """Bob says cat, Carol dog."""
    item = make_item(project)
    answer(bob, item, cat)
    give(project, carol, held_for(project, carol, Reason.SECOND_OPINION), dog, count=0)
    return item


def test_what_two_people_disagree_about_waits_for_a_third(
    project: Project, disputed: Item, alice: User, bob: User, carol: User, cat: LabelClass, dog: LabelClass
) -> None:
    assert rows(project)[disputed.pk]["origin"] == "disputed"
    assert {count for _, count in queries.class_balance(project)} == {0}
    queueing.fill_queue(project=project, entries=[])  # a new ranking does not forget it
    assert next_for(project, bob, Reason.SECOND_OPINION) is None
    assert next_for(project, carol, Reason.SECOND_OPINION) is None
    entry = held_for(project, alice, Reason.SECOND_OPINION)
    said = queries.reason_text(entry, {cat.pk: "cat", dog.pk: "dog"})
    assert said.startswith("Two people disagreed")
    assert "cat" not in said and "dog" not in said
    give(project, alice, entry, cat, count=0)
    row = rows(project)[disputed.pk]
    assert (row["label"], row["origin"], row["annotators"]) == ("cat", "consensus", ["bob", "alice"])
    assert dict(queries.class_balance(project)) == {cat: 1, dog: 0}
    assert not QueueEntry.objects.filter(item=disputed).exists()


def test_three_who_all_differ_leave_it_disputed(
    project: Project, disputed: Item, alice: User, cat: LabelClass
) -> None:
    entry = held_for(project, alice, Reason.SECOND_OPINION)
    labeling.record_annotation(
        project=project, annotator=alice, item_id=disputed.pk, uuid=uuid.uuid4(), kind="none_of_these"
    )
    waiting = QueueEntry.objects.get(item=disputed)
    assert (waiting.pk, waiting.reason_data, waiting.leased_by) == (entry.pk, {"people": 3}, None)
    assert queries.reason_text(waiting, {}).startswith("3 people disagreed")


def test_a_skip_settles_no_dispute_and_is_not_asked_again(project: Project, disputed: Item, alice: User) -> None:
    give(project, alice, held_for(project, alice, Reason.SECOND_OPINION), None, count=0)
    assert QueueEntry.objects.get(item=disputed).reason_data == {"people": 2}
    assert next_for(project, alice, Reason.SECOND_OPINION) is None


def test_undo_takes_back_a_second_opinion_and_asks_again(
    project: Project, disputed: Item, alice: User, carol: User, cat: LabelClass
) -> None:
    labeling.undo_last(project=project, annotator=carol, uuid=uuid.uuid4())
    assert rows(project)[disputed.pk]["origin"] == "human"
    held = queries.held_entries(project, carol).get()
    assert (held.item, held.reason_code) == (disputed, "second_opinion")
    give(project, carol, held, cat, count=0)
    assert rows(project)[disputed.pk]["origin"] == "consensus"


def test_undo_takes_an_image_from_nobody_who_looks_at_it(
    project: Project, disputed: Item, alice: User, carol: User
) -> None:
    held_for(project, alice, Reason.SECOND_OPINION)
    labeling.undo_last(project=project, annotator=carol, uuid=uuid.uuid4())
    assert not queries.held_entries(project, carol).exists()


def test_undoing_the_answer_that_settled_a_dispute_opens_it_again(
    project: Project, disputed: Item, alice: User, cat: LabelClass
) -> None:
    give(project, alice, held_for(project, alice, Reason.SECOND_OPINION), cat, count=0)
    labeling.undo_last(project=project, annotator=alice, uuid=uuid.uuid4())
    assert rows(project)[disputed.pk]["origin"] == "disputed"
    held = queries.held_entries(project, alice).get()
    assert held.reason_data == {"people": 2}
    disputed.refresh_from_db()
    assert disputed.state == labeling.state_of(queries.current_annotations(disputed)) == Item.State.LABELLED


@pytest.mark.parametrize(("split", "reason"), [(Split.POOL, Reason.RANDOM), (Split.AUDIT, Reason.AUDIT)])
def test_who_holds_a_dispute_is_told_of_it_only_while_there_is_one(
    project: Project, disputed: Item, alice: User, bob: User, carol: User, split: str, reason: str
) -> None:
    Item.objects.filter(pk=disputed.pk).update(split=split)
    assert held_for(project, alice, Reason.SECOND_OPINION).reason_data == {"people": 2}
    labeling.undo_last(project=project, annotator=carol, uuid=uuid.uuid4())
    held = queries.held_entries(project, alice).get()
    assert (held.reason_code, held.reason_data) == (Reason.SECOND_OPINION, {})
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    held = queries.held_entries(project, alice).get()
    assert (held.item, held.reason_code, held.reason_data) == (disputed, reason, {})


def test_a_dispute_that_all_three_take_back_leaves_an_ordinary_question(
    project: Project, disputed: Item, alice: User, bob: User, carol: User
) -> None:
    held_for(project, alice, Reason.SECOND_OPINION)
    labeling.record_annotation(
        project=project, annotator=alice, item_id=disputed.pk, uuid=uuid.uuid4(), kind="none_of_these"
    )
    for who in (bob, carol, alice):
        labeling.undo_last(project=project, annotator=who, uuid=uuid.uuid4())
    entry = QueueEntry.objects.get(item=disputed)
    assert (entry.reason_code, entry.reason_data) == (Reason.RANDOM, {})


# --- what was let go of ---


@pytest.mark.parametrize("how", ["let go", "ran out"])
def test_an_open_image_drawn_for_comparing_goes_to_somebody_else_once_let_go(
    project: Project, bob: User, carol: User, how: str
) -> None:
    only(project, baseline_share=1.0)
    item = make_item(project)
    assert [each.reason_code for each in queueing.reserve_items(project=project, annotator=bob)] == [Reason.BASELINE]
    only(project)
    if how == "let go":
        queueing.release_items(project=project, annotator=bob)
    else:
        QueueEntry.objects.update(leased_until=timezone.now())
    held = queueing.reserve_items(project=project, annotator=carol)
    assert [(each.item, each.reason_code) for each in held] == [(item, Reason.RANDOM)]


@pytest.mark.parametrize("reason", [Reason.SECOND_OPINION, Reason.SUSPECT])
def test_an_image_asked_again_whose_answer_was_taken_back_goes_to_somebody_else_once_let_go(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, answer: Answer, reason: str
) -> None:
    item = make_item(project)
    suspect(answer(bob, item, cat))
    held_for(project, carol, reason)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    queueing.release_items(project=project, annotator=carol)
    held = queueing.reserve_items(project=project, annotator=alice)
    assert [(each.item, each.reason_code) for each in held] == [(item, Reason.RANDOM)]


def test_an_automatic_label_that_counts_no_more_leaves_its_image_to_be_asked(
    project: Project, unseen: list[Proposal], bob: User, carol: User
) -> None:
    item = held_for(project, bob, Reason.AUTOMATIC).item
    queueing.release_items(project=project, annotator=bob)
    Proposal.objects.update(state=Proposal.State.PENDING)
    held = queueing.reserve_items(project=project, annotator=carol, count=len(unseen))
    assert {each.item_id for each in held} == {each.item_id for each in unseen}
    assert next(each for each in held if each.item == item).reason_code == Reason.RANDOM


# --- suspects ---


@pytest.mark.parametrize(
    ("says", "state", "origin"), [("cat", "confirmed", "consensus"), ("dog", "repaired", "human")]
)
def test_a_blind_check_settles_a_suspicion(
    project: Project, bob: User, carol: User, cat: LabelClass, answer: Answer, says: str, state: str, origin: str
) -> None:
    item = make_item(project)
    doubted = suspect(answer(bob, item, cat))
    entry = held_for(project, carol, Reason.SUSPECT)
    said = queries.reason_text(entry, {cat.pk: "cat"})
    assert said == "A second look at an image that was answered before; you answer it afresh"
    # Of a second opinion nothing else is said, so nobody learns which of the two it is.
    assert said == queries.reason_text(QueueEntry(reason_code=Reason.SECOND_OPINION), {})
    assert not queries.shows_hint(entry, project)
    check, _ = give(project, carol, entry, project.classes.get(name=says), count=0)
    doubted.refresh_from_db()
    assert (doubted.state, doubted.settled_by) == (state, check)
    assert doubted.settled_at is not None
    row = rows(project)[item.pk]
    assert (row["label"], row["origin"]) == (says, origin)
    assert dict(queries.class_balance(project))[project.classes.get(name=says)] == 1
    assert sum(count for _, count in queries.class_balance(project)) == 1
    assert not QueueEntry.objects.filter(item=item).exists()
    assert next_for(project, carol, Reason.SUSPECT) is None


def test_a_check_that_finds_none_of_the_classes_counts(
    project: Project, bob: User, carol: User, cat: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    doubted = suspect(answer(bob, item, cat), doubt="foreign")
    held_for(project, carol, Reason.SUSPECT)
    answer(carol, item, kind="none_of_these")
    doubted.refresh_from_db()
    item.refresh_from_db()
    assert (doubted.state, item.state) == ("repaired", Item.State.NONE_OF_THESE)
    assert rows(project)[item.pk]["origin"] == "none_of_these"
    assert {count for _, count in queries.class_balance(project)} == {0}


def test_a_second_opinion_breaks_no_tie_as_a_check_does(project: Project, disputed: Item) -> None:
    current = queries.current_annotations(disputed)
    assert queries.counted_answers(current) == current
    current[1].reason_code = Reason.SUSPECT
    assert queries.counted_answers(current) == current[1:]


def test_a_check_against_two_who_agree_leaves_their_label(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    doubted = suspect(answer(bob, item, cat))
    Suspect.objects.update(state="dropped")
    give(project, carol, held_for(project, carol, Reason.SECOND_OPINION), cat, count=0)
    Suspect.objects.update(state="open")
    give(project, alice, held_for(project, alice, Reason.SUSPECT), dog, count=0)
    doubted.refresh_from_db()
    assert doubted.state == "confirmed"
    assert rows(project)[item.pk]["label"] == "cat"


def test_a_skip_leaves_a_suspicion_to_somebody_else(
    project: Project, alice: User, bob: User, carol: User, cat: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    doubted = suspect(answer(bob, item, cat))
    give(project, carol, held_for(project, carol, Reason.SUSPECT), None, count=0)
    doubted.refresh_from_db()
    item.refresh_from_db()
    assert (doubted.state, item.state) == ("open", Item.State.LABELLED)
    assert next_for(project, carol, Reason.SUSPECT) is None
    assert held_for(project, alice, Reason.SUSPECT).item == item


def test_the_worst_suspicion_comes_first(
    project: Project, bob: User, carol: User, cat: LabelClass, answer: Answer
) -> None:
    made = [make_item(project, seed) for seed in range(3)]
    for item, score in zip(made, (0.5, 0.9, 0.7), strict=True):
        suspect(answer(bob, item, cat), score)
    assert held_for(project, carol, Reason.SUSPECT).item == made[1]


def test_ones_own_answer_is_checked_only_alone_and_after_others(
    project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    made = bare_items(project, 40)
    queueing.start_queue(project=project)
    doubted = suspect(answer(bob, made[0], cat))
    assert next_for(project, bob, Reason.SUSPECT) is None
    for item in made[1 : needs.ANSWERS_BETWEEN + 1]:
        answer(bob, item, cat)
    entry = held_for(project, bob, Reason.SUSPECT)
    assert entry.item == made[0]
    check, _ = give(project, bob, entry, dog, count=0)
    doubted.refresh_from_db()
    assert (doubted.state, doubted.settled_by) == ("repaired", check)
    assert rows(project)[made[0].pk]["label"] == "dog"
    # Taken back, the first answer stands again, and the suspicion with it.
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    doubted.refresh_from_db()
    assert (doubted.state, doubted.settled_by, doubted.settled_at) == ("open", None, None)
    assert doubted.annotation == queries.current_annotation(made[0], bob)
    assert queries.held_entries(project, bob).get().item == made[0]
    queueing.release_items(project=project, annotator=bob)
    answer(carol, made[-1], cat)  # now there is somebody else to ask
    assert next_for(project, bob, Reason.SUSPECT) is None


def test_undoing_a_check_reopens_the_suspicion_and_asks_again(
    project: Project, bob: User, carol: User, cat: LabelClass, dog: LabelClass, answer: Answer
) -> None:
    item = make_item(project)
    doubted = suspect(answer(bob, item, cat))
    give(project, carol, held_for(project, carol, Reason.SUSPECT), dog, count=0)
    labeling.undo_last(project=project, annotator=carol, uuid=uuid.uuid4())
    doubted.refresh_from_db()
    assert (doubted.state, doubted.settled_by, doubted.settled_at) == ("open", None, None)
    assert rows(project)[item.pk]["label"] == "cat"
    give(project, carol, queries.held_entries(project, carol).get(), cat, count=0)
    doubted.refresh_from_db()
    assert doubted.state == "confirmed"


@pytest.mark.parametrize("how", ["second thought", "undo"])
def test_an_answer_its_author_replaced_is_not_suspected_any_more(
    project: Project, bob: User, cat: LabelClass, dog: LabelClass, answer: Answer, how: str
) -> None:
    item = make_item(project)
    doubted = suspect(answer(bob, item, cat))
    if how == "undo":
        labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    else:
        answer(bob, item, dog)
    doubted.refresh_from_db()
    assert doubted.state == "dropped"


# --- automatic labels ---


@pytest.fixture
def unseen(project: Project, model: ModelVersion, cat: LabelClass) -> list[Proposal]:
    """Forty cats, accepted unseen under a certificate for 90 %."""
    only(project, automatic_share=0.5)
    project.settings_json |= {"auto_accept": True, "target_precision": 0.9}
    project.save()
    look = Look.objects.create(
        project=project,
        number=1,
        planned=1,
        model_version=model,
        answers=300,
        target=0.9,
        confidence=0.95,
        spent=0.01,
        delta=0.01,
    )
    certificate = Certificate.objects.create(
        look=look,
        project=project,
        threshold=0.9,
        n=300,
        k=300,
        rest=40,
        answered=0,
        bound=0.99,
        target=0.9,
        confidence=0.95,
        delta=0.01,
        accepted_at=timezone.now(),
    )
    accepted = {"state": "auto_accepted", "certificate": certificate, "model_version": model, "confidence": 0.99}
    return Proposal.objects.bulk_create(
        Proposal(project=project, item=item, value={"class": cat.pk}, label_class=cat, **accepted)
        for item in bare_items(project, 40)
    )


def test_accepted_labels_are_checked_blind_and_asked_for_nothing_else(
    project: Project, unseen: list[Proposal], bob: User, dog: LabelClass
) -> None:
    assert next_for(project, bob, Reason.BASELINE) is None
    entry = held_for(project, bob, Reason.AUTOMATIC)
    assert not queries.shows_hint(entry, project)
    assert "cat" not in queries.reason_text(entry, {})
    give(project, bob, entry, dog, count=0)
    row = rows(project)[entry.item_id]
    assert (row["label"], row["origin"]) == ("dog", "human")


def test_undoing_a_check_lets_the_label_count_again(
    project: Project, unseen: list[Proposal], bob: User, dog: LabelClass
) -> None:
    entry = held_for(project, bob, Reason.AUTOMATIC)
    give(project, bob, entry, dog, count=0)
    labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert rows(project)[entry.item_id]["origin"] == "auto-accepted"
    assert queries.held_entries(project, bob).get().item_id == entry.item_id


@pytest.mark.parametrize(("wrong", "stands"), [(2, True), (3, False)])
def test_wrong_labels_among_those_checked_break_the_certificate(
    project: Project,
    unseen: list[Proposal],
    bob: User,
    cat: LabelClass,
    dog: LabelClass,
    wrong: int,
    stands: bool,
) -> None:
    # 95 % sure of at least 1 - 0.9 wrong among 8: two wrong show at least 4.6 %, three 11.1 % (Clopper-Pearson).
    for number in range(8):
        give(project, bob, held_for(project, bob, Reason.AUTOMATIC), dog if number < wrong else cat, count=0)
    certificate = unseen[0].certificate
    assert certificate is not None
    worker._hold_labels(certificate)
    certificate.refresh_from_db()
    assert (certificate.ended_at is None) is stands
    left = Counter(Proposal.objects.exclude(state="withdrawn").values_list("state", flat=True))
    assert left == ({"auto_accepted": 32} if stands else {"pending": 32})
    if not stands:
        assert "3 of 8 of its labels that people checked blind are wrong" in certificate.ended_why


def test_checks_that_were_taken_back_break_nothing(
    project: Project, unseen: list[Proposal], bob: User, dog: LabelClass
) -> None:
    for _ in range(4):
        give(project, bob, held_for(project, bob, Reason.AUTOMATIC), dog, count=0)
    for _ in range(4):
        labeling.undo_last(project=project, annotator=bob, uuid=uuid.uuid4())
    assert unseen[0].certificate is not None
    worker._hold_labels(unseen[0].certificate)
    assert Certificate.objects.get().ended_at is None


# --- pages ---


def test_the_dashboard_says_what_was_asked_for_and_what_was_served(
    project: Project, bob: User, alice: User, cat: LabelClass, login: Callable[[User], Client]
) -> None:
    only(project, audit_share=0.2, baseline_share=0.1)
    bare_items(project, 60)
    bare_items(project, 20, Split.AUDIT)
    held = queueing.reserve_items(project=project, annotator=bob)
    for _ in range(20):
        _, held = give(project, bob, held[0], cat)
    shown = login(alice).get(f"/projects/{project.pk}/?about=work").content.decode()
    panel = shown[shown.index('id="needs"') :].split("</section>")[0]
    by_title = {row.title: row for row in login(alice).get(f"/projects/{project.pk}/?about=work").context["needs"]}
    assert (by_title["Random checks"].share, by_title["Random checks"].served) == ("20\xa0%", "20.0\xa0%")
    assert by_title["Random images to compare with"].count == 2
    assert "last 20 answers" in panel
    assert "Switched off." in panel
    assert "Set the shares" in panel
    assert "Set the shares" not in login(bob).get(f"/projects/{project.pk}/?about=work").content.decode()


def test_the_dashboard_says_where_nobody_is_left_to_ask(
    project: Project, disputed: Item, alice: User, login: Callable[[User], Client]
) -> None:
    def lack() -> str:
        page = login(alice).get(f"/projects/{project.pk}/?about=work")
        return next(row.lack for row in page.context["needs"] if row.title == "Second opinions")

    assert lack() == "1 image is disputed and not learnt from."
    project.memberships.filter(user=alice).update(role="viewer")
    assert lack().endswith("Nobody else to ask about it: everybody who labels here has answered.")


def test_alone_there_is_nobody_to_ask_for_a_second_opinion(
    project: Project, alice: User, cat: LabelClass, answer: Answer, login: Callable[[User], Client]
) -> None:
    project.memberships.exclude(user=alice).delete()
    answer(alice, make_item(project), cat)
    page = login(alice).get(f"/projects/{project.pk}/?about=work").content.decode()
    assert "Nobody else to ask: it takes a second person who labels." in page


def test_the_settings_page_refuses_more_than_the_whole(
    project: Project, alice: User, login: Callable[[User], Client]
) -> None:
    page = login(alice).get(f"/projects/{project.pk}/settings/").content.decode()
    assert page.count("What questions are for") == 2  # for eyes and for screen readers
    posted = {"name": "Pets", "audit_share": "0.9", "baseline_share": "0.2", "seen": ""}
    refused = login(alice).post(f"/projects/{project.pk}/settings/", posted)
    assert refused.status_code == 422
    assert "The shares of 2 kinds of questions come to 1.1; together they are at most 1" in refused.content.decode()


def test_the_desk_goes_on_with_second_looks_once_nothing_is_open(
    project: Project, disputed: Item, alice: User, bob: User, login: Callable[[User], Client]
) -> None:
    assert b"Nothing left to ask" in login(bob).get(f"/projects/{project.pk}/label/").content
    assert b"Nothing left to ask" not in login(alice).get(f"/projects/{project.pk}/label/").content
    assert [each.item for each in queueing.reserve_items(project=project, annotator=alice)] == [disputed]
    assert b"Two people disagreed" in login(alice).get(f"/projects/{project.pk}/label/").content


def test_a_running_round_gets_half_of_the_answers_or_what_is_left() -> None:
    reasons = shares.Reason
    plain = ProjectSettings()
    assert shares.shares(plain)[reasons.AUTOMATIC] == 0.05
    assert shares.shares(plain, is_round_running=True)[reasons.AUTOMATIC] == 0.5
    crowded = ProjectSettings(audit_share=0.7)  # 0.7 and three times 0.05 leave 0.15
    assert shares.shares(crowded, is_round_running=True)[reasons.AUTOMATIC] == pytest.approx(0.15)
    eager = ProjectSettings(automatic_share=0.6)
    assert shares.shares(eager, is_round_running=True)[reasons.AUTOMATIC] == 0.6
