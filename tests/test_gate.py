"""A certificate says what it says as often as it says: published tables, and many simulated projects."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from ml_worker.gate import (
    LADDER,
    LOOKS,
    Taken,
    answers_missing,
    audits_needed,
    certify,
    certify_classes,
    look_due,
    lower_bound,
    next_look,
    open_bound,
    planned_look,
    representative,
    rest_bound,
    spoken_for,
)

PROJECTS = 500
# 5 % plus three standard deviations of a rate seen in so many projects.
ALLOWED = 0.05 + 3 * np.sqrt(0.05 * 0.95 / PROJECTS)


# Newcombe 1998, Table I, method 5 (Clopper-Pearson, 95 % two-sided, so 2.5 % a side).
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_bounds_are_the_published_ones(k: int, n: int, low: float, high: float) -> None:
    assert lower_bound(k, n, 0.025) == pytest.approx(low, abs=5e-5)
    assert 1 - lower_bound(n - k, n, 0.025) == pytest.approx(high, abs=5e-5)


# Sample sizes for 95 % confidence, as tables for zero, one and two failures have them.
@pytest.mark.parametrize(
    ("target", "errors", "needed"),
    [(0.9, 0, 29), (0.95, 0, 59), (0.95, 1, 93), (0.95, 2, 124), (0.99, 0, 299), (0.99, 1, 473), (0.99, 2, 628)],
)
def test_audits_needed_are_those_of_the_tables(target: float, errors: int, needed: int) -> None:
    assert audits_needed(target, errors=errors) == needed


@pytest.mark.parametrize(("target", "delta", "errors"), [(0, 0.05, 0), (1, 0.05, 0), (0.9, 0, 0), (0.9, 0.05, -1)])
def test_a_target_nobody_can_certify_is_refused(target: float, delta: float, errors: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        audits_needed(target, delta, errors)


def test_a_perfect_audit_opens_the_gate_for_everything_and_a_short_one_for_nothing() -> None:
    confidence = np.linspace(0, 1, 1000, dtype=np.float32)
    assert certify(confidence, confidence[::4], np.ones(250, bool), 0.99) is None
    given = certify(confidence, confidence[::2], np.ones(500, bool), 0.99)
    assert given is not None
    assert (given.n, given.k, given.rest, given.share) == (500, 500, 1000, 1.0)
    # Of 1,500 items with 7 errors a sample of 500 has none in 5.8 % of all draws, with 8 in 3.9 %.
    assert given.bound == pytest.approx(1 - 7 / 1000)


def test_the_walk_stops_at_the_first_region_that_fails() -> None:
    # The surest tenth is wrong, the rest is right: nothing behind the failure may be looked at.
    confidence = np.linspace(0, 1, 1000, dtype=np.float32)
    assert certify(confidence, confidence, confidence < 0.9, 0.8) is None
    # The unsure half is wrong: accepted down to about there and no further.
    given = certify(confidence, confidence, confidence > 0.5, 0.95)
    assert given is not None
    assert given.share == pytest.approx(0.5, abs=0.01)


def test_an_empty_pool_or_audit_opens_nothing() -> None:
    nothing = np.zeros(0, np.float32)
    confidence = np.linspace(0, 1, 100, dtype=np.float32)
    assert certify(nothing, confidence, np.ones(100, bool), 0.5) is None
    assert certify(confidence, nothing, np.zeros(0, bool), 0.5) is None
    assert certify(np.full(100, 0.7, np.float32), np.full(100, 0.7, np.float32), np.ones(100, bool), 0.9) is not None


def naive(confidence: np.ndarray, audited: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """The rule people use: the widest region whose audited precision reaches the target."""
    passed = None
    for share in LADDER:
        threshold = float(np.quantile(confidence, 1 - share, method="lower"))
        inside = audited >= threshold
        if inside.any() and right[inside].mean() >= target:
            passed = threshold
    return passed


def certified(confidence: np.ndarray, audited: np.ndarray, right: np.ndarray, target: float) -> float | None:
    given = certify(confidence, audited, right, target)
    return given.threshold if given else None


def wrong_share(rule: object, flat: bool, n_audit: int = 120, target: float = 0.9) -> float:
    """How often, over many projects, the region a rule accepts holds its promise in no sense: its precision over an
    endless pool lies below the target. flat: confidence tells nothing and precision is just short everywhere."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(PROJECTS):
        confidence = rng.random(2000)
        audited = rng.random(n_audit)

        def precision(at: np.ndarray) -> np.ndarray:
            return np.full_like(at, target - 0.002) if flat else 0.7 + 0.3 * at

        right = rng.random(n_audit) < precision(audited)
        threshold = rule(confidence, audited, right, target)  # type: ignore[operator]
        # Precision is linear in the confidence, so its mean above a threshold is its value half-way up.
        if threshold is not None and precision(np.array([(threshold + 1) / 2]))[0] < target - 1e-9:
            broken += 1
    return broken / PROJECTS


@pytest.mark.parametrize("flat", [True, False])
def test_a_certificate_is_wrong_in_at_most_one_project_of_twenty(flat: bool) -> None:
    assert wrong_share(certified, flat) <= ALLOWED


@pytest.mark.parametrize("flat", [True, False])
def test_trusting_the_audited_precision_would_be_wrong_far_more_often(flat: bool) -> None:
    assert wrong_share(naive, flat) > 3 * ALLOWED


def test_certificates_are_not_merely_withheld() -> None:
    rng = np.random.default_rng(0)
    given = 0
    for _ in range(50):
        audited = rng.random(120)
        right = rng.random(120) < 0.85 + 0.15 * np.sqrt(audited)
        given += certify(rng.random(2000), audited, right, 0.9) is not None
    assert given > 25


# --- what is left of a pool


def test_the_bound_for_what_is_left_is_that_of_counting_all_samples() -> None:
    # Ten items, four audited, one of them wrong. With 6 errors in the ten a sample of four shows at most one in
    # 25 of 210 draws, with 7 in 7 of 210: at 10 % seven are ruled out and six are not, five of them among the rest.
    assert rest_bound(3, 4, 6, 0.1) == pytest.approx(1 - 5 / 6)
    assert rest_bound(3, 4, 6, 25 / 210 + 1e-9) == pytest.approx(1 - 4 / 6)


@pytest.mark.parametrize(("k", "n", "rest"), [(8, 10, 7), (3, 3, 900), (55, 60, 1), (180, 200, 400)])
def test_the_bound_for_what_is_left_is_the_exact_one_of_scipy(k: int, n: int, rest: int) -> None:
    whole, errors = n + rest, n - k
    possible = [wrong for wrong in range(errors, errors + rest + 1) if hypergeom.cdf(errors, whole, wrong, n) > 0.05]
    assert rest_bound(k, n, rest, 0.05) == pytest.approx(1 - (possible[-1] - errors) / rest)


@pytest.mark.parametrize(("k", "n"), [(299, 299), (470, 473), (50, 100), (0, 20)])
def test_the_bound_for_an_endless_rest_is_the_usual_one(k: int, n: int) -> None:
    assert rest_bound(k, n, 10**8, 0.05) == pytest.approx(lower_bound(k, n, 0.05), abs=1e-4)


def test_nothing_left_is_all_right_and_nothing_audited_says_nothing() -> None:
    assert rest_bound(0, 10, 0, 0.05) == 1.0
    assert rest_bound(0, 0, 10, 0.05) == 0.0


def test_the_promise_about_the_rest_of_small_pools_is_kept_where_the_endless_one_breaks() -> None:
    rng = np.random.default_rng(0)
    broken = {"rest": 0, "endless": 0}
    for _ in range(2000):
        right = np.ones(110, bool)
        right[rng.permutation(110)[:2]] = False  # two errors
        n, k = 100, int(right[:100].sum())
        true = right[100:].mean()
        broken["rest"] += rest_bound(k, n, 10, 0.05) > true
        broken["endless"] += lower_bound(k, n, 0.05) > true
    assert broken["rest"] / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert broken["endless"] / 2000 > 0.1


# --- looking again and again


@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
def test_all_looks_together_spend_no_more_than_there_is(target: float) -> None:
    looks = [planned_look(number, target) for number in range(1, 40)]
    assert sum(look.delta for look in looks) <= 0.05
    assert [look.at for look in looks] == sorted({look.at for look in looks})
    # Each could succeed when it is due, and later ones with a narrower region or with errors.
    spare = [look.at - audits_needed(target, look.delta) for look in looks[:12]]
    assert spare[0] >= 0
    assert spare == sorted(spare)


def test_a_look_is_due_once_and_those_missed_are_not_made_up_for() -> None:
    first, third = planned_look(1, 0.95), planned_look(3, 0.95)
    assert look_due(first.at - 1, 0, 0.95) is None
    assert look_due(first.at, 0, 0.95) == first
    assert look_due(first.at + 3, 1, 0.95) is None
    assert look_due(third.at, 0, 0.95) == third
    assert look_due(third.at, 3, 0.95) is None


def stopped_at_the_first(looks: bool, seed: int) -> bool:
    """Whether a rule ever certifies a model that is right in 94.5 % of cases, anew at each refit, as 95 %."""
    rng, taken = np.random.default_rng(seed), 0
    for n in range(60, 1000, 20):
        k = int(rng.binomial(n, 0.945))  # another model: what it gets wrong has nothing to do with the one before
        look = look_due(n, taken, 0.95)
        taken = look.number if look else taken
        delta = (look.delta if look else 0.0) if looks else 0.05
        if delta and lower_bound(k, n, delta) >= 0.95:
            return True
    return False


def test_who_looks_until_it_passes_is_told_the_truth_by_planned_looks_alone() -> None:
    wrong = {
        looks: np.mean([stopped_at_the_first(looks, seed) for seed in range(PROJECTS // 2)]) for looks in (True, False)
    }
    assert wrong[True] <= ALLOWED
    assert wrong[False] > 0.3


# --- classes, strata, what is missing


def test_each_class_gets_its_own_threshold_and_an_unseen_one_none() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.4, 1.0, 6000).astype(np.float32)
    guesses = np.arange(6000) % 2  # the third class is never predicted
    probs = np.zeros((6000, 3), np.float32)
    probs[np.arange(6000), guesses] = confidence
    probs[:, 2] = (1 - confidence) / 2
    # The first class is always right, the second only when sure; some answers are of no class.
    targets = np.where((guesses == 0) | (confidence > 0.7), guesses, -1)
    easy, hard, unseen = certify_classes(probs[2000:], probs[:2000], targets[:2000], 0.95)
    assert easy is not None
    assert (easy.column, easy.k, easy.rest) == (0, easy.n, 2000)
    assert hard is not None
    assert hard.column == 1
    assert hard.threshold == pytest.approx(0.7, abs=0.03)
    assert 0.2 < hard.share < 0.27
    assert easy.delta == pytest.approx(0.05 / 3)
    assert unseen is None


def test_an_import_sampled_more_densely_does_not_count_for_more() -> None:
    pool = [1] * 950 + [2] * 50
    audit = [2] * 50 + [1] * 50
    kept = representative(pool, audit)
    # 50 of 1,000 of the first were looked at; of the second 50 of 100, so two or three of its answers are enough.
    assert kept[50:].all()
    assert kept[:50].sum() == 2
    assert kept[:2].all()
    assert representative([1] * 10, [1] * 3).all()
    assert not representative([1, 2], [1]).any()  # nothing is known about the second
    assert len(representative([1], [])) == 0


def test_what_is_missing_is_enough_when_it_comes_without_an_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200)
    right = confidence > 0.2
    missing = answers_missing(confidence, right, 0.95, 0.05)
    assert 0 < missing < 200
    pool = rng.random(100_000)

    def given(n: int) -> object:
        more = rng.random(n)
        return certify(pool, np.append(confidence, more), np.append(right, more > 0.0), 0.95)

    assert given(2 * missing + 40) is not None


def test_a_large_new_import_waits_for_its_checks_and_does_not_silence_the_others() -> None:
    names, kept = spoken_for([1] * 500 + [2] * 5000, [1] * 100 + [2])
    assert names == [1]
    assert kept.tolist() == [True] * 100 + [False]
    names, kept = spoken_for([1] * 500 + [2] * 500, [1] * 100 + [2] * 100)
    assert (names, kept.sum()) == ([1, 2], 200)
    assert spoken_for([1], [])[0] == []


# --- what people answered meanwhile


def test_errors_may_all_be_among_what_is_still_open() -> None:
    # Of 1,000 others 10 may be wrong; with 500 of them answered, the 500 open ones may have all 10.
    whole = rest_bound(400, 400, 1000, 0.05)
    assert open_bound(400, 400, 500, 500, 0.05) == pytest.approx(1 - 2 * (1 - whole))
    assert open_bound(400, 400, 1000, 0, 0.05) == whole
    assert open_bound(0, 10, 0, 500, 0.05) == 1.0


def test_the_promise_holds_for_what_a_choosy_reviewer_leaves_open() -> None:
    # Two in a hundred are wrong, and whoever answers takes right ones alone until half of the pool is left.
    rng, target = np.random.default_rng(1), 0.95
    broken = {True: 0, False: 0}
    for _ in range(PROJECTS):
        right = rng.random(1200) < 0.97
        audit, pool = right[:200], np.sort(right[200:])
        left = pool[:500]  # the wrong ones come first
        k, true = int(audit.sum()), left.mean()
        for careful in broken:
            bound = open_bound(k, 200, 500, 500, 0.05) if careful else rest_bound(k, 200, 500, 0.05)
            broken[careful] += bound >= target > true
    assert broken[True] / PROJECTS <= ALLOWED
    assert broken[False] / PROJECTS > 2 * ALLOWED


# --- another target


def test_no_change_of_target_brings_the_error_back() -> None:
    past: list[Taken] = []
    for target, confidence in ((0.9, 0.95), (0.8, 0.95), (0.9, 0.95), (0.8, 0.9)):
        for _ in range(6):
            look, _ = next_look(10**6, past, target, confidence)
            if look is not None:
                past.append(Taken(look.number, 10**6, target, confidence, look.delta))
        assert sum(each.spent for each in past) <= LOOKS * (1 - confidence)
    # An error smaller than what was spent already leaves no look.
    assert next_look(10**9, past, 0.9, 0.999) == (None, False)


def test_another_target_waits_for_new_answers() -> None:
    first, due = next_look(600, [], 0.99, 0.95)
    assert first is not None and due
    past = [Taken(first.number, 600, 0.99, 0.95, first.delta)]
    look, due = next_look(600, past, 0.98, 0.95)
    assert look is not None
    assert (look.at, due) == (750, False)
    assert next_look(750, past, 0.98, 0.95)[1]


def test_a_model_that_the_answers_chose_costs_half_of_the_error() -> None:
    plain, _ = next_look(0, [], 0.99, 0.95)
    chosen, _ = next_look(0, [], 0.99, 0.95, leaks=1)
    assert plain is not None and chosen is not None
    assert chosen.delta == plain.delta / 2
    assert chosen.at > plain.at


def test_a_look_waits_until_it_could_succeed_for_what_is_still_open() -> None:
    plain, _ = next_look(0, [], 0.95, 0.95)
    halved, _ = next_look(0, [], 0.95, 0.95, share_answered=0.5)
    assert plain is not None and halved is not None
    assert halved.at > plain.at
    assert open_bound(halved.at, halved.at, 10**6, 10**6, halved.delta) >= 0.95
    assert open_bound(plain.at, plain.at, 10**6, 10**6, plain.delta) < 0.95
