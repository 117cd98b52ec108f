"""When the cold start is over: the evidence, the state it is kept in, what the queue makes of it, what pages say."""

import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client

from annotator import jobs, queries
from annotator.actions import queueing
from annotator.actions.classes import add_class
from annotator.models import Annotation, Item, Job, Project, QueueEntry, Split
from annotator.phases import sentence
from ml_worker import fast_loop, previews, tasks
from ml_worker.fast_loop import Answers, LoopSettings, learn, order
from ml_worker.handover import Phase, answers_at_least, answers_at_most, by_clusters, decide, surely_more
from ml_worker.pool import Pool
from tests.pools import clouds, pool_of

NOBODY = Answers(np.zeros(0, np.int64), np.zeros(0, np.int64))


def decided(
    model: str, clusters: str, answers: int = 30, previous: Phase | None = None, met: int = 3, n_classes: int = 3
) -> Phase:
    """What follows from checks on which these are right ("1") or wrong ("0")."""
    right = [np.array([each == "1" for each in said], bool) for said in (model, clusters)]
    return decide(
        previous, answers=answers, met=met, n_classes=n_classes, model_right=right[0], clusters_right=right[1]
    )


# --- the evidence


def test_how_sure_more_wins_than_losses_make() -> None:
    # Beta(4, 1) above a half: 1 - 1/16. Beta(2, 2): a half. Beta(3, 2): four throws, at most two heads of them:
    # (1 + 4 + 6) / 16.
    assert surely_more(3, 0) == 15 / 16
    assert surely_more(1, 1) == surely_more(0, 0) == 0.5
    assert surely_more(2, 1) == 11 / 16
    assert surely_more(1, 2) == 5 / 16


def test_the_clusters_say_the_class_whose_answered_images_lie_in_the_same_direction() -> None:
    # Class 0 at 0 and 40 degrees lies at 20, class 2 at 90; class 1 has no answer. 50 degrees is 30 from 20, 40 from
    # 90; 60 is 40 from 20 and 30 from 90. The answer nearest to both, at 40 degrees, would say 0. Lengths are nothing.
    angles = np.deg2rad([0, 40, 90, 50, 60])
    points = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [9], [1], [5], [0.1]]).astype(np.float32)
    said = by_clusters(points, np.array([0, 1, 2]), np.array([0, 0, 2]), np.array([3, 4, 0]), 3)
    assert said.tolist() == [0, 2, 0]
    assert said.dtype == np.int64
    assert by_clusters(points, np.array([0]), np.array([1]), np.array([], np.int64), 3).tolist() == []


@pytest.mark.parametrize(
    ("model", "clusters", "why"),
    [
        ("", "", "unproven"),
        ("11", "11", "unproven"),  # 7/8 sure to be right more often than wrong
        ("111", "111", "able"),  # 15/16
        ("1100000000", "1110000000", "clusters"),
        ("1110000000", "1110000000", "unproven"),
        ("1111000000", "0000000000", "beats"),  # 31/32 sure to beat them, and wrong more often than right
        ("1110000000", "0000000000", "unproven"),  # 15/16
        ("11111111110", "11111111111", "clusters"),  # however able, it is behind
    ],
)
def test_the_model_leads_once_it_is_surely_better_or_surely_able(model: str, clusters: str, why: str) -> None:
    found = decided(model, clusters)
    assert found.why == why
    assert found.is_overview == (why in ("clusters", "unproven"))
    assert found.since == (None if found.is_overview else 30 + len(model))
    assert (found.checks, found.model_right, found.clusters_right) == (
        len(model),
        model.count("1"),
        clusters.count("1"),
    )


def test_the_first_answers_are_for_the_overview_whatever_the_checks_say() -> None:
    assert answers_at_least(3) == 20 and answers_at_least(50) == 100
    assert decided("1111", "0000", answers=19).why == "first_answers"
    assert decided("1111", "0000", answers=20).why == "beats"


@pytest.mark.parametrize(("model", "clusters"), [("", ""), ("0000", "1111"), ("1000", "1000")])
def test_nobody_is_stuck_with_the_overview(model: str, clusters: str) -> None:
    assert answers_at_most(3) == 100 and answers_at_most(10) == 200
    assert decided(model, clusters, answers=99).is_overview
    assert decided(model, clusters, answers=100).why == "enough"


def test_without_a_model_there_is_nothing_to_hand_over_to() -> None:
    found = decide(None, answers=500, met=1, n_classes=3, model_right=None, clusters_right=np.ones(9, bool))
    assert (found.is_overview, found.why, found.checks, found.clusters_right) == (True, "first_answers", 9, 9)


# --- once handed over


def test_what_was_handed_over_stays_so_with_the_reason_of_that_time() -> None:
    handed = decided("111", "111")
    assert decided("000000", "111111", answers=60, previous=handed) == handed
    overview = decided("1100000000", "1110000000")
    assert decided("111110", "111000", answers=60, previous=overview).why == "able"


def test_a_class_without_an_answer_brings_the_overview_back_for_a_share_and_a_while() -> None:
    handed = decided("111", "111", answers=30)
    assert not handed.is_seeking and handed.unmet_since is None
    added = decided("111", "111", answers=50, previous=handed, n_classes=4)
    assert (added.is_overview, added.is_seeking, added.unmet, added.unmet_since) == (False, True, 1, 50)
    still = decided("111", "111", answers=69, previous=added, n_classes=4)
    assert still == added
    given_up = decided("111", "111", answers=70, previous=still, n_classes=4)
    assert (given_up.is_seeking, given_up.unmet) == (False, 1)
    # Another one that is added starts the time anew; what is found ends it.
    more = decided("111", "111", answers=90, previous=given_up, n_classes=5)
    assert (more.is_seeking, more.unmet, more.unmet_since) == (True, 2, 90)
    found = decided("111", "111", answers=95, previous=more, met=5, n_classes=5)
    assert (found.is_seeking, found.unmet, found.unmet_since) == (False, 0, None)


def test_a_class_nobody_met_by_the_hand_over_is_looked_for_at_once() -> None:
    handed = decided("111", "111", answers=30, met=2)
    assert (handed.is_seeking, handed.unmet, handed.unmet_since) == (True, 1, 30)


def test_a_phase_survives_being_stored() -> None:
    phase = decided("1111000000", "0000000000", met=2)
    assert Phase.from_json(phase.to_json()) == phase
    assert Phase.from_json(phase.to_json() | {"from another version": 1}) == phase
    assert Phase.from_json(None) is None


# --- the queue

SETTINGS = LoopSettings("prototype", {}, "margin", queue_length=20, audit_share=0.0)


def test_the_loop_holds_the_model_against_the_clusters_on_the_checks() -> None:
    pool, targets = clouds(90, spread=0.3)
    rows, checks = np.arange(30), np.arange(60, 70)
    train, audit = Answers(rows, targets[rows]), Answers(checks, targets[checks])
    settings = LoopSettings("label_spreading", {"neighbours": 10, "alpha": 0.9}, "margin", n_classes=3)
    learned = learn(pool, train, audit, 3, settings)
    phase = fast_loop.phase(pool, learned, train, audit, 3)
    assert (phase.why, phase.since, phase.checks) == ("able", 40, 10)
    assert (phase.model_right, phase.clusters_right) == (10, 10)
    assert fast_loop.phase(pool, None, train, audit, 3).model_right == 0
    assert fast_loop.phase(pool, None, NOBODY, audit, 3).clusters_right == 0
    # Strangers were asked about, too.
    few = Answers(rows[:15], targets[:15], strangers=np.arange(40, 45))
    assert not fast_loop.phase(pool, learned, few, audit, 3).is_overview


def codes(phase: Phase | None, asked: int, **changed: Any) -> list[str]:
    pool, targets = clouds(120, spread=1.5)
    settings = LoopSettings(
        **({"head": "label_spreading", "head_parameters": {"neighbours": 10, "alpha": 0.9}} | vars_of(changed))
    )
    rows = np.arange(asked)
    train = Answers(rows, targets[rows])
    learned = learn(pool, train, NOBODY, 3, settings)
    entries = order(
        pool, learned, np.arange(60, 120), NOBODY.rows, rows, settings, np.random.default_rng(0), train, phase
    )
    assert len({entry.row for entry in entries}) == len(entries) == settings.queue_length
    return [entry.reason_code for entry in entries]


def vars_of(changed: dict[str, Any]) -> dict[str, Any]:
    return {"acquisition": "margin", "queue_length": 20, "audit_share": 0.0} | changed


def test_the_queue_follows_the_phase_and_not_the_number_of_answers() -> None:
    assert set(codes(Phase(why="clusters"), asked=60)) == {"typical"}
    assert set(codes(Phase(why="able", since=20), asked=9)) == {"close_call"}
    assert set(codes(None, asked=60)) == {"close_call"}
    assert set(codes(None, asked=9)) == {"typical"}


def test_every_fourth_question_looks_for_classes_without_an_answer() -> None:
    seeking = Phase(why="able", since=20, unmet=1, unmet_since=30, is_seeking=True)
    assert codes(seeking, asked=30).count("typical") == 5
    assert codes(seeking, asked=30)[:4].count("typical") <= 1
    for acquisition in ("random_sampling", "typiclust"):
        assert len(set(codes(seeking, asked=30, acquisition=acquisition))) == 1
    assert codes(seeking, asked=30, queue_length=1) == ["close_call"]
    # More of them than there are other open items: all are asked.
    assert len(codes(seeking, asked=30, queue_length=60)) == 60


def test_what_the_overview_asks_for_does_not_copy_the_question_before_it() -> None:
    # Every picture twice. The third of the close calls copies the first of the typical ones, which comes fourth.
    pool = pool_of(np.repeat(np.random.default_rng(0).normal(size=(60, 3)), 2, axis=0))

    def asked(phase: Phase, probs: np.ndarray) -> list[int]:
        learned = fast_loop.Learned(probs, np.log(probs), None, None, {})
        given = (pool, learned, np.arange(120), NOBODY.rows, NOBODY.rows, SETTINGS)
        return [entry.row for entry in order(*given, np.random.default_rng(0), NOBODY, phase)]

    seeking = Phase(why="able", since=20, unmet=1, unmet_since=30, is_seeking=True)
    probs = np.tile(np.array([0.9, 0.1], np.float32), (120, 1))
    typical = asked(seeking, probs)[3]
    others = [row for row in range(0, 120, 2) if row // 2 != typical // 2][:3]
    for rank, row in enumerate([*others[:2], typical ^ 1, others[2]]):
        probs[row] = [0.5 + 0.01 * rank, 0.5 - 0.01 * rank]
    rows = asked(seeking, probs)
    assert rows[:2] == others[:2]
    assert {typical, typical ^ 1} < set(rows[:6])
    assert all(one // 2 != other // 2 for one, other in pairwise(rows))


# --- what is said of it

OVERVIEW: dict[str, Any] = Phase(why="clusters", checks=18, model_right=10, clusters_right=11).to_json()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "The clusters still know more than the model: right on 11 of 18 random checks, the model on 10.",
        ),
        ({"why": "first_answers"}, "The first answers are always for that."),
        (
            {"why": "unproven", "model_right": 11},
            "The model is right on 11 of 18 random checks, the clusters on 11: too few to go by its doubt.",
        ),
        (
            {"why": "unproven", "checks": 0, "model_right": 0, "clusters_right": 0},
            "No random check is answered yet that could tell whether the model knows more than the clusters.",
        ),
        (
            {"why": "able", "since": 32, "checks": 1, "model_right": 1, "clusters_right": 0},
            "The model's doubt leads since answer 32: right on 1 of 1 random check, the clusters on 0.",
        ),
        (
            {"why": "enough", "since": 1200, "unmet": 2, "is_seeking": True},
            "The model's doubt leads since answer 1,200: by then the overview had taken its share, whatever the checks"
            " said. A quarter of the questions looks for the 2 classes without an answer.",
        ),
    ],
)
def test_the_phase_is_explained_in_counts(changed: dict[str, Any], said: str) -> None:
    assert sentence(OVERVIEW | changed, "margin") == said


def test_where_nothing_is_handed_over_nothing_is_said_of_it() -> None:
    assert sentence(None, "margin") == ""
    assert sentence({}, "margin") == ""
    assert sentence(OVERVIEW, "random_sampling") == sentence(OVERVIEW, "typiclust") == ""


def embedded(project: Project, n: int, n_audit: int) -> tuple[list[Item], np.ndarray]:
    """Items of three clouds, the last ones audit items, with an embedding that nobody had to compute."""
    items = Item.objects.bulk_create(
        Item(
            project=project,
            sha256=uuid.uuid4().hex * 2,
            storage_key="none",
            thumbnail_key="none",
            width=8,
            height=8,
            size_bytes=1,
            mime="image/png",
            source_name=str(row),
            split=Split.AUDIT if row >= n - n_audit else Split.POOL,
        )
        for row in range(n)
    )
    pool, targets = clouds(n, spread=0.4)
    folder = Path(django_settings.ARTIFACT_ROOT) / f"{project.pk}/clouds"
    Pool(pool.embeddings, pool.neighbours, pool.distances, pool.indexed).save(folder)
    np.save(folder / "item_ids.npy", np.array([item.pk for item in items], np.int64))
    np.save(folder / "splits.npy", np.array([item.split == Split.AUDIT for item in items], np.uint8))
    Job.objects.create(
        project=project,
        kind=Job.Kind.EMBED,
        state=Job.State.DONE,
        result={"folder": f"{project.pk}/clouds", "n": n, "image_px": 8, "encoder": "pca_pixels"},
    )
    return items, targets


def test_a_project_hands_over_by_its_checks_says_so_and_looks_for_a_class_that_is_added(
    project: Project,
    alice: User,
    answer: Callable[..., Annotation],
    login: Callable[[User], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_class(project=project, actor=alice, name="bird")
    classes = list(project.classes.order_by("position"))
    monkeypatch.setattr(previews, "write", lambda *given: None)  # there are no images to draw
    items, targets = embedded(project, 120, 20)

    def answered(rows: list[int]) -> None:
        queueing.fill_queue(project=project, entries=[queueing.Ranked(items[row].pk, 0.0, "random") for row in rows])
        for row in rows:
            answer(alice, items[row], classes[targets[row]])

    def refit() -> dict[str, Any]:
        job = jobs.enqueue(project, Job.Kind.REFIT)
        tasks.run_job(job.pk)
        job.refresh_from_db()
        assert job.state == Job.State.DONE, job.error
        model = queries.current_model(project)
        assert model is not None
        phase: dict[str, Any] = model.metrics["phase"]
        return phase

    def reasons() -> set[str]:
        return set(QueueEntry.objects.filter(project=project).values_list("reason_code", flat=True)) - {"audit"}

    answered([*range(24), 100, 101])
    assert refit()["why"] == "unproven"  # two checks decide nothing
    assert reasons() == {"typical"}
    assert (
        "the clusters on 2: too few to go by its doubt."
        in login(alice).get(f"/projects/{project.pk}/?about=accuracy").text
    )

    answered([102, 103])
    phase = refit()
    assert (phase["why"], phase["since"], phase["checks"]) == ("able", 28, 4)
    assert reasons() == {"close_call"}
    told = "since answer 28: right on 4 of 4 random checks, the clusters on 4."
    assert queries.phase_told(project, queries.current_model(project)).endswith(told)
    assert told in login(alice).get(f"/projects/{project.pk}/?about=accuracy").text
    # Where people label, the phase alone: a sentence that comes and goes would move the image.
    assert "Asking about close calls" in login(alice).get(f"/projects/{project.pk}/label/").text

    add_class(project=project, actor=alice, name="fish")
    answered([30])
    phase = refit()
    assert (phase["since"], phase["unmet"], phase["is_seeking"]) == (28, 1, True)
    assert reasons() == {"close_call", "typical"}
