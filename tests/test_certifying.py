"""Accepting unseen, from a model and answered random checks to labels that count, and back when the promise breaks."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from annotator.actions import (
    certifying,
    classes,
    exporting,
    labeling,
    projects,
    proposing,
    queueing,
    reviewing,
    training,
)
from annotator.actions.gate import given_back
from annotator.errors import Conflict, InvalidSettings
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
from ml_worker import certifying as worker
from ml_worker import refitting, snapshot
from ml_worker.fast_loop import Learned
from ml_worker.snapshot import Embedded
from tests.cast import bare_items
from tests.pools import pool_of
from tests.test_api import Caller
from tests.test_training import add_pictures, run_now

POOL, CHECKS = 200, 60


@dataclass
class Rigged:
    """A project whose model is always right, more or less sure of it: items of even number are cats, the others
    dogs. What is wrong are the answers."""

    project: Project
    cat: LabelClass
    dog: LabelClass
    alice: User
    items: list[Item]
    model: ModelVersion

    def class_of(self, item: Item) -> LabelClass:
        return self.dog if int(item.source_name) % 2 else self.cat

    def place(self, item: Item) -> int:
        """From 0, the item the model is surest of."""
        return (37 * int(item.source_name)) % len(self.items)

    def split(self, split: str) -> list[Item]:
        return [item for item in self.items if item.split == split]

    @property
    def checks(self) -> list[Item]:
        return self.split(Split.AUDIT)

    @property
    def pool(self) -> list[Item]:
        return self.split(Split.POOL)

    def check(self, items: list[Item], *, wrongly: bool = False, kind: str = "label") -> None:
        """Alice answers these random checks, as the queue asks her."""
        queueing.fill_queue(project=self.project, entries=[queueing.Ranked(item.pk, 0.0, "audit") for item in items])
        for item in items:
            right = self.class_of(item)
            given = (self.cat if right == self.dog else self.dog) if wrongly else right
            self.answer(item, given, kind)

    def answer(self, item: Item, label_class: LabelClass, kind: str = "label") -> None:
        labeling.record_annotation(
            project=self.project,
            annotator=self.alice,
            item_id=item.pk,
            uuid=uuid.uuid4(),
            kind=kind,
            raw_value={"class": label_class.pk} if kind == "label" else None,
        )

    def taken(self) -> tuple[snapshot.Snapshot, Learned]:
        item_ids = np.array([item.pk for item in self.items], np.int64)
        splits = np.array([snapshot.SPLIT_CODES[Split(item.split)] for item in self.items], np.uint8)
        pool = pool_of(np.arange(len(item_ids))[:, None])
        is_dog = np.array([self.class_of(item) == self.dog for item in self.items])
        sureness = np.linspace(6, 1, len(item_ids), dtype=np.float32)[[self.place(item) for item in self.items]]
        logits = np.stack([np.where(is_dog, 0, sureness), np.where(is_dog, sureness, 0)], axis=1).astype(np.float32)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        taken = snapshot.against(self.project, Embedded(pool, item_ids, splits))
        return taken, Learned(probs.astype(np.float32), logits, 1.1, None, {})

    def take_stock(self) -> None:
        """What the end of a refit does."""
        self.project.refresh_from_db()
        taken, learned = self.taken()
        worker.take_stock(self.project, taken, learned, self.model)

    def choose(self, **raw: Any) -> None:
        projects.save_settings(project=self.project, actor=self.alice, raw=raw)

    def accepted(self) -> int:
        return Proposal.objects.filter(project=self.project, state="auto_accepted").count()

    @property
    def certificate(self) -> Certificate:
        return Certificate.objects.latest("pk")


@pytest.fixture
def rigged(project: Project, cat: LabelClass, dog: LabelClass, alice: User, model: ModelVersion) -> Rigged:
    made = bare_items(project, [Split.AUDIT] * CHECKS + [Split.POOL] * POOL)
    rigged = Rigged(project, cat, dog, alice, made, model)
    # The looks may err by a quarter of this; the rest is the rounds'.
    rigged.choose(auto_accept=True, target_precision=0.8, certificate_confidence=0.8)
    return rigged


# --- a certificate ------------------------------------------------------------------------------------------------


def test_enough_right_checks_let_the_surest_through(rigged: Rigged) -> None:
    rigged.check(rigged.checks[:30])
    rigged.take_stock()
    given = rigged.certificate
    assert (given.errors, given.target, given.look.number, given.look.answers) == (0, 0.8, 1, 30)
    assert given.bound >= 0.8
    assert given.rest == rigged.accepted() > 0
    proposal = Proposal.objects.filter(state="auto_accepted").select_related("item").first()
    assert proposal is not None
    assert (proposal.model_version, proposal.certificate) == (rigged.model, given)
    assert proposal.label_class == rigged.class_of(proposal.item)
    assert proposal.confidence >= given.threshold
    # The checks nobody has answered yet are in it with what this model says of them.
    assert len(given.checks) > given.n


def test_too_few_checks_accept_nothing_and_say_how_many_are_missing(rigged: Rigged) -> None:
    rigged.check(rigged.checks[:10])
    rigged.take_stock()
    assert not Look.objects.exists()
    assert rigged.accepted() == 0
    said = ModelVersion.objects.get(pk=rigged.model.pk).metrics["gate"]
    assert said["answers"] == 10
    assert said["missing"] >= said["next_at"] - 10 > 0


def test_switched_off_a_look_certifies_and_nothing_is_accepted_until_it_is_on(rigged: Rigged) -> None:
    rigged.choose(auto_accept=False)
    rigged.check(rigged.checks[:30])
    rigged.take_stock()
    assert rigged.certificate.accepted_at is None
    assert rigged.accepted() == 0
    rigged.choose(auto_accept=True)
    assert Job.objects.filter(project=rigged.project, kind=Job.Kind.REFIT, state="queued").exists()
    rigged.take_stock()
    assert rigged.accepted() == rigged.certificate.rest
    assert Look.objects.count() == 1


def test_a_wrong_check_and_a_skipped_one_count_against_the_model(rigged: Rigged) -> None:
    rigged.check(rigged.checks[:24])
    rigged.check(rigged.checks[24:26], kind="skip")
    rigged.check(rigged.checks[26:28], kind="none_of_these")
    rigged.take_stock()
    answers = worker.blind_answers(rigged.project)
    assert len(answers.item_ids) == 28
    assert (answers.class_ids == worker.NO_CLASS).sum() == 4
    look = Look.objects.get()
    assert look.answers == 28
    assert all(each.errors <= 4 for each in look.certificates.all())


def test_only_blind_answers_to_random_checks_count(rigged: Rigged) -> None:
    first, second, third, fourth = rigged.checks[:4]
    rigged.check([first])
    rigged.answer(second, rigged.cat)  # out of turn: whoever picks what to check, picks the result
    Annotation.objects.create(
        uuid=uuid.uuid4(),
        project=rigged.project,
        item=third,
        annotator=rigged.alice,
        kind="label",
        value={"class": rigged.cat.pk},
        source="imported",
    )
    queueing.fill_queue(project=rigged.project, entries=[queueing.Ranked(fourth.pk, 0.0, "audit")])
    labeling.record_annotation(
        project=rigged.project,
        annotator=rigged.alice,
        item_id=fourth.pk,
        uuid=uuid.uuid4(),
        kind="label",
        raw_value={"class": rigged.cat.pk},
        suggestion_shown=True,
    )
    answers = worker.blind_answers(rigged.project)
    assert dict(zip(answers.item_ids.tolist(), answers.in_turn.tolist(), strict=True)) == {
        first.pk: True,
        second.pk: False,
        fourth.pk: False,
    }


@pytest.mark.parametrize(("wrongly", "errors"), [(True, 2), (False, 0)])
def test_an_answer_out_of_turn_never_speaks_for_the_model(rigged: Rigged, wrongly: bool, errors: int) -> None:
    rigged.choose(target_precision=0.6)
    rigged.check(rigged.checks[:30])
    unsure = sorted(rigged.checks[30:], key=rigged.place)[-8:-6]
    for item in unsure:
        right = rigged.class_of(item)
        rigged.answer(item, (rigged.cat if right == rigged.dog else rigged.dog) if wrongly else right)
    rigged.take_stock()
    given = rigged.certificate
    in_turn = sum(str(item.pk) in given.checks for item in rigged.checks[:30])
    assert (given.look.answers, given.k, given.errors) == (30, in_turn, errors)
    rigged.take_stock()  # held against the same answers
    given.refresh_from_db()
    assert (given.k, given.errors) == (in_turn, errors)


def test_an_answer_changed_later_is_the_one_that_counts(rigged: Rigged) -> None:
    rigged.check(rigged.checks[:1])
    rigged.answer(rigged.checks[0], rigged.dog)
    assert worker.blind_answers(rigged.project).class_ids.tolist() == [rigged.dog.pk]


def test_an_import_without_checks_is_not_accepted_from(rigged: Rigged) -> None:
    later = Job.objects.create(project=rigged.project, kind=Job.Kind.IMPORT)
    new = rigged.pool[:50]
    Item.objects.filter(pk__in=[item.pk for item in new]).update(import_job=later)
    rigged.check(rigged.checks[:30])
    rigged.take_stock()
    assert rigged.accepted() > 0
    assert not Proposal.objects.filter(state="auto_accepted", item__import_job=later).exists()
    assert list(Look.objects.get().strata) == ["0"]


def test_thresholds_for_each_class_are_certificates_for_each(rigged: Rigged) -> None:
    rigged.choose(threshold_per_class=True, target_precision=0.7)
    rigged.check(rigged.checks)
    rigged.take_stock()
    classes = {each.label_class for each in Certificate.objects.all()}
    assert classes == {rigged.cat, rigged.dog}
    for each in Certificate.objects.all():
        assert set(each.proposals.values_list("label_class", flat=True)) == {each.label_class_id}


def test_the_error_of_a_chosen_network_is_shared(rigged: Rigged) -> None:
    Job.objects.create(project=rigged.project, kind="train", state="done", result={"promoted": False})
    rigged.check(rigged.checks[:40])
    rigged.take_stock()
    look = Look.objects.get()
    assert look.spent == pytest.approx(2 * look.delta)


# --- behind people ------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(rigged: Rigged) -> Rigged:
    """With labels accepted unseen, after 30 checks without an error."""
    rigged.check(rigged.checks[:30])
    rigged.take_stock()
    assert rigged.accepted()
    return rigged


def unseen(rigged: Rigged) -> Proposal:
    found = Proposal.objects.filter(project=rigged.project, state="auto_accepted").order_by("pk").first()
    assert found is not None
    return found


def test_a_human_answer_wins_for_good(opened: Rigged) -> None:
    proposal = unseen(opened)
    opened.answer(proposal.item, opened.dog)
    proposal.refresh_from_db()
    assert proposal.state == "withdrawn"
    rows = {row.item_id: row for _, row in exporting._rows(opened.project)}
    assert (rows[proposal.item_id].origin, rows[proposal.item_id].label) == ("human", "dog")
    # Neither the same certificate nor a retraction brings the model's word back.
    labeling.undo_last(project=opened.project, annotator=opened.alice, uuid=uuid.uuid4())
    opened.choose(auto_accept=False)
    opened.choose(auto_accept=True)
    opened.take_stock()
    assert not Proposal.objects.filter(item=proposal.item, state="auto_accepted").exists()


def test_it_is_neither_asked_nor_proposed_nor_learnt_from(opened: Rigged) -> None:
    accepted = set(Proposal.objects.filter(state="auto_accepted").values_list("item_id", flat=True))
    taken, learned = opened.taken()
    ids = taken.embedded.item_ids
    assert not accepted & set(ids[taken.open_rows].tolist())
    assert not accepted & set(ids[taken.train.rows].tolist())
    assert set(ids[taken.accepted_rows].tolist()) == accepted
    refitting.put_up(opened.project, taken, learned, opened.model, {})
    assert not Proposal.objects.filter(item__in=accepted, state="pending").exists()
    QueueEntry.objects.all().delete()
    held = queueing.reserve_items(project=opened.project, annotator=opened.alice, count=POOL)
    assert held and {entry.reason_code for entry in held if entry.item_id in accepted} <= {"automatic"}
    QueueEntry.objects.all().delete()
    # A job whose snapshot is older than the acceptance.
    late = [proposing.Predicted(item_id, opened.cat.pk, 0.99, []) for item_id in accepted]
    proposing.store_proposals(project=opened.project, model_version=opened.model, predictions=late)
    queueing.fill_queue(project=opened.project, entries=[queueing.Ranked(pk, 0.0, "random") for pk in accepted])
    assert not Proposal.objects.filter(item__in=accepted, state="pending").exists()
    assert not QueueEntry.objects.filter(item__in=accepted).exists()


def test_pending_proposals_and_queue_entries_of_what_is_accepted_go(rigged: Rigged) -> None:
    rigged.check(rigged.checks[:30])
    waiting = [proposing.Predicted(item.pk, rigged.cat.pk, 0.9, []) for item in rigged.pool]
    proposing.store_proposals(project=rigged.project, model_version=rigged.model, predictions=waiting)
    queueing.fill_queue(project=rigged.project, entries=[queueing.Ranked(i.pk, 0.0, "random") for i in rigged.pool])
    rigged.take_stock()
    accepted = Proposal.objects.filter(state="auto_accepted").values("item")
    assert not Proposal.objects.filter(item__in=accepted, state="pending").exists()
    assert QueueEntry.objects.count() == POOL - len(accepted)


def test_a_reviewer_looks_through_and_rejects(opened: Rigged, carol: User) -> None:
    right, wrong = Proposal.objects.filter(state="auto_accepted").order_by("pk")[:2]
    decision = reviewing.decide(project=opened.project, reviewer=carol, accepted=[right.pk], rejected=[wrong.pk])
    assert (decision.accepted, decision.rejected, decision.conflicts) == (1, 1, [])
    origins = {row.item_id: row.origin for _, row in exporting._rows(opened.project)}
    assert (origins[right.item_id], origins[wrong.item_id]) == ("accepted", "unlabelled")
    assert decision.event_id is not None
    reviewing.undo_decision(project=opened.project, reviewer=carol, event_id=decision.event_id)
    assert {each.state for each in Proposal.objects.filter(pk__in=[right.pk, wrong.pk])} == {"auto_accepted"}


def test_it_leaves_as_accepted_unseen_with_its_certificate(opened: Rigged) -> None:
    row = next(row for item, row in exporting._rows(opened.project) if item.pk == unseen(opened).item_id)
    assert (row.origin, row.annotators, row.model_version) == ("auto-accepted", [], 1)
    assert row.certificate.startswith(f"{opened.certificate.pk}: at least 80 % right with 80 % certainty")


def test_an_archived_class_takes_its_unseen_labels_along(opened: Rigged) -> None:
    classes.archive_class(label_class=opened.dog, actor=opened.alice, archived=True)
    assert not Proposal.objects.filter(state="auto_accepted", label_class=opened.dog).exists()
    assert opened.accepted()


def test_nothing_is_accepted_unseen_without_a_certificate(opened: Rigged) -> None:
    with pytest.raises(IntegrityError, match="nothing_is_accepted_unseen_without_a_certificate"), transaction.atomic():
        Proposal.objects.filter(state="auto_accepted").update(certificate=None)


# --- the promise breaks -------------------------------------------------------------------------------------------


def test_wrong_answers_that_come_later_give_the_labels_back(opened: Rigged) -> None:
    count = opened.accepted()
    inside = [item for item in opened.checks[30:] if str(item.pk) in opened.certificate.checks]
    opened.check(inside[:7], wrongly=True)  # one more, and the next look would be due
    opened.take_stock()
    certificate = Certificate.objects.earliest("pk")
    assert certificate.ended_at is not None
    assert certificate.bound < 0.8
    assert "7 of" in certificate.ended_why and "wrong by now" in certificate.ended_why
    assert opened.accepted() == 0
    back = given_back(opened.project)
    assert back is not None
    assert (back.count, back.waiting, back.why) == (count, count, certificate.ended_why)
    assert AuditEvent.objects.filter(verb=certifying.GIVEN_BACK).count() == 1


def test_right_answers_that_come_later_leave_it_standing(opened: Rigged) -> None:
    before = opened.certificate
    opened.check(opened.checks[30:34])
    opened.take_stock()
    after = Certificate.objects.get(pk=before.pk)
    assert after.ended_at is None
    assert after.n > before.n
    assert after.bound >= before.bound


def test_what_was_given_back_waits_for_a_person_whatever_later_models_say(opened: Rigged) -> None:
    opened.choose(auto_accept=False)
    waiting = Proposal.objects.filter(state="pending", certificate__isnull=False)
    count = waiting.count()
    assert count
    proposing.store_proposals(project=opened.project, model_version=opened.model, predictions=[])
    columns = {each.name: getattr(opened.model, each.name) for each in ModelVersion._meta.concrete_fields}
    newer = ModelVersion.objects.create(**columns | {"id": None, "number": 2})
    proposing.store_proposals(project=opened.project, model_version=newer, predictions=[])
    assert waiting.count() == count


def test_switched_off_the_labels_go_back_and_on_again_they_return(opened: Rigged) -> None:
    count = opened.accepted()
    opened.choose(auto_accept=False)
    assert opened.accepted() == 0
    assert opened.certificate.ended_at is None
    opened.choose(auto_accept=True)
    opened.take_stock()
    assert opened.accepted() == count
    assert given_back(opened.project) is None


@pytest.mark.parametrize("more", [{"target_precision": 0.98}, {"certificate_confidence": 0.99}])
def test_who_asks_for_more_than_was_promised_gets_the_labels_back(opened: Rigged, more: dict[str, float]) -> None:
    opened.choose(**more)
    assert opened.certificate.ended_why.startswith("the settings ask for more now")
    assert opened.accepted() == 0


def test_a_lower_target_keeps_what_stands_and_waits_for_new_answers(opened: Rigged) -> None:
    count = opened.accepted()
    opened.choose(target_precision=0.7)
    opened.check(opened.checks[30:32])
    opened.take_stock()
    assert (Look.objects.count(), opened.accepted()) == (1, count)
    opened.check(opened.checks[32:40])
    opened.take_stock()
    assert Look.objects.count() == 2
    assert sum(each.spent for each in Look.objects.all()) <= 0.05


def test_a_later_look_takes_the_place_of_the_one_before(opened: Rigged) -> None:
    first = opened.certificate
    opened.check(opened.checks[30:])
    opened.take_stock()
    first.refresh_from_db()
    assert Look.objects.count() == 2
    assert first.ended_why == "a later look at the random checks took its place"
    assert set(Proposal.objects.filter(state="auto_accepted").values_list("certificate", flat=True)) == {
        opened.certificate.pk
    }
    assert given_back(opened.project) is None


def test_two_jobs_at_once_do_not_look_twice(opened: Rigged) -> None:
    count, look = opened.accepted(), Look.objects.get()
    late = Look(
        project=opened.project, planned=1, model_version=opened.model, answers=30, target=0.8, confidence=0.95,
        spent=0.015, delta=0.015,
    )  # fmt: skip
    assert certifying.record_look(look=late, certificates=[], after=0) is None
    predictions = certifying.Unseen([opened.pool[0].pk], [opened.cat.pk], [0.99])
    assert certifying.accept(certificate=look.certificates.get(), predictions=predictions) == 0
    assert (Look.objects.count(), opened.accepted()) == (1, count)


# --- more random checks -------------------------------------------------------------------------------------------


def test_drawn_checks_are_checks_from_then_on(opened: Rigged, bob: User, answer: Callable[..., Annotation]) -> None:
    labelled = opened.pool[0]
    answer(bob, labelled, opened.cat)
    before = opened.accepted()
    assert certifying.draw_checks(project=opened.project, actor=opened.alice, count=80) == 80
    drawn = Item.objects.filter(project=opened.project, split=Split.AUDIT).exclude(
        pk__in=[item.pk for item in opened.checks]
    )
    assert drawn.count() == 80
    assert labelled not in drawn
    assert not Proposal.objects.filter(item__in=drawn, state__in=Proposal.UNDECIDED).exists()
    assert not QueueEntry.objects.filter(item__in=drawn).exclude(reason_code="audit").exists()
    taken, _ = opened.taken()  # whose arrays are older than the drawing
    assert set(drawn.values_list("pk", flat=True)) <= set(taken.embedded.item_ids[taken.open_audit_rows].tolist())
    # Those that had been accepted unseen are checks of their certificate now.
    gone = before - opened.accepted()
    certificate = Certificate.objects.get()
    assert gone > 0
    assert certificate.rest == POOL  # it speaks of them still
    inside = [item for item in drawn if str(item.pk) in certificate.checks]
    assert len(inside) == gone
    opened.check(inside, wrongly=True)
    opened.take_stock()
    assert Certificate.objects.earliest("pk").ended_at is not None


@pytest.mark.parametrize(("count", "error"), [(0, InvalidSettings), (POOL, Conflict), (10**6, InvalidSettings)])
def test_more_checks_than_half_of_what_is_open_are_refused(rigged: Rigged, count: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        certifying.draw_checks(project=rigged.project, actor=rigged.alice, count=count)
    assert len(rigged.checks) == Item.objects.filter(split=Split.AUDIT).count()


@pytest.mark.slow
def test_from_the_first_answer_to_unseen_labels_through_the_jobs_themselves(
    project: Project, cat: LabelClass, dog: LabelClass, alice: User
) -> None:
    project.settings_json = {
        "auto_accept": True,
        "target_precision": 0.9,
        "certificate_confidence": 0.8,
        "answers_per_refit": 40,
        "audit_share": 0.6,
    }
    project.save()
    add_pictures(project, range(1000, 1080), Split.AUDIT)
    add_pictures(project, range(200))
    run_now(training.request_embedding(project=project))
    run_now(Job.objects.get(project=project, kind="refit", state="queued"))
    for _ in range(120):
        entry = queueing.reserve_items(project=project, annotator=alice, count=1)[0]
        labeling.record_annotation(
            project=project,
            annotator=alice,
            item_id=entry.item_id,
            uuid=uuid.uuid4(),
            kind="label",
            raw_value={"class": dog.pk if int(entry.item.source_name) % 2 else cat.pk},
        )
        for job in Job.objects.filter(project=project, state="queued"):
            run_now(job)
    certificate = Certificate.objects.get(ended_at__isnull=True)
    assert certificate.look.answers >= 40
    unseen = list(Proposal.objects.filter(state="auto_accepted").select_related("item"))
    right = [(each.label_class_id == dog.pk) == bool(int(each.item.source_name) % 2) for each in unseen]
    assert len(unseen) > 50
    assert np.mean(right) >= 0.9
    # Asked no more: what remains in the queue is what the model is not sure of.
    assert not QueueEntry.objects.filter(item__in=[each.item_id for each in unseen]).exists()


# --- the pages ----------------------------------------------------------------------------------------------------

Login = Callable[[User], Client]


def shown(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return " ".join(response.text.split())


def test_the_dashboard_says_what_is_promised_in_words(opened: Rigged, login: Login) -> None:
    page = shown(login(opened.alice), f"/projects/{opened.project.pk}/?about=worth")
    certificate = opened.certificate
    assert (
        f"With 80 % confidence at least 80 % of the {certificate.rest} images the model is surest of are right:"
        f" 0 errors in {certificate.n} random checks." in page
    )
    count, left = opened.accepted(), POOL - opened.accepted()
    overview = shown(login(opened.alice), f"/projects/{opened.project.pk}/")
    assert f'aria-label="Pool: 0 labelled, 0 none of these, 0 skipped, {count} accepted unseen, {left} not' in overview
    assert f'aria-label="Open images of the pool: {count} accepted unseen' in page
    assert f"/projects/{opened.project.pk}/review/?show=unseen" in page


def test_before_a_certificate_it_says_how_many_checks_are_missing(rigged: Rigged, login: Login, vera: User) -> None:
    rigged.check(rigged.checks[:10])
    rigged.take_stock()
    said = ModelVersion.objects.get(pk=rigged.model.pk).metrics["gate"]
    page = shown(login(vera), f"/projects/{rigged.project.pk}/?about=worth")
    assert f"At best <strong>{said['missing']}</strong> more random checks" in page
    assert f'The next look comes at <span class="number">{said["next_at"]}</span>' in page


def test_other_settings_ask_for_a_refit_and_until_then_no_old_number_is_shown(rigged: Rigged, login: Login) -> None:
    rigged.check(rigged.checks[:10])
    rigged.take_stock()
    address = f"/projects/{rigged.project.pk}/"
    assert "At best <strong>" in shown(login(rigged.alice), f"{address}?about=worth")
    result = {"folder": "x", "n": 1, "image_px": 8, "encoder": "pixels"}
    columns = {"state": "done", "finished_at": timezone.now(), "result": result}
    Job.objects.create(project=rigged.project, kind=Job.Kind.EMBED, **columns)
    waiting = Job.objects.filter(project=rigged.project, kind=Job.Kind.REFIT, state="queued")
    for column, value in (("target_precision", 0.9), ("certificate_confidence", 0.9), ("threshold_per_class", True)):
        waiting.delete()
        rigged.choose(**{column: value})
        assert waiting.exists()
        page = shown(login(rigged.alice), f"{address}?about=worth")
        assert "is being worked out, and the next model says it" in page
        assert "At best" not in page and "The next look" not in page
        rigged.take_stock()
        assert "is being worked out" not in shown(login(rigged.alice), f"{address}?about=worth")
    waiting.delete()
    rigged.choose(answers_per_refit=7)
    assert not waiting.exists()


def test_the_panel_says_where_a_certificate_costs_what_finishing_by_hand_does(rigged: Rigged, login: Login) -> None:
    rigged.check(rigged.checks[:10])
    address = f"/projects/{rigged.project.pk}/"
    for missing, is_said, cannot_be in ((5, False, False), (POOL, True, False), (POOL + CHECKS, False, True)):
        rigged.take_stock()
        rigged.model.metrics["gate"]["missing"] = missing
        rigged.model.save()
        page = shown(login(rigged.alice), f"{address}?about=worth")
        assert (f"That is no fewer answers than finishing by hand: {POOL} images are left." in page) == is_said
        assert (f"What remains is to finish by hand: {POOL} images are left." in page) == cannot_be
        assert (f"{missing}</strong> more random checks" in page) != cannot_be


def test_six_images_are_not_told_to_check_thousands(rigged: Rigged, login: Login) -> None:
    for item in rigged.pool[6:]:
        rigged.answer(item, rigged.class_of(item))
    rigged.check(rigged.checks)
    rigged.choose(target_precision=0.99)
    rigged.take_stock()
    assert rigged.model.metrics["gate"]["missing"] > 1000
    page = shown(login(rigged.alice), f"/projects/{rigged.project.pk}/?about=worth")
    assert "At best" not in page
    assert "What remains is to finish by hand: 6 images are left." in page


def test_a_look_that_there_are_no_checks_for_has_no_number(rigged: Rigged, login: Login) -> None:
    rigged.check(rigged.checks)
    rigged.choose(target_precision=0.99)
    rigged.take_stock()
    said = ModelVersion.objects.get(pk=rigged.model.pk).metrics["gate"]
    assert said["next_at"] > said["answers"] == CHECKS
    page = shown(login(rigged.alice), f"/projects/{rigged.project.pk}/?about=worth")
    assert "The next look waits for more random checks than there are left." in page
    assert "The next look comes at" not in page
    assert "Every random check is answered; that takes more of them." in page


def test_a_preview_of_nothing_is_not_shown(opened: Rigged, login: Login) -> None:
    look = Look.objects.get()
    for count in (3, 0):
        Look.objects.filter(pk=look.pk).update(preview={"target": 0.6, "count": count})
        page = shown(login(opened.alice), f"/projects/{opened.project.pk}/?about=worth")
        assert ("the last look would have let" in page) == bool(count)


def test_too_small_a_sample_offers_its_owner_to_draw_more(rigged: Rigged, login: Login, vera: User) -> None:
    rigged.choose(target_precision=0.99)
    rigged.check(rigged.checks[:10])
    rigged.take_stock()
    address = f"/projects/{rigged.project.pk}/"
    assert "Draw more random checks" not in shown(login(vera), f"{address}?about=worth")
    alices = login(rigged.alice)
    assert "Draw more random checks" in shown(alices, f"{address}?about=worth")
    for wrong in ("", "many", "0", "5000"):
        refused = alices.post(f"{address}checks/", {"count": wrong})
        assert refused.status_code in (409, 422)
        assert "No check was drawn" in refused.text
    assert alices.post(f"{address}checks/", {"count": "20"}).status_code == 303
    assert Item.objects.filter(project=rigged.project, split=Split.AUDIT).count() == CHECKS + 20


def test_what_was_given_back_is_told_on_dashboard_and_review_page(opened: Rigged, login: Login) -> None:
    count = opened.accepted()
    opened.choose(auto_accept=False)
    for address in (f"/projects/{opened.project.pk}/", f"/projects/{opened.project.pk}/review/"):
        page = shown(login(opened.alice), address)
        assert f"{count} labels that had been accepted unseen went back to review" in page
        assert "accepting unseen was switched off" in page


def test_a_reviewer_looks_through_what_is_unseen_on_the_review_page(opened: Rigged, login: Login, carol: User) -> None:
    client, address = login(carol), f"/projects/{opened.project.pk}/review/"
    assert "?show=unseen" in shown(client, address)
    cat = Proposal.objects.filter(state="auto_accepted", label_class=opened.cat).order_by("confidence", "id")
    wrong, *others = [each.pk for each in cat[:60]]
    assert f'data-proposal="{wrong}"' in shown(client, f"{address}?show=unseen&class={opened.cat.pk}")
    sent = {"class": opened.cat.pk, "show": "unseen", "shown": [wrong, *others], "wrong": [wrong]}
    response = client.post(address, sent)
    assert response.status_code == 303
    assert "show=unseen" in response["Location"]
    assert Proposal.objects.get(pk=wrong).state == "rejected"
    assert set(Proposal.objects.filter(pk__in=others).values_list("state", flat=True)) == {"accepted"}


def test_the_export_page_says_what_nobody_looked_at(opened: Rigged, login: Login) -> None:
    page = shown(login(opened.alice), f"/projects/{opened.project.pk}/export/")
    assert f'Accepted automatically <span class="count">{opened.accepted()}</span>' in page
    assert "With 80 % confidence at least 80 %" in page


# --- programs -----------------------------------------------------------------------------------------------------


def test_programs_read_the_certificates(opened: Rigged, login: Login, vera: User) -> None:
    caller = Caller(vera, opened.project)
    gate, listed = caller.get("gate/").json(), caller.get("certificates/").json()["results"]
    certificate = opened.certificate
    assert gate["accepted"] == gate["promised"] == opened.accepted()
    assert gate["certificates"] == listed
    assert listed[0]["rest"] == certificate.rest
    assert (listed[0]["class"], listed[0]["model"], listed[0]["ended_at"]) == (None, 1, None)
    proposals = Caller(opened.alice, opened.project).get("proposals/?state=auto_accepted&limit=1000").json()["results"]
    assert {each["certificate"] for each in proposals} == {certificate.pk}


def test_programs_draw_checks_and_choose_the_target(rigged: Rigged) -> None:
    caller = Caller(rigged.alice, rigged.project)
    assert caller.post("checks/", {"count": 5}).json() == {"count": 5}
    assert caller.post("checks/", {"count": 0}).status_code == 422
    assert caller.post("checks/", {"count": POOL}).status_code == 409
    settings = caller.patch("", {"settings": {"target_precision": 0.97}}).json()["settings"]
    assert settings["target_precision"] == 0.97
