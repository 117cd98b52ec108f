"""How the work goes: counted from the newest answers, whoever gave them, and how often people agree."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotator import queries
from annotator.actions import reviewing
from annotator.models import Annotation, Item, LabelClass, Membership, ModelVersion, Project, Proposal, QueueEntry
from annotator.queries import work as counting
from annotator.queries.classwise import class_measures, wilson
from annotator.queries.work import agreement, work
from annotator.views.work import days, hours

Answer = Callable[..., Annotation]


def test_answers_are_counted_by_hour_and_day_and_reviews_apart(
    project: Project, proposals: list[Proposal], cat: LabelClass, bob: User, carol: User, answer: Answer
) -> None:
    first = answer(bob, proposals[0].item, cat, milliseconds=1000)
    old = answer(bob, proposals[1].item, cat, milliseconds=3000)
    gone = answer(bob, proposals[2].item, cat, milliseconds=5000)
    now = timezone.localtime().replace(minute=30)
    for annotation, back in ((first, 0), (old, 30), (gone, 24 * 20)):
        Annotation.objects.filter(pk=annotation.pk).update(created_at=now - timedelta(hours=back))
    reviewing.decide(project=project, reviewer=carol, accepted=[proposals[5].pk, proposals[6].pk])
    done = work(project)
    assert done.answers == 4
    assert hours(done)[-1][1:] == (1, 2)
    assert sum(answered for _at, answered, _reviewed in hours(done)) == 1
    assert sum(answered for _at, answered, _reviewed in days(done)) == 2
    assert (done.of(bob.pk), done.of(carol.pk)) == (2, 2)
    assert done.by_reason()[0] == ("random", 2) or done.by_reason()[0] == ("review", 2)
    pace = done.paces[None]
    assert (pace.timed, pace.median_s, pace.per_hour) == (2, 2.0, 1800)


def test_the_median_of_all_is_of_answers_and_not_of_people(
    project: Project, items: list[Item], cat: LabelClass, alice: User, bob: User, answer: Answer
) -> None:
    for item, milliseconds in zip(items[:3], (1000, 1000, 2000), strict=True):
        answer(bob, item, cat, milliseconds=milliseconds)
    answer(alice, items[3], cat, milliseconds=9000)
    answer(alice, items[4], cat)
    paces = work(project).paces
    assert paces[None].timed == 4
    assert (paces[bob.pk].median_s, paces[alice.pk].median_s, paces[None].median_s) == (1.0, 9.0, 1.5)


def test_only_the_newest_rows_are_looked_at_and_that_is_said(
    project: Project, items: list[Item], cat: LabelClass, bob: User, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for item in items[:6]:
        answer(bob, item, cat)
    monkeypatch.setattr(counting, "NEWEST", 4)
    done = work(project)
    assert (done.answers, done.is_cut) == (4, True)
    monkeypatch.setattr(counting, "NEWEST", 6)
    assert (work(project).answers, work(project).is_cut) == (6, False)


def test_the_cost_does_not_grow_with_the_answers(
    project: Project, items: list[Item], cat: LabelClass, bob: User, answer: Answer
) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as captured:
            work(project)
            agreement(project)
        return len(captured)

    answer(bob, items[0], cat)
    few = asked()
    for item in items[1:]:
        answer(bob, item, cat)
    assert asked() == few <= 9


# --- agreement ---


@pytest.fixture
def second(project: Project, answer: Answer) -> Callable[..., Annotation]:
    """An answer to a question of the queue that asks for a second opinion."""

    def give(who: User, item: Item, label_class: LabelClass, **reason_data: Any) -> Annotation:
        QueueEntry.objects.filter(item=item).delete()
        QueueEntry.objects.create(
            project=project,
            item=item,
            rank=0,
            reason_code=QueueEntry.Reason.SECOND_OPINION,
            reason_data=reason_data,
            leased_by=who,
            leased_until=timezone.now() + timedelta(minutes=5),
        )
        return answer(who, item, label_class)

    return give


def test_agreement_is_of_second_opinions_alone(
    project: Project, items: list[Item], cat: LabelClass, dog: LabelClass, alice: User, bob: User, carol: User,
    answer: Answer, second: Callable[..., Annotation],
) -> None:  # fmt: skip
    assert agreement(project) is None
    Membership.objects.filter(project=project, user=carol).update(role="annotator")
    for item, other in zip(items[:4], (cat, cat, cat, dog), strict=True):
        answer(bob, item, cat)
        second(alice, item, other)
    found = agreement(project)
    assert found is not None
    assert (found.n, found.same) == (4, 3)
    assert (found.low, found.high) == wilson(3, 4)
    # Seven of eight say cat: 49 / 64 + 1 / 64 agree by chance.
    assert found.chance == pytest.approx(50 / 64)
    assert found.beyond_chance == pytest.approx((0.75 - 50 / 64) / (1 - 50 / 64))
    # A third opinion, asked because two differ, counts for nothing.
    second(carol, items[3], dog, people=2)
    assert agreement(project) == found


# --- class by class ---


def test_what_is_said_of_a_class_counts_what_is_wrongly_called_so(
    model: ModelVersion, cat: LabelClass, dog: LabelClass
) -> None:
    model.metrics["audit"] = {"n": 40, "recall": [[20, 24], [10, 16]], "confused": [[1, 0, 6], [0, 1, 4]]}
    cats, dogs = class_measures(model, "audit", {cat.pk: cat, dog.pk: dog})
    assert (cats.said, cats.said_right, cats.mistaken) == (26, 20, (dog, 4))
    assert (dogs.said, dogs.said_right, dogs.mistaken) == (14, 10, (cat, 6))
    assert (cats.low, cats.high) == wilson(20, 24)
    assert class_measures(None, "audit", {}) == [] == class_measures(model, "test", {cat.pk: cat})


def test_a_rate_of_nothing_is_anything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    # 8 of 10, Wilson 1927: 0.490 to 0.943.
    assert wilson(8, 10) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))


def test_predictions_are_read_once_and_follow_the_newest_model(project: Project, model: ModelVersion) -> None:
    assert queries.predictions(project) is None
