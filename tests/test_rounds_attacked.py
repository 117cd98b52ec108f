"""Certification rounds under attack: what holds when answers are undone, files are damaged and checks are drawn."""

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User

from annotator import queries
from annotator.actions import certifying, labeling, proposing, queueing, round_checks, rounds
from annotator.models import Annotation, Certificate, Item, Proposal, QueueEntry, Round, RoundCheck, Split
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
