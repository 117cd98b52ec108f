"""The fast loop over arrays: what is learnt, what is asked next, and why."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from annotator.algorithms import catalogue, clean_parameters
from ml_worker import acquisition, fast_loop, heads
from ml_worker.fast_loop import (
    Answers,
    Entry,
    Learned,
    LoopSettings,
    NotEnoughLabels,
    cold_start_answers,
    learn,
    order,
)
from ml_worker.pool import Pool
from tests.pools import clouds, pool_of

N = 120
SETTINGS = LoopSettings("label_spreading", clean_parameters("head", "label_spreading", {}), "margin", queue_length=40)
NOBODY = Answers(np.zeros(0, np.int64), np.zeros(0, np.int64))


def answers(targets: np.ndarray, rows: Any) -> Answers:
    return Answers(np.asarray(rows, np.int64), targets[np.asarray(rows)])


def taught(n_answers: int = 30) -> tuple[Pool, np.ndarray, Learned]:
    pool, targets = clouds(N, spread=1.5)
    return pool, targets, learn(pool, answers(targets, range(n_answers)), NOBODY, 3, SETTINGS)


def queue(
    pool: Pool,
    learned: Learned | None,
    *,
    candidates: Any = range(30, 100),
    audit: Any = range(100, 120),
    asked: Any = range(30),
    settings: LoopSettings = SETTINGS,
    seed: int = 0,
    train: Answers | None = None,
) -> list[Entry]:
    """The queue, after checking what holds for every queue."""
    given = [np.asarray(rows, np.int64) for rows in (candidates, audit, asked)]
    entries = order(pool, learned, *given, settings, np.random.default_rng(seed), train)
    rows = [entry.row for entry in entries]
    assert [entry.rank for entry in entries] == list(range(len(entries)))
    assert len(entries) == min(settings.queue_length, len(given[0]) + len(given[1]))
    assert len(set(rows)) == len(rows)
    assert {e.row for e in entries if e.reason_code == "audit"} <= set(given[1].tolist())
    assert {e.row for e in entries if e.reason_code != "audit"} <= set(given[0].tolist())
    return entries


# --- learning


def test_learning_scores_every_row_with_probabilities() -> None:
    _, targets, learned = taught()
    assert learned.probs.shape == (N, 3)
    np.testing.assert_allclose(learned.probs.sum(axis=1), 1, atol=1e-5)
    assert (learned.probs.argmax(axis=1) == targets).mean() > 0.9
    assert set(learned.seconds) == {"fit", "score"}
    assert learned.audit is None and learned.temperature is None


def test_audit_answers_measure_and_calibrate_but_never_teach() -> None:
    pool, targets = clouds(N, spread=1.5)
    train = answers(targets, range(30))
    rows = np.arange(60, 110)
    honest = learn(pool, train, answers(targets, rows), 3, SETTINGS)
    lying = learn(pool, train, Answers(rows, (targets[rows] + 1) % 3), 3, SETTINGS)
    np.testing.assert_array_equal(honest.logits, lying.logits)
    assert honest.audit and lying.audit
    assert honest.audit["n"] == lying.audit["n"] == 50
    assert honest.audit["accuracy"] > 0.8 > 0.2 > lying.audit["accuracy"]
    assert honest.temperature and lying.temperature and honest.temperature < lying.temperature


def test_there_is_no_temperature_before_thirty_audit_answers() -> None:
    pool, targets = clouds(N, spread=1.5)
    few = learn(pool, answers(targets, range(30)), answers(targets, range(60, 89)), 3, SETTINGS)
    assert few.temperature is None and few.audit and few.audit["n"] == 29


@pytest.mark.parametrize("rows", [[], [0], [0, 3, 6]])
def test_one_class_alone_teaches_nothing(rows: list[int]) -> None:
    pool, targets = clouds(N)
    with pytest.raises(NotEnoughLabels, match="of 3 classes; label at least 2"):
        learn(pool, Answers(np.array(rows, np.int64), targets[rows]), NOBODY, 3, SETTINGS)


@pytest.mark.parametrize("head", [head.name for head in catalogue("head")])
def test_every_head_works_with_every_acquisition_function(head: str) -> None:
    pool, targets = clouds(N, spread=1.5)
    settings = replace(SETTINGS, head=head, head_parameters=clean_parameters("head", head, {}), acquisition="bald")
    train = answers(targets, range(30))
    learned = learn(pool, train, NOBODY, 3, settings)
    for function in catalogue("acquisition"):
        own = replace(settings, acquisition=function.name)
        assert queue(pool, learned, settings=own, train=train) == queue(pool, learned, settings=own, train=train)


def test_members_that_know_strangers_have_a_class_for_them() -> None:
    pool, targets = clouds(N, spread=0.5)
    # The third cloud belongs to none of two classes.
    known, strangers = np.flatnonzero(targets[:30] < 2), np.flatnonzero(targets[:30] == 2)
    train = Answers(known, targets[known], strangers=strangers)
    learned = learn(pool, train, NOBODY, 2, replace(SETTINGS, acquisition="inlier_margin"))
    assert learned.probs.shape == (N, 2)
    assert learned.member_probs is not None and learned.member_probs.shape == (heads.MEMBERS, N, 3)
    is_stranger = learned.member_probs.mean(axis=0).argmax(axis=1) == 2
    np.testing.assert_array_equal(is_stranger, targets == 2)
    alone = learn(pool, replace(train, strangers=known[:0]), NOBODY, 2, replace(SETTINGS, acquisition="inlier_margin"))
    assert alone.member_probs is None


def test_answers_must_fit_their_targets() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Answers(np.zeros(2, np.int64), np.zeros(3, np.int64))


# --- the queue


def test_before_any_answer_the_queue_is_typical_items_with_audit_items_between() -> None:
    pool, _ = clouds(N)
    entries = queue(pool, None, asked=[])
    assert {entry.reason_code for entry in entries} == {"typical", "audit"}


def test_each_stretch_of_five_holds_one_audit_item_while_there_are_any() -> None:
    pool, _, learned = taught()
    codes = [entry.reason_code for entry in queue(pool, learned)]
    assert [codes[at : at + 5].count("audit") for at in range(0, 40, 5)] == [1] * 8
    few = [entry.reason_code for entry in queue(pool, learned, audit=[100, 101])]
    assert few[:10].count("audit") == few.count("audit") == 2
    none = queue(pool, learned, settings=replace(SETTINGS, audit_share=0.0))
    assert all(entry.reason_code == "close_call" for entry in none)


def test_audit_items_are_drawn_evenly() -> None:
    pool, _, learned = taught()
    firsts = [
        next(e.row for e in queue(pool, learned, seed=seed) if e.reason_code == "audit") - 100 for seed in range(400)
    ]
    # 400 draws of 1 in 20: 20 each, standard deviation 4.4.
    assert abs(np.bincount(firsts, minlength=20) - 20).max() < 4.5 * 4.4


def test_when_only_audit_items_are_left_they_are_all_asked() -> None:
    pool, _, learned = taught()
    assert sorted(entry.row for entry in queue(pool, learned, candidates=[])) == list(range(100, 120))
    rest = queue(pool, learned, candidates=[30, 31])
    assert sorted(entry.row for entry in rest) == [30, 31, *range(100, 120)]
    assert queue(pool, learned, candidates=[], audit=[]) == []


@pytest.mark.parametrize("name", ["coreset", "margin", "rare_class"])
def test_what_needs_a_model_never_opens_a_project(name: str) -> None:
    pool, _ = clouds(N)
    usual, other = (queue(pool, None, asked=[], settings=replace(SETTINGS, cold_start=n)) for n in ("typiclust", name))
    assert other == usual
    assert queue(pool, None, asked=[], settings=replace(SETTINGS, cold_start="probcover")) != usual


def test_the_models_doubt_leads_once_the_cold_start_is_over() -> None:
    pool, targets, _ = taught()
    assert cold_start_answers(3) == 20
    assert cold_start_answers(50) == 100
    for given, wanted in ((19, "typical"), (20, "close_call")):
        learned = learn(pool, answers(targets, range(given)), NOBODY, 3, SETTINGS)
        entries = queue(pool, learned, asked=range(given))
        assert {entry.reason_code for entry in entries} == {wanted, "audit"}


def test_a_close_call_names_both_classes_and_how_likely_they_are() -> None:
    pool, _, learned = taught()
    for entry in queue(pool, learned):
        if entry.reason_code == "close_call":
            first, second = entry.reason_data["classes"]
            probs = learned.probs[entry.row]
            assert (probs[first], probs[second]) == tuple(np.sort(probs)[:-3:-1])
            assert entry.reason_data["probs"] == [round(float(probs[c]), 4) for c in (first, second)]
            assert entry.utility == pytest.approx(1 - (probs[first] - probs[second]), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("margin", {"close_call"}),
        ("least_confidence", {"unsure"}),
        ("badge", {"unsure"}),
        ("coreset", {"unlike"}),
        ("probcover", {"typical"}),
        ("rare_class", {"scarce"}),
        ("disagreement", {"close_call", "disputed"}),
    ],
)
def test_each_function_says_why(name: str, wanted: set[str]) -> None:
    pool, targets, learned = taught()
    settings = replace(SETTINGS, acquisition=name, audit_share=0.0)
    entries = queue(pool, learned, settings=settings, train=answers(targets, range(28)))
    assert {entry.reason_code for entry in entries} == wanted
    for entry in entries:
        if entry.reason_code == "unsure":
            assert entry.reason_data["classes"][0] == learned.probs[entry.row].argmax()
        if entry.reason_code == "scarce":
            assert entry.reason_data == {"class": 1}  # answers 0 to 27 hold ten, nine and nine of the classes
        if entry.reason_code == "disputed":
            assert entry.utility > 0


def test_random_order_is_random_from_the_first_answer() -> None:
    pool, _ = clouds(N)
    entries = queue(pool, None, asked=[], settings=replace(SETTINGS, acquisition="random_sampling"))
    assert {entry.reason_code for entry in entries} == {"random", "audit"}


def test_the_queue_does_not_depend_on_the_order_items_come_in() -> None:
    pool, _, learned = taught()
    straight = queue(pool, learned)
    mixed = queue(pool, learned, candidates=np.random.default_rng(3).permutation(np.arange(30, 100)))
    assert [entry.row for entry in mixed] == [entry.row for entry in straight]


def test_a_near_copy_does_not_follow_its_original() -> None:
    # Every picture twice: two copies are never asked one after the other.
    points = np.repeat(np.random.default_rng(0).normal(size=(40, 3)), 2, axis=0)
    entries = queue(pool_of(points), None, candidates=range(80), audit=[], asked=[])
    rows = [entry.row // 2 for entry in entries]
    assert all(one != next_one for one, next_one in pairwise(rows))


def test_the_first_questions_of_a_long_queue_cover_all_regions() -> None:
    pool, targets = clouds(300, n_classes=6)
    long = replace(SETTINGS, queue_length=200, audit_share=0.0)
    first = [entry.row for entry in queue(pool, None, candidates=range(300), audit=[], asked=[], settings=long)][:12]
    assert len(set(targets[first].tolist())) == 6


class Watched(np.ndarray):
    """Embeddings that note how many of them are read at once."""

    most = 0

    def __getitem__(self, which: Any) -> Any:
        read = np.asarray(self)[which]
        Watched.most = max(Watched.most, len(read) if read.ndim == 2 else 1)
        return read


def many(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool of 2,000 items, where anything over 500 counts as many."""
    monkeypatch.setattr(acquisition, "_EXACT", 500)
    monkeypatch.setattr(acquisition, "_SAMPLE", 200)
    monkeypatch.setattr(acquisition, "_WINDOW", 100)
    monkeypatch.setattr(fast_loop, "_AT_MOST", 500)
    drawn, _ = clouds(2000, spread=1.5)
    Watched.most = 0
    return Pool(drawn.embeddings.view(Watched), drawn.neighbours, drawn.distances, drawn.indexed)


@pytest.mark.parametrize(("name", "most"), [("margin", 200), ("random_sampling", 200), ("typiclust", 500)])
def test_the_embeddings_of_a_large_pool_are_never_all_read_for_a_queue(
    name: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = many(monkeypatch)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 2000).astype(np.float32)
    learned = None if name == "typiclust" else Learned(probs, np.log(probs), None, None, {})
    settings = replace(SETTINGS, acquisition=name)
    rows = [
        e.row for e in queue(pool, learned, candidates=range(30, 1900), audit=range(1900, 2000), settings=settings)
    ]
    assert Watched.most <= most
    again = queue(pool, learned, candidates=range(30, 1900), audit=range(1900, 2000), settings=settings)
    assert [entry.row for entry in again] == rows


def test_a_queue_longer_than_the_sample_of_a_cold_start_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = many(monkeypatch)
    settings = replace(SETTINGS, queue_length=900, audit_share=0.0)
    assert len(queue(pool, None, candidates=range(1900), audit=(), asked=(), settings=settings)) == 900


def test_a_long_run_of_copies_does_not_end_the_search_in_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = many(monkeypatch)
    points = np.asarray(pool.embeddings).copy()
    points[:1500] = points[0]
    probs = np.full((2000, 2), 0.5, np.float32)
    probs[1500:] = [0.6, 0.4]  # less in doubt than any copy
    learned = Learned(probs, np.log(probs), None, None, {})
    settings = replace(SETTINGS, queue_length=10, audit_share=0.0)
    entries = queue(
        replace(pool, embeddings=points), learned, candidates=range(2000), audit=(), asked=(), settings=settings
    )
    assert sum(entry.row < 1500 for entry in entries) == 1
