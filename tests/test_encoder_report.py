"""Encoders ranked by the first answers: sure where it can be, silent where it cannot."""

import numpy as np
import pytest

from ml_worker.encoder_report import accuracy, rank


def embeddings(targets: np.ndarray, signal: float, seed: int = 0) -> np.ndarray:
    """Noise (L, 8) in which the class shows as far as signal goes."""
    noise = np.random.default_rng(seed).normal(size=(len(targets), 8))
    return np.asarray(noise + signal * np.eye(8)[targets], np.float32)


TARGETS = np.arange(120) % 4


def test_the_clearly_better_encoder_is_recommended_with_its_reason() -> None:
    given = {"weak": embeddings(TARGETS, 0.5), "strong": embeddings(TARGETS, 6.0, seed=1)}
    report = rank(given, TARGETS, seed=0)
    assert [line.name for line in report.lines] == ["strong", "weak"]
    assert report.recommended == "strong"
    assert report.why.startswith("strong is right on ") and "weak, the next," in report.why
    assert report.lines[0].probe.low > report.lines[1].probe.high
    # The scale of an embedding is no merit.
    report = rank({"weak": 1000 * given["weak"], "strong": 0.001 * given["strong"]}, TARGETS, seed=0)
    assert report.recommended == "strong"


def test_encoders_that_are_alike_are_not_told_apart() -> None:
    given = {name: embeddings(TARGETS, 1.5, seed) for seed, name in enumerate(("one", "other", "third"))}
    report = rank(given, TARGETS, seed=0)
    assert report.recommended == ""
    assert report.why.startswith("Cannot tell yet: after 120 answers")
    assert rank({"one": given["one"], "copy": given["one"]}, TARGETS, seed=0).recommended == ""


def test_alike_encoders_are_seldom_told_apart_by_chance() -> None:
    targets = np.arange(40) % 4
    told = [
        rank({"a": embeddings(targets, 1.5, 2 * k), "b": embeddings(targets, 1.5, 2 * k + 1)}, targets, seed=k)
        for k in range(10)
    ]
    assert sum(report.recommended != "" for report in told) <= 2


def test_an_encoder_is_judged_on_answers_it_was_not_taught() -> None:
    # Pure noise: what is taught is learned by heart, and what is held out is a guess among four.
    line = rank({"noise": embeddings(TARGETS, 0.0)}, TARGETS, seed=0).lines[0]
    assert line.knn.rate < 0.45 and line.probe.rate < 0.45


@pytest.mark.parametrize("targets", [np.arange(9) % 3, np.zeros(30, np.int64)])
def test_too_few_answers_or_one_class_tell_nothing(targets: np.ndarray) -> None:
    report = rank({"a": embeddings(targets, 3.0), "b": embeddings(targets, 0.0)}, targets, seed=0)
    assert report.recommended == ""
    assert report.why.startswith("Cannot tell yet")


def test_a_class_with_a_single_answer_is_no_obstacle() -> None:
    targets = np.array([0] * 10 + [1] * 10 + [2])
    assert rank({"a": embeddings(targets, 6.0)}, targets, seed=0).lines[0].knn.rate >= 0.8
    pairs = np.array([0] * 11 + [1])
    rank({"a": embeddings(pairs, 1.0)}, pairs, seed=0)


def test_the_interval_as_by_hand() -> None:
    # Wilson, 8 of 10: middle (0.8 + 0.19207) / 1.38415 = 0.7167, half width 0.2266.
    found = accuracy(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert accuracy(10, 10).high == pytest.approx(1) and accuracy(0, 10).low == pytest.approx(0)


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same items"):
        rank({"a": embeddings(TARGETS, 1.0)[:50]}, TARGETS, seed=0)
    with pytest.raises(ValueError, match="no encoder"):
        rank({}, TARGETS, seed=0)


def test_items_without_an_answer_say_where_the_middle_is_and_are_not_counted() -> None:
    pool = np.concatenate([embeddings(TARGETS, 6.0), np.full((500, 8), 30, np.float32)])
    report = rank({"a": pool}, TARGETS, seed=0)
    assert report.why.startswith("Only a took part: ")
    assert report.lines[0].probe.rate > 0.9
    with pytest.raises(ValueError, match="not the same items"):
        rank({"a": pool, "b": pool[:-1]}, TARGETS, seed=0)


def test_only_the_judged_items_count_and_the_others_teach() -> None:
    # The first 80 carry no signal, the last 40 do: judged on those alone nearly all are right.
    given = np.concatenate([embeddings(TARGETS[:80], 0.0), embeddings(TARGETS[80:], 8.0, seed=1)])
    judged = np.arange(120) >= 80
    line = rank({"a": given}, TARGETS, seed=0, judged=judged, what="random checks").lines[0]
    assert line.knn.rate > 0.9 > rank({"a": given}, TARGETS, seed=0).lines[0].knn.rate
    few = rank({"a": given}, TARGETS, seed=0, judged=np.arange(120) < 9, what="random checks")
    assert few.why == "Cannot tell yet: 9 random checks in 4 classes; 10 in two are needed."


def test_a_few_items_that_differ_are_no_proof() -> None:
    # 36 items told apart perfectly; the other encoder has 3 of them among the wrong class.
    targets = np.arange(36) % 2
    good = embeddings(targets, 20.0)
    worse = good.copy()
    worse[:3] = good[[1, 0, 1]]
    report = rank({"good": good, "worse": worse}, targets, seed=0)
    assert report.lines[0].score > report.lines[1].score
    assert report.recommended == ""
