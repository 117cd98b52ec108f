"""Certification rounds: what they promise holds, whatever their owner does; from the panel to labels that count."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.test import Client

from annotator import queries
from annotator.actions import certifying, exporting, proposing, queueing, round_checks, rounds
from annotator.actions.gate import gate_of, given_back
from annotator.errors import Conflict, InvalidSettings, NotFound
from annotator.models import (
    Annotation,
    Certificate,
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
)
from ml_worker import certifying_rounds, gate, refitting
from ml_worker import rounds as theory
from ml_worker.rounds import Evidence, Stage, checks_needed, error_for, plan, propose, prospects, standing
from tests.test_api import Caller
from tests.test_certifying import POOL, Rigged, rigged, shown

__all__ = ["rigged"]

PROJECTS, DELTA = 400, 0.05
# 5 % plus three standard deviations of a rate seen in so many projects.
ALLOWED = DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / PROJECTS)


# --- the arithmetic ----------------------------------------------------------------------------------------------


def test_the_checks_needed_are_those_of_counting_all_samples() -> None:
    # Ten items, half of the unchecked ones must be right. After four right checks 3 of 6 may be wrong, so 4 errors
    # must be ruled out: four draws miss all of them in 15 of 210 samples. After three: 4 among 7, missed in 20 of 120.
    assert checks_needed(10, 0.5, 0.1) == 4
    assert checks_needed(10, 0.5, 15 / 210 - 1e-9) is None  # after five 3 among 5, missed in 21 of 252
    assert checks_needed(10, 0.5, 0.167) == 3


@pytest.mark.parametrize("size", [40, 333, 1000, 5412])
@pytest.mark.parametrize("target", [0.8, 0.93, 0.99])
def test_a_stage_passes_with_the_errors_it_allows_and_not_with_one_more(size: int, target: float) -> None:
    for stage in plan(size, target, 0.02):
        rest = size - stage.at
        assert gate.open_bound(stage.at - stage.errors, stage.at, rest, 0, stage.delta) >= target
        assert gate.open_bound(stage.at - stage.errors - 1, stage.at, rest, 0, stage.delta) < target
        assert stage.at <= size // 2


def test_the_stages_of_a_round_share_its_error() -> None:
    stages = plan(50_000, 0.99, 0.025)
    assert len(stages) == theory.ERRORS_AT_MOST + 1
    assert sum(stage.delta for stage in stages) == pytest.approx(0.025)
    assert [stage.at for stage in stages] == sorted({stage.at for stage in stages})
    # With a single stage, and all of 5 %, the counts of the tables for an endless pool, less what was checked.
    assert plan(10**7, 0.99, 0.05, 0)[0].at == 299
    assert plan(100, 0.99, 0.025) == ()


def test_all_rounds_and_all_looks_come_to_no_more_than_the_error() -> None:
    spent: list[float] = []
    least = 1.0
    for confidence in (0.95, 0.95, 0.9, 0.95, 0.8, 0.9):
        least = min(least, confidence)
        for _ in range(4):
            spent.append(error_for(spent, confidence))
        assert sum(spent) <= (1 - gate.LOOKS) * (1 - least) + 1e-12
    assert error_for(spent, 0.95) == 0
    spent = []
    while part := error_for(spent, 0.95):
        spent.append(part)
    assert len(spent) > 5
    assert sum(spent) + gate.LOOKS * 0.05 <= 0.05


STAGES = (Stage(4, 0, 0.05), Stage(6, 1, 0.05))


def said(text: str) -> np.ndarray:
    return np.array([{"+": 1, "-": 0, ".": -1}[each] for each in text], np.int8)


def test_a_stage_waits_for_the_first_of_the_draw_whoever_answers_first() -> None:
    # Five of six are answered, but the second is not: nothing is judged.
    now = standing(STAGES, said("+.++++"), 20, 14, 0.5)
    assert (now.stage, now.is_met, now.is_lost, now.missing, now.answered) == (None, False, False, 1, 5)
    # Four right ones rule out 10 errors in 20 (210 of 4845 samples miss them all), not 9 (330 of 4845).
    now = standing(STAGES, said("++++.."), 20, 14, 0.5)
    assert now.stage == STAGES[0]
    assert (now.is_met, now.rest, now.others, now.bound) == (False, 16, 0, pytest.approx(7 / 16))
    # Six would rule out 7 (1716 of 38760), not 6 (3003 of 38760): 8 of 14.
    assert now.upcoming == STAGES[1]
    assert standing(STAGES, said("++++.."), 20, 14, 7 / 16).is_met
    assert standing(STAGES, said("++++.."), 20, 14, 0.58).is_lost


def test_what_people_answered_otherwise_is_taken_for_right() -> None:
    now = standing(STAGES, said("++++.."), 20, 6, 0.2)
    assert (now.rest, now.others) == (8, 8)
    assert now.bound == 0.0  # all ten errors may be among the eight


def test_a_round_ends_as_soon_as_its_target_is_out_of_reach() -> None:
    stages = plan(1000, 0.9, 0.05, 2)
    n = stages[-1].at
    assert not standing(stages, said("--" + "." * (n - 2)), 1000, 1000 - n, 0.9).is_lost
    # Wherever in the draw the errors are: in the last stage's part they hurt the last stage alone.
    assert standing(stages, said("---" + "." * (n - 3)), 1000, 1000 - n, 0.9).is_lost
    assert not standing(stages, said("." * (n - 3) + "---"), 1000, 1000 - n, 0.9).is_lost
    # A target that is lowered meanwhile is held against the same answers.
    assert standing(stages, said("---" + "+" * (n - 3)), 1000, 1000 - n, 0.85).is_met


def broken(rule: Callable[[np.random.Generator, np.ndarray], bool | None]) -> float:
    """The share of projects whose owner starts a round whenever one failed, up to ten, each about another region of
    400 of which 41 are wrong, and gets a promise of 90 % that does not hold."""
    count = 0
    for seed in range(PROJECTS):
        rng = np.random.default_rng(seed)
        count += bool(rule(rng, np.arange(400) >= 41))
    return count / PROJECTS


def by_rounds(rng: np.random.Generator, right: np.ndarray, picked: int = 0) -> bool:
    spent: list[float] = []
    for _ in range(10):
        spent.append(error_for(spent, 1 - DELTA))
        stages = plan(400, 0.9, spent[-1])
        order = rng.permutation(400)
        n = stages[-1].at
        rest_right = np.flatnonzero(right[order[n:]])[:picked]
        for stage in stages:
            answers = np.full(n, -1, np.int8)
            answers[: stage.at] = right[order[: stage.at]]
            now = standing(stages, answers, 400, 400 - n - len(rest_right), 0.9)
            if now.is_met:
                is_open = np.ones(400, bool)
                is_open[: stage.at] = False
                is_open[n + rest_right] = False
                return bool(right[order][is_open].mean() < 0.9)
    return False


def rechecked(rng: np.random.Generator, right: np.ndarray) -> bool:
    """The usual bound after every answer, anew in every round."""
    for _ in range(10):
        order = rng.permutation(400)
        wrong = np.cumsum(~right[order])
        for n in range(29, 200):
            if n >= gate.audits_needed(0.9, DELTA, int(wrong[n - 1])):
                return bool(right[order[n:]].mean() < 0.9)
    return False


def without_others(rng: np.random.Generator, right: np.ndarray) -> bool:
    """A single stage with all of the error, while a reviewer takes right images out, and none of that is counted."""
    for _ in range(10):
        (stage,) = plan(400, 0.9, DELTA, 0)
        order = rng.permutation(400)
        if gate.rest_bound(int(right[order[: stage.at]].sum()), stage.at, 400 - stage.at, DELTA) >= 0.9:
            rest = np.sort(right[order[stage.at :]])[:200]
            return bool(rest.mean() < 0.9)
    return False


@pytest.mark.parametrize(("wrong", "picked"), [(34, 0), (18, 180)])
def test_who_starts_round_after_round_is_told_the_truth(wrong: int, picked: int) -> None:
    assert broken(lambda rng, _: by_rounds(rng, np.arange(400) >= wrong, picked)) <= ALLOWED


@pytest.mark.parametrize("rule", [rechecked, without_others])
def test_without_shared_errors_and_planned_stages_they_would_not_be(rule: Any) -> None:
    assert broken(rule) > 2 * ALLOWED


def test_promises_are_not_merely_withheld() -> None:
    rng, met = np.random.default_rng(0), 0
    stages = plan(4000, 0.95, error_for([], 1 - DELTA))
    for _ in range(50):
        right = rng.random(4000) > 0.01
        n = stages[-1].at
        met += any(
            standing(
                stages[: place + 1], right[: stages[place].at].astype(np.int8), 4000, 4000 - stages[place].at, 0.95
            ).is_met
            for place in range(len(stages))
        )
        assert n < 600
    assert met >= 45


# --- which region -------------------------------------------------------------------------------------------------


def test_chances_are_those_of_the_beta_distribution() -> None:
    # One check that must be right, nothing known: the mean of a beta(1, 0.25), 0.8.
    assert prospects((Stage(1, 0, 0.1),), 0, 0)[0] == pytest.approx(1.0 / 1.25, abs=0.01)
    chance, checks = prospects((Stage(1, 0, 0.1), Stage(3, 1, 0.1)), 0, 0)
    assert chance > 0.8
    assert 1 < checks < 3


def evidence(n: int, wrong_from: float) -> Evidence:
    """n answers, spread evenly; those below the surest share are wrong."""
    places = (np.arange(n) + 0.5) / n
    return Evidence(places, places < wrong_from)


def test_the_region_reaches_as_far_down_as_the_answers_allow() -> None:
    confidence = np.linspace(0, 1, 20_000, dtype=np.float32)
    everything = np.ones(20_000, bool)
    wide = propose(confidence, everything, [evidence(200, 0.9)], 0.95, 0.02)
    narrow = propose(confidence, everything, [evidence(200, 0.25)], 0.95, 0.02)
    assert wide is not None and narrow is not None
    assert len(wide.rows) == pytest.approx(theory.WIDEST * 20_000, abs=2)
    assert 0.15 < narrow.share <= 0.3
    assert wide.chance > 0.5
    assert propose(confidence, everything, [evidence(200, 0.0)], 0.95, 0.02) is None
    assert propose(confidence[:50], everything[:50], [], 0.99, 0.02) is None
    assert propose(confidence[:0], everything[:0], [], 0.99, 0.02) is None


def test_a_region_leaves_out_what_may_not_be_asked_and_follows_what_a_round_showed() -> None:
    confidence = np.linspace(0, 1, 20_000, dtype=np.float32)
    free = np.arange(20_000) < 12_000
    region = propose(confidence, free, [evidence(200, 1.0)], 0.95, 0.02)
    assert region is not None
    assert region.rows.max() < 12_000
    # A round among the surest half found errors in all but the surest tenth.
    found = Evidence(np.linspace(0, 0.5, 100), np.linspace(0, 0.5, 100) < 0.12, reach=0.5)
    after = propose(confidence, np.ones(20_000, bool), [evidence(40, 1.0), found], 0.95, 0.02)
    assert after is not None
    assert after.share <= 0.15


# --- from the panel to labels that count --------------------------------------------------------------------------


@pytest.fixture
def offered(rigged: Rigged) -> Rigged:
    """A project whose newest model proposes a region of half of its pool. No look can be due."""
    rigged.choose(target_precision=0.9)
    rigged.check(rigged.checks[:12])
    rigged.take_stock()
    assert not Look.objects.exists()
    return rigged


def offer(rigged: Rigged) -> rounds.Offer:
    found, why = rounds.offer(rigged.project)
    assert found is not None, why
    return found


def start(rigged: Rigged, count: int | None = None) -> Round:
    return rounds.start_round(project=rigged.project, actor=rigged.alice, count=count)


def answer_due(rigged: Rigged, wrong: int = 0, at_most: int = 1000) -> list[int]:
    """Alice answers the checks that are due, the first so many of them wrongly; which these were."""
    due = round_checks.checks_due(rigged.project, at_most)
    queueing.fill_queue(project=rigged.project, entries=[queueing.Ranked(pk, 0.0, "automatic") for pk in due])
    items = {item.pk: item for item in rigged.items}
    for place, pk in enumerate(due):
        right = rigged.class_of(items[pk])
        other = rigged.cat if right == rigged.dog else rigged.dog
        rigged.answer(items[pk], other if place < wrong else right)
    return due


def test_a_round_without_an_error_lets_its_images_through(offered: Rigged) -> None:
    told = offer(offered)
    drawn = start(offered)
    assert drawn.size == told.size == POOL // 2
    assert drawn.stages[0][0] == told.cost[0]
    surest = sorted(offered.pool, key=offered.place)[: drawn.size]
    checks = list(drawn.checks.values_list("item_id", flat=True))
    assert len(set(checks)) == told.at_most
    assert set(checks) <= {item.pk for item in surest}
    assert checks != sorted(checks)
    due = answer_due(offered)
    assert due == checks[: told.cost[0]]  # no more than the first stage waits for
    assert round_checks.are_answered(offered.project)
    assert Job.objects.filter(kind="refit", state="queued").exists()
    offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state == Round.State.CERTIFIED
    certificate = drawn.certificate
    assert (certificate.n, certificate.errors, certificate.look) == (len(due), 0, None)
    assert certificate.bound >= 0.9
    unseen = Proposal.objects.filter(state="auto_accepted")
    assert set(unseen.values_list("item_id", flat=True)) == {item.pk for item in surest} - set(due)
    assert certificate.rest == len(unseen)
    assert {each.certificate_id for each in unseen} == {certificate.pk}
    assert {each.model_version_id for each in unseen} == {offered.model.pk}
    # An answer to a check is a label like any other.
    taken, _ = offered.taken()
    learnt = set(taken.embedded.item_ids[taken.train.rows].tolist())
    assert set(due) <= learnt
    assert not learnt & set(unseen.values_list("item_id", flat=True))


def test_with_an_error_it_goes_on_to_the_next_stage_and_with_too_many_it_ends(offered: Rigged) -> None:
    offered.choose(target_precision=0.8)
    offered.take_stock()
    drawn = start(offered)
    assert len(drawn.stages) > 2
    first = answer_due(offered, wrong=1)
    offered.take_stock()
    now = round_checks.progress(offered.project)
    assert now is not None
    assert (now.answered, now.errors, now.next_at) == (len(first), 1, drawn.stages[1][0])
    assert not Certificate.objects.exists()
    too_many = drawn.stages[-1][1]
    answer_due(offered, wrong=too_many)
    offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state == Round.State.FAILED
    assert f"{1 + too_many} of" in drawn.ended_why and "80\xa0% is out of its reach" in drawn.ended_why
    assert offered.accepted() == 0
    # The next one has less error to spend, and its region knows what this one found.
    told, _ = rounds.offer(offered.project)
    assert told is None or told.spent == pytest.approx(drawn.spent / 3)


def test_more_checks_than_asked_for_are_not_drawn(offered: Rigged) -> None:
    told = offer(offered)
    for count in (0, told.at_least - 1, told.at_most + 1):
        with pytest.raises(InvalidSettings, match="is not between"):
            start(offered, count)
    drawn = start(offered, told.at_least)
    assert drawn.checks.count() == told.at_least
    assert len(drawn.stages) == 1


def test_its_images_are_neither_asked_nor_proposed_meanwhile(offered: Rigged) -> None:
    waiting = [proposing.Predicted(item.pk, offered.class_of(item).pk, 0.9, []) for item in offered.pool]
    proposing.store_proposals(project=offered.project, model_version=offered.model, predictions=waiting)
    queueing.fill_queue(project=offered.project, entries=[queueing.Ranked(i.pk, 0.0, "random") for i in offered.pool])
    drawn = start(offered)
    region = set(certifying_rounds.region_of(drawn).tolist())
    assert len(region) == drawn.size
    pending = Proposal.objects.filter(state="pending")
    assert set(pending.values_list("item_id", flat=True)) == {item.pk for item in offered.pool} - region
    assert not QueueEntry.objects.filter(item__in=region).exists()
    taken, learned = offered.taken()
    asked = certifying_rounds.without_round(offered.project, taken)
    assert not region & set(asked.embedded.item_ids[asked.open_rows].tolist())
    refitting.put_up(offered.project, taken, learned, offered.model, {})
    assert not QueueEntry.objects.filter(item__in=region).exclude(reason_code="automatic").exists()
    # A job that knew nothing of the round proposes none of its checks.
    proposing.store_proposals(project=offered.project, model_version=offered.model, predictions=waiting)
    assert not pending.filter(item__in=drawn.checks.values("item")).exists()
    assert gate_of(offered.project).checking == drawn.size
    # They come back with it.
    rounds.cancel_round(project=offered.project, actor=offered.alice, round_id=drawn.pk)
    proposing.store_proposals(project=offered.project, model_version=offered.model, predictions=waiting)
    assert pending.filter(item__in=region).count() == len(region)


def test_an_empty_queue_is_not_refilled_from_a_round_while_there_is_anything_else(offered: Rigged) -> None:
    drawn = start(offered)
    region = set(certifying_rounds.region_of(drawn).tolist())
    others = {item.pk for item in offered.pool} - region
    QueueEntry.objects.all().delete()
    asked = set()
    while len(asked) < len(others):
        queueing.refill_queue(project=offered.project, count=7)
        asked |= set(QueueEntry.objects.values_list("item_id", flat=True))
        assert not asked & region
    queueing.refill_queue(project=offered.project, count=7)
    assert set(QueueEntry.objects.values_list("item_id", flat=True)) & region


def test_a_new_model_changes_nothing_in_a_round(offered: Rigged) -> None:
    drawn = start(offered)
    before = dict(drawn.checks.values_list("item_id", "predicted_id"))
    # The next model says the contrary of everything.
    offered.cat, offered.dog = offered.dog, offered.cat
    offered.take_stock()
    offered.cat, offered.dog = offered.dog, offered.cat
    assert dict(drawn.checks.values_list("item_id", "predicted_id")) == before
    answer_due(offered)
    offered.take_stock()
    proposal = Proposal.objects.filter(state="auto_accepted").select_related("item").first()
    assert proposal is not None
    assert proposal.label_class == offered.class_of(proposal.item)


def test_only_a_blind_answer_speaks_for_the_model(offered: Rigged) -> None:
    drawn = start(offered)
    first, second, third, fourth = (check for check in drawn.checks.select_related("item")[:4])
    for check, shown_it in ((first, False), (second, True)):
        Annotation.objects.create(
            uuid=uuid.uuid4(), project=offered.project, item=check.item, annotator=offered.alice, kind="label",
            value={"class": check.predicted_id}, suggestion_shown=shown_it,
        )  # fmt: skip
    offered.answer(third.item, offered.cat, kind="skip")
    said = round_checks.said_in_order(drawn)
    assert said[:4] == [round_checks.RIGHT, round_checks.WRONG, round_checks.WRONG, round_checks.UNANSWERED]
    # An answer changed later is the one that counts.
    wrong = offered.cat if first.predicted_id == offered.dog.pk else offered.dog
    offered.answer(first.item, wrong)
    assert round_checks.said_in_order(drawn)[0] == round_checks.WRONG
    assert fourth.item_id in round_checks.checks_due(offered.project, 1000)


def test_what_was_answered_before_the_draw_is_not_in_it(offered: Rigged, bob: User) -> None:
    surest = sorted(offered.pool, key=offered.place)
    offered.answer(surest[0], offered.class_of(surest[0]))
    QueueEntry.objects.all().delete()
    queueing.fill_queue(project=offered.project, entries=[queueing.Ranked(surest[1].pk, 0.0, "close_call")])
    QueueEntry.objects.update(leased_by=bob, leased_until=queueing.lease_end())
    drawn = start(offered)
    region = set(certifying_rounds.region_of(drawn).tolist())
    assert drawn.size == len(region) == POOL // 2 - 2
    assert not region & {surest[0].pk, surest[1].pk}


def test_a_round_can_be_cancelled_and_what_it_spent_is_gone(offered: Rigged) -> None:
    first = start(offered)
    with pytest.raises(Conflict, match="a round is running"):
        start(offered)
    rounds.cancel_round(project=offered.project, actor=offered.alice, round_id=first.pk)
    with pytest.raises(Conflict, match="over already"):
        rounds.cancel_round(project=offered.project, actor=offered.alice, round_id=first.pk)
    with pytest.raises(NotFound):
        rounds.cancel_round(project=offered.project, actor=offered.alice, round_id=first.pk + 1)
    with pytest.raises(Conflict, match="a look or a round has come in between"):
        start(offered)
    offered.take_stock()
    assert offer(offered).spent == pytest.approx(first.spent / 3)
    assert not certifying_rounds.region_of(first).size


def test_a_target_lowered_meanwhile_is_met_by_the_same_checks(offered: Rigged) -> None:
    drawn = start(offered)
    answer_due(offered, wrong=2)
    offered.choose(target_precision=0.7)
    offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state == Round.State.CERTIFIED
    assert (drawn.certificate.target, drawn.certificate.errors) == (0.7, 2)


def test_more_certainty_than_it_was_drawn_for_ends_it(offered: Rigged) -> None:
    drawn = start(offered)
    offered.choose(certificate_confidence=0.95)
    offered.take_stock()
    drawn.refresh_from_db()
    assert (drawn.state, drawn.ended_why[:33]) == (Round.State.FAILED, "the settings ask for 95\xa0% certain")
    assert offered.accepted() == 0


def test_other_settings_wait_for_another_offer(offered: Rigged) -> None:
    offered.choose(target_precision=0.85)
    assert rounds.offer(offered.project) == (
        None,
        "the settings have changed; the next model proposes a region for them",
    )
    offered.take_stock()
    assert offer(offered).target == 0.85


def test_images_that_come_later_are_not_promised(offered: Rigged) -> None:
    drawn = start(offered)
    later = offered.pool[0]
    new = Item.objects.create(
        project=offered.project, sha256="f" * 64, storage_key="x", thumbnail_key="x", width=8, height=8, size_bytes=1,
        mime="image/png", source_name="4000", split=Split.POOL, import_job=later.import_job,
    )  # fmt: skip
    answer_due(offered)
    offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state == Round.State.CERTIFIED
    assert not Proposal.objects.filter(item=new).exists()


def test_one_class_at_a_time_where_each_has_its_own_threshold(offered: Rigged) -> None:
    offered.choose(threshold_per_class=True, target_precision=0.8)
    offered.take_stock()
    told = offer(offered)
    assert told.class_id in (offered.cat.pk, offered.dog.pk)
    drawn = start(offered)
    assert set(drawn.checks.values_list("predicted_id", flat=True)) == {told.class_id}
    answer_due(offered)
    offered.take_stock()
    assert set(Proposal.objects.filter(state="auto_accepted").values_list("label_class", flat=True)) == {told.class_id}


def test_the_queue_hands_its_checks_out_in_the_order_drawn_and_blind(offered: Rigged, bob: User) -> None:
    others = dict.fromkeys(("audit_share", "baseline_share", "second_opinion_share", "suspect_share"), 0.0)
    offered.choose(automatic_share=1.0, show_suggestions=True, **others)
    offered.take_stock()
    drawn = start(offered)
    order = list(drawn.checks.values_list("item_id", flat=True))
    held = queueing.reserve_items(project=offered.project, annotator=offered.alice, count=3)
    bobs = queueing.reserve_items(project=offered.project, annotator=bob, count=2)
    assert {entry.item_id for entry in held} == set(order[:3])
    assert {entry.item_id for entry in bobs} == set(order[3:5])
    assert {entry.reason_code for entry in held + bobs} == {"automatic"}
    assert not any(queries.shows_hint(entry, offered.project) for entry in held)
    offered.answer(held[0].item, offered.class_of(held[0].item))
    assert round_checks.said_in_order(drawn).count(round_checks.RIGHT) == 1
    rounds.cancel_round(project=offered.project, actor=offered.alice, round_id=drawn.pk)
    asked = queueing.reserve_items(project=offered.project, annotator=bob, count=20)
    assert {entry.item_id for entry in asked if entry.reason_code == "automatic"} == {entry.item_id for entry in bobs}


# --- and back -----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(offered: Rigged) -> Rigged:
    """With labels accepted under a round."""
    start(offered)
    answer_due(offered)
    offered.take_stock()
    assert offered.accepted()
    return offered


def test_checks_that_turn_out_wrong_break_the_promise(opened: Rigged) -> None:
    count, certificate = opened.accepted(), opened.certificate
    opened.take_stock()
    certificate.refresh_from_db()
    assert certificate.ended_at is None
    items = {item.pk: item for item in opened.items}
    for pk in list(certificate.checks)[:3]:
        right = opened.class_of(items[int(pk)])
        opened.answer(items[int(pk)], opened.cat if right == opened.dog else opened.dog)
    opened.take_stock()
    certificate.refresh_from_db()
    assert certificate.ended_at is not None
    assert "3 of" in certificate.ended_why
    assert opened.accepted() == 0
    back = given_back(opened.project)
    assert back is not None and back.count == count


def test_a_look_and_a_round_never_speak_of_the_same_image(opened: Rigged) -> None:
    mine = set(Proposal.objects.filter(state="auto_accepted").values_list("item_id", flat=True))
    opened.choose(target_precision=0.5)
    opened.check(opened.checks[12:])
    opened.take_stock()
    look = Look.objects.latest("number")
    assert look.certificates.exists()
    theirs = set(Proposal.objects.filter(certificate__look=look).values_list("item_id", flat=True))
    assert theirs and not theirs & mine
    round_certificate = Certificate.objects.get(look=None)
    assert round_certificate.ended_at is None
    kept = Proposal.objects.filter(certificate=round_certificate, state="auto_accepted")
    assert set(kept.values_list("item_id", flat=True)) == mine


def test_another_round_follows_for_what_is_left(opened: Rigged) -> None:
    opened.choose(target_precision=0.6)
    opened.take_stock()
    before = set(Proposal.objects.filter(state="auto_accepted").values_list("item_id", flat=True))
    second = start(opened)
    assert second.number == 2
    assert not set(certifying_rounds.region_of(second).tolist()) & before
    answer_due(opened)
    opened.take_stock()
    second.refresh_from_db()
    assert second.state == Round.State.CERTIFIED
    assert Certificate.objects.filter(ended_at=None).count() == 2
    assert before < set(Proposal.objects.filter(state="auto_accepted").values_list("item_id", flat=True))


def test_switched_off_and_on_again_the_labels_return(opened: Rigged) -> None:
    count = opened.accepted()
    opened.choose(auto_accept=False)
    assert opened.accepted() == 0
    opened.choose(auto_accept=True)
    opened.take_stock()
    assert opened.accepted() == count


def test_killed_between_the_promise_and_its_labels_the_next_model_accepts_them(
    offered: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = start(offered)
    answer_due(offered)

    def killed(**_: Any) -> int:
        raise SystemExit

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(certifying, "accept", killed)
        offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state == Round.State.CERTIFIED
    assert offered.accepted() == 0
    offered.take_stock()
    assert offered.accepted() == drawn.certificate.rest


def test_random_checks_are_not_drawn_from_the_checks_of_a_round(offered: Rigged) -> None:
    drawn = start(offered)
    certifying.draw_checks(project=offered.project, actor=offered.alice, count=80)
    assert set(drawn.checks.values_list("item__split", flat=True)) == {Split.POOL}
    # The region's other images that became random checks were chosen by chance: nobody answered them otherwise.
    answer_due(offered)
    offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state == Round.State.CERTIFIED
    assert drawn.certificate.answered == 0


def test_an_answer_while_the_round_is_judged_wins(offered: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = start(offered)
    answer_due(offered)
    late = next(item for item in offered.pool if item.pk in set(certifying_rounds.region_of(drawn).tolist()) - set(
        drawn.checks.values_list("item_id", flat=True)
    ))  # fmt: skip
    judge = theory.standing

    def meanwhile(*arguments: Any) -> theory.Standing:
        offered.answer(late, offered.dog if offered.class_of(late) == offered.cat else offered.cat)
        return judge(*arguments)

    monkeypatch.setattr(certifying_rounds.rounds, "standing", meanwhile)
    offered.take_stock()
    assert offered.accepted() == drawn.size - drawn.stages[0][0] - 1
    assert not Proposal.objects.filter(item=late, state="auto_accepted").exists()


def test_a_round_whose_file_is_gone_ends_in_words(offered: Rigged) -> None:
    drawn = start(offered)
    rounds.round_file(drawn).unlink()
    offered.take_stock()
    drawn.refresh_from_db()
    assert (drawn.state, offered.accepted()) == (Round.State.FAILED, 0)
    assert "gone from the disk" in drawn.ended_why


def test_the_database_refuses_two_running_rounds_and_an_end_without_words(offered: Rigged) -> None:
    drawn = start(offered)
    columns = {each.attname: getattr(drawn, each.attname) for each in Round._meta.concrete_fields}
    with pytest.raises(IntegrityError, match="one_running_round_per_project"), transaction.atomic():
        Round.objects.create(**columns | {"id": None, "number": 2})
    with pytest.raises(IntegrityError, match="a_round_that_ended_says_when_and_why"), transaction.atomic():
        Round.objects.filter(pk=drawn.pk).update(state="failed")


# --- the page and the programs ------------------------------------------------------------------------------------

Login = Callable[[User], Client]


def test_the_panel_tells_the_cost_before_and_the_progress_after(offered: Rigged, login: Login, vera: User) -> None:
    address = f"/projects/{offered.project.pk}/"
    told = offer(offered)
    page = shown(login(offered.alice), f"{address}?about=worth")
    assert f"<strong>{told.size} images</strong> the model is surest of" in page
    assert f"<strong>{told.cost[0]} checks without an error</strong>" in page
    assert f"would let {told.let_through} images through at 90 %" in page
    assert "Start a round of checks" not in shown(login(vera), f"{address}?about=worth")
    alices = login(offered.alice)
    for wrong in ("many", "1", "100000"):
        refused = alices.post(f"{address}rounds/", {"count": wrong})
        assert refused.status_code == 422
        assert "Nothing was changed" in refused.text
    assert alices.post(f"{address}rounds/", {"count": told.at_most}).status_code == 303
    assert alices.post(f"{address}rounds/", {"count": told.at_most}).status_code == 409
    answer_due(offered, at_most=5)
    page = shown(alices, f"{address}?about=worth")
    assert f"<strong>5 of about {told.cost[0]} checks</strong>, no error so far" in page
    assert f'In the running round <span class="number">{told.size - 5}</span>' in page
    drawn = Round.objects.get()
    assert alices.post(f"{address}rounds/{drawn.pk}/cancel/").status_code == 303
    assert alices.post(f"{address}rounds/{drawn.pk}/cancel/").status_code == 409


def test_the_panel_says_how_many_answers_a_round_takes(offered: Rigged, login: Login) -> None:
    address = f"/projects/{offered.project.pk}/"
    page = shown(login(offered.alice), f"{address}?about=worth")
    cost = 2 * offer(offered).cost[0]  # half of the answers
    said = f"While it runs 50 % of the answers go to its checks, so it takes some <strong>{cost} answers</strong>"
    assert 0 < page.find(said) < page.index("Start a round of checks")
    others = {"audit_share": 1.0, "baseline_share": 0.0, "second_opinion_share": 0.0, "suspect_share": 0.0}
    offered.choose(**others, automatic_share=0.0)
    assert "nobody is asked them until <a" in shown(login(offered.alice), f"{address}?about=worth")


def why_none(rigged: Rigged) -> str:
    rigged.take_stock()
    found, why = rounds.offer(rigged.project)
    assert found is None
    return why


def test_without_an_offer_the_cause_is_named(rigged: Rigged) -> None:
    rigged.choose(target_precision=0.9)
    rigged.check(rigged.checks[:2])
    # As if nothing were known beforehand of how right a model is where it is surest.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(theory, "PRIOR", (1.0, 1.0))
        assert why_none(rigged).startswith("too few checks so far")
        assert why_none(rigged).endswith(": 2 random checks are answered")
    for item in rigged.checks[2:14]:
        rigged.check([item], kind="none_of_these")
    assert why_none(rigged).startswith("too many of the random checks so far are wrong")
    rigged.choose(target_precision=0.97)
    assert why_none(rigged).startswith("too few images are open")


def test_the_panel_says_why_a_round_ended_and_what_would_help(offered: Rigged, login: Login) -> None:
    drawn = start(offered)
    answer_due(offered, wrong=drawn.stages[-1][1] + 1)
    offered.take_stock()
    page = shown(login(offered.alice), f"/projects/{offered.project.pk}/?about=worth")
    assert "Round 1 ended without a promise" in page
    assert "or a lower target" in page


def test_what_a_round_let_through_is_seen_everywhere(opened: Rigged, login: Login, carol: User) -> None:
    certificate = opened.certificate
    page = shown(login(opened.alice), f"/projects/{opened.project.pk}/?about=worth")
    said = f"of the {certificate.rest} images of round 1, which the model was surest of, are right: 0 errors in"
    assert said in page
    review = shown(login(carol), f"/projects/{opened.project.pk}/review/?show=unseen")
    assert "data-proposal" in review and said in review
    proposal = Proposal.objects.filter(state="auto_accepted").first()
    assert proposal is not None
    row = next(row for item, row in exporting._rows(opened.project) if item.pk == proposal.item_id)
    assert row.certificate.startswith(f"{certificate.pk}: at least 90 % right with 80 % certainty")
    assert row.certificate.endswith("in round 1")


def test_programs_start_follow_and_cancel_rounds(offered: Rigged, vera: User) -> None:
    caller = Caller(offered.alice, offered.project)
    told = caller.get("gate/").json()
    assert told["round"] is None
    assert told["offer"]["cost"] == offer(offered).cost
    assert caller.post("rounds/", {"count": 1}).status_code == 422
    assert caller.post("rounds/", {"count": "x"}).status_code == 422
    started = caller.post("rounds/", {})
    assert started.status_code == 201
    made = started.json()
    assert (made["number"], made["state"], made["size"], made["class"]) == (1, "running", POOL // 2, None)
    answer_due(offered, wrong=1, at_most=4)
    now = caller.get("gate/").json()
    assert (now["round"]["answered"], now["round"]["wrong"], now["offer"]) == (4, 1, None)
    assert now["accepted"] + now["review"] + now["asking"] + now["checking"] == POOL - 4
    assert caller.post("rounds/", {}).status_code == 409
    assert Caller(vera, offered.project).get("rounds/").json()["results"][0]["id"] == made["id"]
    assert caller.post(f"rounds/{made['id']}/cancel/", {}).json()["state"] == "cancelled"
    assert caller.post(f"rounds/{made['id']}/cancel/", {}).status_code == 409
    assert caller.post("rounds/99999/cancel/", {}).status_code == 404


def test_the_certificate_of_a_round_has_its_shape(opened: Rigged) -> None:
    listed = Caller(opened.alice, opened.project).get("certificates/").json()["results"]
    assert [(each["look"], each["round"], each["model"]) for each in listed] == [(None, 1, 1)]


# --- at once ------------------------------------------------------------------------------------------------------


@pytest.fixture
def committed(transactional_db: None, request: pytest.FixtureRequest) -> Iterator[Rigged]:
    """As `offered`, for threads that see each other's rows."""
    yield request.getfixturevalue("offered")


@pytest.mark.slow
def test_two_owners_who_start_at_once_start_one_round(committed: Rigged) -> None:
    def begin(_: int) -> str:
        try:
            rounds.start_round(project=Project.objects.get(pk=committed.project.pk), actor=committed.alice)
            return "started"
        except Conflict as error:
            return error.message
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(begin, range(2)))
    assert outcomes == ["no round can start: a round is running", "started"]
    assert Round.objects.count() == 1
    assert RoundCheck.objects.count() == Round.objects.get().stages[-1][0]


def test_a_model_that_is_being_made_gives_no_offer_of_yesterday(offered: Rigged, model: ModelVersion) -> None:
    newer = {each.attname: getattr(model, each.attname) for each in ModelVersion._meta.concrete_fields}
    newer |= {"id": None, "number": 2, "metrics": ModelVersion.objects.get(pk=model.pk).metrics}
    ModelVersion.objects.create(**newer)
    with pytest.raises(Conflict, match="a new model is just being made"):
        start(offered)


def test_an_archived_class_is_not_in_a_round(offered: Rigged) -> None:
    LabelClass.objects.filter(pk=offered.dog.pk).update(is_archived=True)
    drawn = start(offered)
    assert set(drawn.checks.values_list("predicted_id", flat=True)) == {offered.cat.pk}
    assert drawn.size == POOL // 4


def test_a_region_that_people_have_answered_meanwhile_is_too_small(offered: Rigged) -> None:
    for item in sorted(offered.pool, key=offered.place)[:60]:
        offered.answer(item, offered.class_of(item))
    with pytest.raises(Conflict, match="only 40 of the 100 images are still open"):
        start(offered)
