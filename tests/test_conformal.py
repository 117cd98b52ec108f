"""Short lists hold the right class as often as promised: cases by hand, and many draws of a known world."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest

from ml_worker.conformal import answers_needed, coverage_law, fit, in_turn, place, scores

PROMISES = (0.8, 0.9, 0.95, 0.99)


def logits_of(truth_probs: list[float], targets: list[int], n_classes: int = 2) -> np.ndarray:
    """Logits whose softmax gives the true class so much and the others the rest in equal parts."""
    probs = np.empty((len(targets), n_classes))
    for row, (prob, target) in enumerate(zip(truth_probs, targets, strict=True)):
        probs[row] = (1 - prob) / (n_classes - 1)
        probs[row, target] = prob
    return np.log(probs).astype(np.float32)


def world(
    rng: np.random.Generator, n: int, share: tuple[float, ...] = (0.6, 0.3, 0.1)
) -> tuple[np.ndarray, np.ndarray]:
    """Items of three classes of different size and difficulty, and what a model that is far too sure says of them."""
    targets = rng.choice(3, n, p=share)
    pull = np.array([3.0, 1.5, 0.5])[targets]
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), targets] += pull
    return (3 * logits).astype(np.float32), targets


@pytest.mark.parametrize("promise", PROMISES)
def test_the_threshold_is_the_smallest_rank_that_keeps_the_promise(promise: float) -> None:
    share = Fraction(str(promise))
    for n in range(answers_needed(promise), 500):
        k = place(n, promise)
        # A new score is at most the k-th of n with probability k / (n + 1).
        assert Fraction(k, n + 1) >= share > Fraction(k - 1, n + 1)
        assert k <= n
    assert place(answers_needed(promise) - 1, promise) == answers_needed(promise)  # one more than there are


def test_nine_in_ten_need_nine_answers_and_nineteen_in_twenty_need_nineteen() -> None:
    assert [answers_needed(promise) for promise in PROMISES] == [4, 9, 19, 99]


def test_a_case_by_hand() -> None:
    # Nine answers "0", probability of the truth 0.91, 0.92 ... 0.99: the ninth smallest score of nine is that of 0.91.
    # Nineteen answers "1", from 0.50 in steps of 0.02: ceil(20 * 0.9) = 18, the second least probable, 0.52.
    truth = [0.91 + step / 100 for step in range(9)] + [0.5 + step / 50 for step in range(19)]
    targets = [0] * 9 + [1] * 19
    lists = fit(logits_of(truth, targets), np.array(targets))
    assert lists is not None
    np.testing.assert_allclose(lists.highest, -np.log([0.91, 0.52]), atol=1e-6)
    assert lists.own.all() and lists.answers.tolist() == [9, 19]
    asked = logits_of([0.95, 0.6, 0.9, 0.45], [0, 1, 0, 1])
    # 0.95 of "0"; 0.6 of "1"; 0.9 of "0" is less than 0.91: unlike both; 0.45 of "1", 0.55 of "0": unlike both.
    assert lists.of(asked).tolist() == [[True, False], [False, True], [False, False], [False, False]]


def test_a_class_with_too_few_answers_goes_by_all_of_them_together() -> None:
    # Eight answers "1" are one too few: with the twelve "0", ceil(21 * 0.9) = 19 of 20, the second least probable.
    truth = [0.9] * 12 + [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85]
    targets = [0] * 12 + [1] * 8
    lists = fit(logits_of(truth, targets, 3), np.array(targets))
    assert lists is not None
    assert lists.own.tolist() == [True, False, False]
    np.testing.assert_allclose(np.exp(-lists.highest), [0.9, 0.55, 0.55], atol=1e-6)


def test_too_few_answers_promise_nothing() -> None:
    logits, targets = world(np.random.default_rng(0), 9)
    assert fit(logits[:8], targets[:8]) is None
    assert fit(logits, targets) is not None
    assert fit(logits, targets, 0.95) is None
    with pytest.raises(ValueError, match=r"8 answers make no threshold for 0\.9; wanted 9"):
        coverage_law(8, 0.9)


def test_ties_are_listed() -> None:
    targets = np.array([0] * 20 + [1] * 20)
    lists = fit(logits_of([0.7] * 40, targets.tolist()), targets)
    assert lists is not None
    assert lists.of(logits_of([0.7], [0])).tolist() == [[True, False]]
    assert lists.of(logits_of([0.6999], [0])).tolist() == [[False, False]]


def test_the_order_of_answers_rows_and_classes_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    logits, targets = world(rng, 200)
    lists = fit(logits, targets)
    shuffled = rng.permutation(200)
    again = fit(logits[shuffled], targets[shuffled])
    classes = np.array([2, 0, 1])
    renamed = fit(logits[:, classes], np.argsort(classes)[targets])
    assert lists is not None and again is not None and renamed is not None
    assert (lists.highest == again.highest).all()
    np.testing.assert_allclose(lists.highest[classes], renamed.highest, rtol=1e-12)


def test_a_temperature_that_is_common_to_all_or_huge_logits_break_nothing() -> None:
    logits, targets = world(np.random.default_rng(2), 300)
    sure = fit(300 * logits, targets)
    assert sure is not None and np.isfinite(sure.highest).all()
    # 1 - softmax would be 0 for most of them, and every class with a probability above 0 the same.
    assert len(np.unique(scores(300 * logits))) > 300


def test_a_class_that_a_network_has_never_heard_of_is_always_listed_when_nothing_else_can_be_promised() -> None:
    logits, targets = world(np.random.default_rng(3), 200)
    logits[:, 2] = -np.inf
    lists = fit(logits, targets)
    assert lists is not None and lists.own[2]
    assert lists.of(logits)[:, 2].all()


@pytest.mark.parametrize("promise", (0.9, 0.95))
def test_every_class_is_covered_as_promised_over_draws(promise: float) -> None:
    """What each draw covers is measured on so many items that nothing but the draw of the answers matters."""
    rng = np.random.default_rng(4)
    logits, targets = world(rng, 200_000)
    of_class = [np.sort(scores(logits)[targets == column, column]) for column in range(3)]
    covered: dict[int, list[float]] = {0: [], 1: [], 2: []}
    inside_law = 0
    for _ in range(150):
        lists = fit(*world(rng, 400), promise)
        assert lists is not None
        for column in np.flatnonzero(lists.own).tolist():
            listed = np.searchsorted(of_class[column], lists.highest[column], side="right")
            covered[column].append(float(listed / len(of_class[column])))
            low, high = coverage_law(int(lists.answers[column]), promise)
            inside_law += low <= covered[column][-1] <= high
    for rates in covered.values():
        assert np.mean(rates) >= promise - 2.6 * np.std(rates) / np.sqrt(len(rates))
        assert np.mean(rates) <= promise + 0.03  # one place in n + 1 too many at most
    # Its own law holds, too: 95 of 100 draws lie in the interval, and not nearly all.
    assert binomtest(inside_law, sum(map(len, covered.values())), 0.95).pvalue > 0.01


def test_pooled_lists_would_forget_the_hard_class() -> None:
    """Why there is a threshold for each class: the same answers, one threshold for all."""
    rng = np.random.default_rng(5)
    answered, truth = world(rng, 2000)
    logits, targets = world(rng, 20_000)
    lists = fit(answered, truth)
    assert lists is not None
    pooled = np.sort(scores(answered)[np.arange(2000), truth])[place(2000, 0.9) - 1]
    hard = targets == 2
    assert (scores(logits)[hard, 2] <= pooled).mean() < 0.7
    assert lists.of(logits)[hard, 2].mean() > 0.84


def test_the_law_is_that_of_an_order_statistic() -> None:
    # The 90th of 99 uniform scores: Beta(90, 10).
    assert coverage_law(99, 0.9) == pytest.approx(beta.ppf([0.025, 0.975], 90, 10))


def test_answers_in_turn_are_held_against_those_before_them() -> None:
    # Nine answers "0" of probability 0.6 .. 0.68; the tenth, of 0.5, is less likely than all, the eleventh is not.
    truth = [0.6 + step / 100 for step in range(9)] + [0.5, 0.61]
    told = in_turn(logits_of(truth, [0] * 11), np.zeros(11, np.int64))
    assert told.inside.tolist() == [False, True]
    assert told.own.tolist() == [True, True] and told.targets.tolist() == [0, 0]
    # The other class, of 0.5, is held against the same 0.6, then, of 0.39, against 0.5 (ten answers: the tenth).
    assert told.sizes.tolist() == [0, 1]


def test_too_few_answers_in_turn_tell_nothing() -> None:
    logits, targets = world(np.random.default_rng(6), 9)
    assert len(in_turn(logits, targets).inside) == 0
    assert len(in_turn(logits[:0], targets[:0]).inside) == 0


def test_in_turn_agrees_with_lists_made_anew_at_every_step() -> None:
    logits, targets = world(np.random.default_rng(7), 120)
    told = in_turn(logits, targets)
    for place_of, n in enumerate(range(9, 120)):
        lists = fit(logits[:n], targets[:n])
        assert lists is not None
        listed = lists.of(logits[n : n + 1])[0]
        assert told.inside[place_of] == listed[targets[n]]
        assert told.sizes[place_of] == listed.sum()
        assert told.own[place_of] == lists.own[targets[n]]


def test_in_turn_the_errors_are_few_enough_and_a_change_of_the_images_shows() -> None:
    rng = np.random.default_rng(8)
    kept = outside = n = 0
    for _ in range(40):
        told = in_turn(*world(rng, 300, (0.4, 0.3, 0.3)))
        outside += int((~told.inside[told.own]).sum())
        n += int(told.own.sum())
        before, after = world(rng, 300), world(rng, 300)
        strange = in_turn(np.concatenate([before[0], after[0][::-1]]), np.concatenate([before[1], after[1]]))
        kept += int(strange.inside[-300:].sum() >= binom.ppf(0.01, 300, 0.9))
    assert binomtest(outside, n, 0.1, alternative="greater").pvalue > 0.01
    assert kept < 10
