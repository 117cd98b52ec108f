"""The past of a project as a scene: what is asked, what measures, and that the two never meet."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ml_worker import simulated_person
from ml_worker.backtest_plan import AS_IT_HAPPENED, RANDOM_CHECKS, Plan, Unit
from ml_worker.fast_loop import Answers
from ml_worker.simulated_gate import SimulatedGate, Terms
from ml_worker.simulated_project import STRANGER, UNKNOWN, Scene, at_random, held_out
from tests.pools import clouds

N, CHECKS = 200, 40


@pytest.fixture
def past() -> Scene:
    """A pool of 200 of which 60 were answered in order of their rows, and 40 more are answered random checks."""
    pool, truth = clouds(N)
    rng = np.random.default_rng(7)
    is_audit = np.zeros(N, bool)
    is_audit[rng.choice(N, CHECKS, replace=False)] = True
    answered = np.flatnonzero(~is_audit)[:60]
    targets = np.full(N, UNKNOWN, np.int64)
    targets[answered], targets[is_audit] = truth[answered], truth[is_audit]
    order = np.sort(np.concatenate([answered, np.flatnonzero(is_audit)]))
    return Scene(pool, targets, 3, ~is_audit, is_audit, np.zeros(N, bool), order)


def plan(**other: Any) -> Plan:
    given: dict[str, Any] = {"head_parameters": {"label_spreading": {"neighbours": 10, "alpha": 0.95}}, "budget": 80}
    given |= {
        "encoder": "pca_pixels",
        "encoder_parameters": {},
        "head": ["label_spreading"],
        "acquisition": ["margin"],
    }
    return Plan(**given | other)


def sit(scene: Scene, acquisition: str = "margin", **other: Any) -> list[dict[str, Any]]:
    unit = Unit(0, acquisition, "label_spreading")
    return simulated_person.runs(scene, plan(**other), unit, lambda trainer, point, done: None)


def test_each_seed_holds_out_another_half_of_the_answered_checks(past: Scene) -> None:
    halves = [held_out(past, seed) for seed in range(3)]
    for half in halves:
        assert half.is_test.sum() == half.is_audit.sum() == CHECKS / 2
        np.testing.assert_array_equal(half.is_test | half.is_audit, past.is_audit)
        assert not (half.is_test & half.is_audit).any()
        assert half.order is not None
        assert not half.is_test[half.order].any()
    assert not (halves[0].is_test == halves[1].is_test).all()
    np.testing.assert_array_equal(halves[0].is_test, held_out(past, 0).is_test)


@pytest.mark.parametrize("acquisition", ["margin", "typiclust", "random_sampling", AS_IT_HAPPENED, RANDOM_CHECKS])
def test_nothing_is_learnt_or_calibrated_from_what_measures(
    past: Scene, acquisition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Answers] = []
    learn = simulated_person.learn

    def watched(pool: Any, train: Answers, audit: Answers, *rest: Any) -> Any:
        seen.extend([train, audit])
        return learn(pool, train, audit, *rest)

    monkeypatch.setattr(simulated_person, "learn", watched)
    scene = held_out(past, 0)
    if acquisition == RANDOM_CHECKS:
        scene = at_random(scene, 0.2, 0)
    (run,) = sit(scene, acquisition)
    learnt = np.unique(np.concatenate([each.rows for each in seen]))
    assert len(learnt) == run["curve"][-1]["labels"]
    assert not scene.is_test[learnt].any()
    assert (past.targets[learnt] != UNKNOWN).all()
    assert not past.is_test[learnt].any()


def test_only_what_was_answered_is_asked_and_all_of_it_in_the_end(past: Scene) -> None:
    for acquisition in ("margin", "coreset", AS_IT_HAPPENED):
        (run,) = sit(held_out(past, 0), acquisition, budget=500)
        assert run["curve"][-1]["labels"] == 60 + CHECKS / 2


def test_what_happened_is_asked_in_its_order(past: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray] = []
    learn = simulated_person.learn

    def watched(pool: Any, train: Answers, audit: Answers, *rest: Any) -> Any:
        asked.append(np.sort(np.concatenate([train.rows, audit.rows])))
        return learn(pool, train, audit, *rest)

    monkeypatch.setattr(simulated_person, "learn", watched)
    scene = held_out(past, 3)
    sit(scene, AS_IT_HAPPENED, budget=20)
    assert scene.order is not None
    np.testing.assert_array_equal(asked[0], scene.order[:10])
    np.testing.assert_array_equal(asked[1], scene.order[:20])


def test_a_fifth_of_the_questions_are_random_checks_as_in_a_project(past: Scene) -> None:
    scene = held_out(past, 0)
    looked: list[int] = []
    take_stock = SimulatedGate.take_stock

    def counting(self: SimulatedGate, learned: Any, answered: Any, leaks: int = 0) -> Any:
        looked.append(int((answered & scene.is_audit).sum()))
        return take_stock(self, learned, answered, leaks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedGate, "take_stock", counting)
        sit(scene, "margin", budget=50)
    assert looked == [2, 4, 6, 8, 10]


def test_open_images_that_somebody_chose_are_no_measure_of_pseudo_labels(past: Scene) -> None:
    (run,) = sit(held_out(past, 0))
    assert all(point["pseudo_label_accuracy"] is None for point in run["curve"])
    assert run["curve"][-1]["test_accuracy"] == 1.0


def test_random_checks_alone_are_asked_where_they_are_all_there_is(past: Scene) -> None:
    scene = at_random(held_out(past, 0), 0.2, 0)
    known = scene.is_known & (scene.is_pool | scene.is_audit)
    assert known.sum() == CHECKS / 2
    assert past.is_audit[known].all()
    assert scene.is_audit.sum() == 4
    (run,) = sit(scene, RANDOM_CHECKS)
    assert [point["labels"] for point in run["curve"]] == [10, 20]


def test_a_scene_comes_back_from_its_folder_as_it_was(past: Scene, tmp_path: Any) -> None:
    past.save(tmp_path)
    again = Scene.load(tmp_path)
    for name in ("targets", "is_pool", "is_audit", "is_test", "order"):
        np.testing.assert_array_equal(getattr(again, name), getattr(past, name))
    assert again.n_classes == 3


# --- the gate


class Said:
    """What a model says: sure of the first class everywhere."""

    def __init__(self, n: int) -> None:
        self.logits = np.tile(np.array([[4.0, 0.0]], np.float32), (n, 1))


def whole(n_wrong_checks: int = 0, strangers: int = 0) -> Scene:
    """1,000 images to label and 100 random checks, all of the first class but for so many."""
    n = 1100
    targets = np.zeros(n, np.int64)
    targets[1000 : 1000 + n_wrong_checks] = 1
    targets[:strangers] = STRANGER
    pool, _ = clouds(n, 2)
    is_audit = np.arange(n) >= 1000
    return Scene(pool, targets, 2, ~is_audit, is_audit, np.zeros(n, bool))


def answered(scene: Scene, checks: int) -> np.ndarray:
    mask = np.zeros(len(scene.targets), bool)
    mask[1000 : 1000 + checks] = True
    return mask


def test_the_gate_waits_for_its_planned_looks_and_takes_each_once() -> None:
    scene = whole()
    gate = SimulatedGate(scene, Terms(0.9))
    said: Any = Said(len(scene.targets))
    opened = [gate.take_stock(said, answered(scene, checks)).share > 0 for checks in range(0, 101, 10)]
    assert not opened[1]
    assert opened[-1]
    times = [look.answers for look in gate.looks]
    assert len(times) > 1
    assert times == sorted(set(times))
    gate.take_stock(said, answered(scene, 100))
    assert len(gate.looks) == len(times)  # the same answers are not looked at twice
    assert all(later >= 1.25 * earlier - 10 for earlier, later in pairwise(times))
    assert sum(look.spent for look in gate.looks) < 0.05


def test_what_passes_is_judged_by_its_truth_and_strangers_are_errors() -> None:
    scene = whole(strangers=30)
    passed = SimulatedGate(scene, Terms(0.9)).take_stock(Said(len(scene.targets)), answered(scene, 100))  # type: ignore[arg-type]
    assert (passed.checked, passed.right) == (1000, 970)
    assert passed.precision == 0.97
    assert passed.share == pytest.approx(1000 / 1100)


def test_a_certificate_ends_when_later_answers_break_it() -> None:
    scene = whole(n_wrong_checks=100)
    scene.targets[1000:1060] = 0  # the first sixty checks are right, those after them wrong
    gate = SimulatedGate(scene, Terms(0.9))
    said: Any = Said(len(scene.targets))
    assert gate.take_stock(said, answered(scene, 60)).share > 0
    assert gate.take_stock(said, answered(scene, 90)).share == 0


def test_held_out_checks_are_the_truth_of_past_answers() -> None:
    base = whole()
    targets = base.targets.copy()
    targets[:1000] = UNKNOWN
    targets[1090:1095] = 1
    is_test = np.arange(1100) >= 1080
    scene = Scene(base.pool, targets, 2, base.is_pool, base.is_audit & ~is_test, is_test)
    passed = SimulatedGate(scene, Terms(0.9)).take_stock(Said(1100), answered(scene, 80))  # type: ignore[arg-type]
    assert (passed.checked, passed.right) == (20, 15)
