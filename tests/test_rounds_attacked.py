"""Certification rounds under attack: what holds when answers are undone, files are damaged and checks are drawn."""

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from annotator import queries
from annotator.actions import certifying, labeling, queueing, round_checks, rounds
from annotator.actions.gate import gate_of, given_back
from annotator.errors import Conflict
from annotator.models import Annotation, AuditEvent, Certificate, Item, Proposal, QueueEntry, Round, Split
from ml_worker import certifying as worker
from ml_worker import certifying_rounds, gate, refitting
from tests.test_certifying import Rigged, rigged
from tests.test_rounds import answer_due, offered, opened, start

__all__ = ["offered", "opened", "rigged"]


def item_of(rigged: Rigged, pk: int) -> Item:
    return next(item for item in rigged.items if item.pk == int(pk))


def answer_wrong(rigged: Rigged, item: Item) -> None:
    right = rigged.class_of(item)
    rigged.answer(item, rigged.cat if right == rigged.dog else rigged.dog)


# --- the target of now --------------------------------------------------------------------------------------------


def test_a_promise_is_held_against_the_target_of_now(opened: Rigged) -> None:
    certificate = opened.certificate
    assert certificate.bound > 0.9
    opened.choose(target_precision=certificate.bound)  # above what it was given for, and still shown
    opened.take_stock()
    assert opened.accepted() == certificate.rest
    # One error leaves it above its own target here, and below that of the settings.
    bound = certificate.bound - 1e-6
    opened.project.refresh_from_db()
    assert not certifying.hold_against(certificate=opened.certificate, n=certificate.n, k=certificate.n, bound=bound)
    assert opened.accepted() == 0
    assert "not 9" in opened.certificate.ended_why


def test_blind_checks_of_its_labels_are_held_against_the_target_of_now(opened: Rigged) -> None:
    at_most = opened.certificate.target + 1e-4
    opened.choose(target_precision=(at_most + opened.certificate.bound) / 2)
    assert opened.accepted()
    assert not certifying.hold_against_labels(certificate=opened.certificate, n=50, k=45, at_most=at_most)
    assert opened.accepted() == 0


@pytest.mark.parametrize("more", [{"target_precision": 0.99}, {"certificate_confidence": 0.99}])
def test_settings_saved_while_a_promise_is_worked_out_let_nothing_through(
    offered: Rigged, monkeypatch: pytest.MonkeyPatch, more: dict[str, float]
) -> None:
    start(offered)
    answer_due(offered)
    certify = rounds.certify_round

    def meanwhile(**arguments: Any) -> bool:
        offered.choose(**more)
        return certify(**arguments)

    monkeypatch.setattr(rounds, "certify_round", meanwhile)
    offered.take_stock()
    assert offered.accepted() == 0
    offered.take_stock()
    assert offered.accepted() == 0


# --- its own images -----------------------------------------------------------------------------------------------


@pytest.fixture
def alone(offered: Rigged) -> Round:
    """A running round whose region is all that is open in the pool."""
    drawn = start(offered)
    region = set(certifying_rounds.region_of(drawn).tolist())
    Item.objects.filter(pk__in=[item.pk for item in offered.pool if item.pk not in region]).update(state="labelled")
    return drawn


def others(drawn: Round) -> set[int]:
    checks = set(drawn.checks.values_list("item_id", flat=True))
    return set(certifying_rounds.region_of(drawn).tolist()) - checks


def test_with_nothing_else_open_a_round_ranks_and_proposes_none_of_its_checks(offered: Rigged, alone: Round) -> None:
    offered.choose(show_suggestions=True, propose_above=0.5)
    taken, learned = offered.taken()
    asked = certifying_rounds.without_round(offered.project, taken)
    assert set(asked.embedded.item_ids[asked.open_rows].tolist()) == others(alone)
    refitting.put_up(offered.project, taken, learned, offered.model, {})
    ranked = QueueEntry.objects.exclude(reason_code__in=("audit", "automatic"))
    assert ranked.exists()
    assert set(ranked.values_list("item_id", flat=True)) <= others(alone)
    pending = Proposal.objects.filter(state="pending")
    assert not pending.filter(item__in=alone.checks.values("item")).exists()


def test_a_round_whose_checks_are_all_there_is_ranks_nothing(offered: Rigged, alone: Round) -> None:
    Item.objects.filter(pk__in=others(alone)).update(state="labelled")
    taken, learned = offered.taken()
    refitting.put_up(offered.project, taken, learned, offered.model, {})
    assert not QueueEntry.objects.exclude(reason_code__in=("audit", "automatic")).exists()
    assert queueing.refill_queue(project=offered.project) == 0
    due = round_checks.checks_due(offered.project, 1000)
    held = queueing.reserve_items(project=offered.project, annotator=offered.alice, count=4)
    mine = [entry for entry in held if entry.item.split == Split.POOL]
    assert {entry.item_id for entry in mine} <= set(due)
    assert {entry.reason_code for entry in mine} <= {"automatic"}


@pytest.mark.parametrize("reason", ["random", "close_call"])
def test_a_check_that_anybody_ranks_is_not_queued_as_that(offered: Rigged, alone: Round, reason: str) -> None:
    ranked = [queueing.Ranked(item.pk, 0.0, reason) for item in offered.pool]
    queueing.fill_queue(project=offered.project, entries=ranked)
    queued = set(QueueEntry.objects.values_list("item_id", flat=True))
    assert queued == others(alone)


def test_a_check_that_was_skipped_and_returned_is_asked_blind(offered: Rigged, alone: Round) -> None:
    first = alone.checks.select_related("item").order_by("position")[0]
    offered.answer(first.item, offered.cat, kind="skip")
    queueing.return_skipped(project=offered.project)
    assert not QueueEntry.objects.filter(item=first.item).exclude(reason_code="automatic").exists()
    shares = dict.fromkeys(("audit_share", "baseline_share", "second_opinion_share", "suspect_share"), 0.0)
    offered.choose(automatic_share=1.0, **shares)
    held = queueing.reserve_items(project=offered.project, annotator=offered.alice, count=1)
    assert [(entry.item_id, entry.reason_code) for entry in held] == [(first.item_id, "automatic")]
    assert not queries.shows_hint(held[0], offered.project)


def test_what_somebody_let_go_of_leaves_the_queue_with_the_start(offered: Rigged, bob: User) -> None:
    """Otherwise the check came back with the reason, and the hint, of then."""
    entries = [queueing.Ranked(item.pk, 0.0, "close_call") for item in offered.pool]
    queueing.fill_queue(project=offered.project, entries=entries)
    QueueEntry.objects.update(leased_by=bob, leased_until=timezone.now() - timedelta(seconds=1))
    drawn = start(offered)
    region = certifying_rounds.region_of(drawn).tolist()
    assert len(region) == len(offered.pool) // 2
    assert not QueueEntry.objects.filter(item__in=region).exists()


# --- answers that are taken back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["label", "skip"])
def test_a_wrong_check_that_is_taken_back_stays_wrong_until_it_is_answered(opened: Rigged, kind: str) -> None:
    certificate = opened.certificate
    n, check = certificate.n, item_of(opened, next(iter(certificate.checks)))
    opened.choose(target_precision=0.5)
    Certificate.objects.update(target=0.5)  # so that an error does not end it
    if kind == "label":
        answer_wrong(opened, check)
    else:
        opened.answer(check, opened.cat, kind="skip")
    opened.take_stock()
    certificate.refresh_from_db()
    assert (certificate.n, certificate.k, certificate.ended_at) == (n, n - 1, None)
    with_an_error = certificate.bound
    if kind == "label":
        last = Annotation.objects.filter(item=check, superseded_by=None).latest("pk")
        labeling.take_back(last, check, uuid.uuid4())
        # The right one it had replaced is back with it, and taken back too.
        labeling.take_back(Annotation.objects.filter(item=check, superseded_by=None).latest("pk"), check, uuid.uuid4())
    else:
        queueing.return_skipped(project=opened.project)
    check.refresh_from_db()
    assert check.state == "open"
    opened.take_stock()
    certificate.refresh_from_db()
    assert (certificate.n, certificate.k, certificate.bound) == (n, n - 1, with_an_error)
    opened.answer(check, opened.class_of(check))
    opened.take_stock()
    certificate.refresh_from_db()
    assert (certificate.n, certificate.k) == (n, n)


def test_a_right_check_that_is_taken_back_counts_as_right_until_it_is_answered(opened: Rigged) -> None:
    certificate = opened.certificate
    check = item_of(opened, next(iter(certificate.checks)))
    labeling.take_back(Annotation.objects.get(item=check), check, uuid.uuid4())
    opened.take_stock()
    after = opened.certificate
    assert (after.n, after.k, after.bound, after.ended_at) == (certificate.n, certificate.n, certificate.bound, None)


# --- more random checks -------------------------------------------------------------------------------------------


def draw(rigged: Rigged, count: int) -> list[Item]:
    """Draw random checks; which these are."""
    before = {item.pk for item in rigged.pool}
    certifying.draw_checks(project=rigged.project, actor=rigged.alice, count=count)
    drawn = set(Item.objects.filter(split=Split.AUDIT).values_list("pk", flat=True)) & before
    for item in rigged.items:
        item.split = Split.AUDIT if item.pk in drawn else item.split
    return [item for item in rigged.items if item.pk in drawn]


def test_drawing_checks_ends_no_certificate_and_wrong_answers_to_them_do(opened: Rigged) -> None:
    before, accepted = opened.certificate, opened.accepted()
    region = certifying_rounds.region_of(Round.objects.get()).tolist()
    inside = [item for item in draw(opened, 80) if item.pk in region]
    assert len(inside) > 5
    opened.take_stock()
    now = opened.certificate
    assert (now.n, now.k, now.rest, now.answered, now.bound) == (before.n, before.k, before.rest, 0, before.bound)
    assert (now.ended_at, opened.accepted()) == (None, accepted - len(inside))
    # Right answers to them make no better promise, and taking one back no worse one.
    opened.check(inside[:5])
    opened.take_stock()
    now = opened.certificate
    assert (now.n, now.k, now.bound, now.ended_at) == (before.n + 5, before.n + 5, before.bound, None)
    for item in inside[5:8]:
        answer_wrong(opened, item)
    opened.take_stock()
    ended = opened.certificate
    assert (ended.n, ended.k) == (before.n + 8, before.n + 5)
    assert ended.bound == pytest.approx(gate.open_bound(ended.k, ended.n, before.rest - 8, 0, before.delta))
    assert ended.ended_why.startswith(f"3 of {ended.n}")
    assert opened.accepted() == 0


def test_drawing_checks_disturbs_no_running_round(offered: Rigged) -> None:
    drawn = start(offered)
    region = certifying_rounds.region_of(drawn).tolist()
    inside = [item for item in draw(offered, 80) if item.pk in region]
    assert inside
    offered.check(inside[:4])
    answer_due(offered)
    offered.take_stock()
    certificate = offered.certificate
    n = drawn.stages[0][0]
    assert (certificate.rest, certificate.answered, certificate.ended_at) == (drawn.size - n, 0, None)
    assert certificate.bound == gate.open_bound(n, n, drawn.size - n, 0, certificate.delta)
    assert offered.accepted() == drawn.size - n - len(inside)


def test_who_answers_images_of_a_running_round_by_choice_still_weakens_it(offered: Rigged) -> None:
    drawn = start(offered)
    chosen = [item for item in offered.pool if item.pk in others(drawn)][:10]
    for item in chosen:
        offered.answer(item, offered.class_of(item))
    answer_due(offered)
    offered.take_stock()
    drawn.refresh_from_db()
    assert drawn.state != Round.State.CERTIFIED or drawn.certificate.answered == 10


def test_drawing_checks_ends_no_certificate_of_a_look(rigged: Rigged) -> None:
    for item in sorted(rigged.pool, key=rigged.place)[:20]:
        rigged.answer(item, rigged.class_of(item))
    rigged.check(rigged.checks[:45])
    rigged.take_stock()
    before = rigged.certificate
    assert before.answered == 20
    inside = [item for item in draw(rigged, 60) if Proposal.objects.filter(item=item, certificate=before).exists()]
    assert len(inside) > 5
    rigged.take_stock()
    now = Certificate.objects.get(pk=before.pk)
    assert (now.bound, now.rest, now.ended_at) == (pytest.approx(before.bound), before.rest, None)


# --- files that are lost or damaged -------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"half": whole[: len(whole) // 2], "noise": b"noise" * 99, "empty": b""}[how])


@pytest.mark.parametrize("how", ["gone", "half", "noise", "empty"])
def test_a_running_round_whose_file_is_damaged_ends_in_words(offered: Rigged, how: str) -> None:
    drawn = start(offered)
    damage(rounds.round_file(drawn), how)
    assert not len(certifying_rounds.region_of(drawn))
    assert not len(round_checks.set_aside(offered.project))
    offered.take_stock()
    drawn.refresh_from_db()
    assert (drawn.state, "gone from the disk" in drawn.ended_why) == (Round.State.FAILED, True)


@pytest.mark.parametrize("how", ["gone", "half", "noise"])
@pytest.mark.parametrize("is_on", [True, False])
def test_a_promise_whose_file_is_damaged_ends_with_a_reason(opened: Rigged, how: str, is_on: bool) -> None:
    count = opened.accepted()
    if not is_on:
        opened.choose(auto_accept=False)
    damage(rounds.round_file(Round.objects.get()), how)
    if not is_on:
        opened.choose(auto_accept=True)
    opened.take_stock()
    ended = opened.certificate
    assert ended.ended_at is not None and "gone from the disk" in ended.ended_why
    now = gate_of(opened.project)
    assert (now.promised, now.accepted) == (0, 0)
    assert AuditEvent.objects.filter(verb="ended a certificate", detail__certificate=ended.pk).count() == 1
    back = given_back(opened.project)
    assert back is not None and back.count == count
    opened.take_stock()


@pytest.mark.parametrize("how", ["gone", "half"])
def test_a_promise_of_a_look_whose_file_is_damaged_ends_with_a_reason(rigged: Rigged, how: str) -> None:
    rigged.check(rigged.checks[:30])
    rigged.take_stock()
    first = rigged.certificate
    damage(worker._file(first), how)
    rigged.take_stock()
    first.refresh_from_db()
    assert "gone from the disk" in first.ended_why
    assert rigged.accepted() == 0


def test_an_offer_that_is_damaged_starts_no_round(offered: Rigged) -> None:
    damage(rounds.offer_file(offered.project), "half")
    with pytest.raises(Conflict, match="try again in a moment"):
        start(offered)
