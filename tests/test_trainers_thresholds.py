"""Trainers that learn from their own guesses: what passes each gate, and the loss that comes of it, by hand."""

import itertools
import math

import pytest
import torch

from tests.echo import Echo, at, labeled, nothing, setting, trainer, unlabeled

GATED = ["pseudo_label", "uda", "fixmatch", "flexmatch", "freematch", "softmatch"]
FIXED = ["pseudo_label", "uda", "fixmatch"]
ONE_PASS = GATED

LN2 = math.log(2)


@pytest.mark.parametrize("name", [*GATED, "mean_teacher"])
def test_without_unlabelled_images_it_is_supervised_learning(name: str) -> None:
    taught = labeled([[0.5, 0.5], [0.2, 0.8]], [0, 1], weights=[1.0, 3.0])
    loss, logs = trainer(name, setting(2)).loss(Echo(), taught, nothing(2), at(50))
    # (1 * 0.693147 + 3 * 0.223144) / 4
    assert loss.item() == pytest.approx(0.340644, abs=1e-6)
    assert logs.keys() == {"labelled_loss"}


@pytest.mark.parametrize("name", ONE_PASS)
def test_all_views_go_through_the_network_in_one_pass(name: str) -> None:
    net = Echo()
    trainer(name, setting(2)).loss(net, labeled([[0.5, 0.5]], [0]), unlabeled([[0.9, 0.1]]), at(50))
    assert net.calls == 1


@pytest.mark.parametrize("name", GATED)
def test_what_it_notes_and_logs_carries_no_gradient(name: str) -> None:
    noted = {}
    step = at(50, note=lambda items, losses: noted.update(zip(items.tolist(), losses, strict=True)))
    batch = unlabeled([[0.9, 0.1], [0.3, 0.7]], items=[5, 3])
    loss, logs = trainer(name, setting(2)).loss(Echo(), labeled([[0.5, 0.5]], [0]), batch, step)
    assert loss.requires_grad
    assert noted.keys() == {5, 3}
    assert not any(value.requires_grad for value in [*noted.values(), *logs.values()])
    assert all(value.ndim == 0 for value in logs.values())


@pytest.mark.parametrize("name", GATED)
def test_its_memory_travels_with_its_state(name: str) -> None:
    torch.manual_seed(0)
    taught = labeled([[0.5, 0.5]], [0])
    first, second = trainer(name, setting(2)), trainer(name, setting(2))
    for number in range(20):
        sure = torch.rand(4) * 0.6 + 0.4
        batch = unlabeled(torch.stack([sure, 1 - sure], dim=1).tolist())
        first.loss(Echo(4.0), taught, batch, at(number))
    second.load_state_dict(first.state_dict())
    losses = [t.loss(Echo(), taught, unlabeled([[0.7, 0.3], [0.4, 0.6]]), at(20))[0].item() for t in (first, second)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_gate_keeps_little_of_a_fresh_network_and_more_of_a_sure_one(name: str) -> None:
    taught = labeled([[0.5, 0.5]], [0])
    guesses = unlabeled([[0.55, 0.45], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    kept = []
    for certainty in (1.0, 3.0, 10.0, 30.0):  # of these logits: at 3, for example, 0.8 becomes 0.985
        _, logs = trainer(name, setting(2), threshold=0.95).loss(Echo(certainty), taught, guesses, at(50))
        kept.append(logs["kept"].item())
    assert kept == [0.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize("name", ["flexmatch", "freematch", "softmatch"])
def test_an_adaptive_gate_is_open_at_first_and_removes_what_a_sure_network_is_unsure_of(name: str) -> None:
    gate = trainer(name, setting(2, n_items=4), **({} if name == "flexmatch" else {"momentum": 0.5}))
    taught, unsure = labeled([[0.5, 0.5]], [0]), [[0.6, 0.4], [0.45, 0.55], [0.6, 0.4], [0.45, 0.55]]
    _, logs = gate.loss(Echo(), taught, unlabeled(unsure), at(0))
    assert logs["kept"].item() > 0.7
    for number in range(20):
        gate.loss(Echo(), taught, unlabeled([[0.99, 0.01], [0.01, 0.99], [0.98, 0.02], [0.03, 0.97]]), at(number))
    _, logs = gate.loss(Echo(), taught, unlabeled(unsure[:2]), at(20))
    assert logs["kept"].item() < 0.1


# Pseudo-labels


def test_pseudo_labels_by_hand() -> None:
    given = trainer("pseudo_label", setting(2), threshold=0.95, weight=2.0, ramp=0.4)
    batch = unlabeled([[0.96, 0.04], [0.6, 0.4]])
    loss, logs = given.loss(Echo(), labeled([[0.5, 0.5]], [0]), batch, at(20))
    # ln 2; at a fifth of the run the weight is half of 2; -ln 0.96 = 0.040822 is kept, 0.6 is not, and both divide.
    assert loss.item() == pytest.approx(0.693147 + 1.0 * (0.040822 + 0.0) / 2, abs=1e-6)
    assert logs["kept"].item() == 0.5


def test_pseudo_labels_count_more_and_more() -> None:
    given = trainer("pseudo_label", setting(2), weight=2.0, ramp=0.4)
    assert [given.weight_at(share) for share in (0.0, 0.1, 0.4, 1.0)] == pytest.approx([0.0, 0.5, 2.0, 2.0])
    assert trainer("pseudo_label", setting(2), weight=2.0, ramp=0.0).weight_at(0.0) == 2.0


# UDA


def test_uda_by_hand() -> None:
    given = trainer("uda", setting(2), threshold=0.7, temperature=0.5, weight=3.0)
    batch = unlabeled([[0.8, 0.2], [0.6, 0.4]], strong=[[0.6, 0.4], [0.5, 0.5]])
    loss, logs = given.loss(Echo(), labeled([[0.5, 0.5]], [0]), batch, at(20))
    # 0.8^2 / (0.8^2 + 0.2^2) = 16/17; -(16/17 ln 0.6 + 1/17 ln 0.4) = 0.534676; the second is not sure enough.
    assert loss.item() == pytest.approx(0.693147 + 3.0 * 0.534676 / 2, abs=1e-6)
    assert logs["kept"].item() == 0.5
    assert logs["labelled_kept"].item() == 1.0


def test_uda_sharpens_without_changing_the_order_and_at_any_temperature() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2]])
    same, sharp, hard = (trainer("uda", setting(3), temperature=t).sharpen(probs)[0] for t in (1.0, 0.4, 0.05))
    assert same.tolist() == pytest.approx([0.5, 0.3, 0.2])
    # 0.5^2.5, 0.3^2.5, 0.2^2.5 = 0.176777, 0.049295, 0.017889
    assert sharp.tolist() == pytest.approx([0.724619, 0.202065, 0.073327], abs=1e-5)
    assert hard[0] > 0.9999
    certain = trainer("uda", setting(3), temperature=0.05).sharpen(torch.tensor([[1.0, 0.0, 0.0]]))
    assert certain.tolist() == [[1.0, 0.0, 0.0]]


def test_annealing_lets_labelled_images_rest_that_are_known_better_than_the_bar() -> None:
    given = trainer("uda", setting(2), annealing="linear")
    assert [given.bar_at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.5, 0.75, 1.0])
    loss, _ = given.loss(Echo(), labeled([[0.9, 0.1], [0.6, 0.4]], [0, 0]), nothing(2), at(50))
    assert loss.item() == pytest.approx(-math.log(0.6), abs=1e-6)
    off, _ = trainer("uda", setting(2)).loss(Echo(), labeled([[0.9, 0.1], [0.6, 0.4]], [0, 0]), nothing(2), at(50))
    assert off.item() == pytest.approx(-(math.log(0.9) + math.log(0.6)) / 2, abs=1e-6)


def test_annealing_for_few_answers_rises_latest() -> None:
    early, even, late = (
        trainer("uda", setting(10), annealing=a).bar_at(0.5) for a in ("logarithmic", "linear", "exponential")
    )
    # 1 - e^-2.5 = 0.917915, 0.5 and e^-2.5 = 0.082085 of the way from 0.1 to 1
    assert [early, even, late] == pytest.approx([0.926124, 0.55, 0.173877], abs=1e-6)


# FlexMatch


def test_flexmatch_by_hand() -> None:
    given = trainer("flexmatch", setting(3), threshold=0.9)
    given.guesses[:6] = torch.tensor([0, 0, 0, 0, 1, 1])
    # learnt: 4/4, 2/4, 0/4; mapped by x / (2 - x): 1, 1/3, 0
    assert given.thresholds().tolist() == pytest.approx([0.9, 0.3, 0.0])
    batch = unlabeled([[0.8, 0.1, 0.1], [0.25, 0.5, 0.25]], strong=[[0.4, 0.3, 0.3], [0.2, 0.6, 0.2]], items=[6, 7])
    loss, logs = given.loss(Echo(), labeled([[0.5, 0.25, 0.25]], [0]), batch, at(20))
    # 0.8 of class 0 is below 0.9; 0.5 of class 1 is above 0.3: -ln 0.6 over both.
    assert loss.item() == pytest.approx(LN2 + 0.510826 / 2, abs=1e-6)
    assert logs["kept"].item() == 0.5


def test_the_threshold_of_a_class_falls_when_others_are_learnt_and_it_is_not() -> None:
    given = trainer("flexmatch", setting(2, n_items=40), threshold=0.95)
    taught = labeled([[0.5, 0.5]], [0])
    history = []
    for number in range(10):
        # Everything is learnt at first; then class 1 is lost, item after item, to class 0.
        sure_of_1 = [[0.01, 0.99] if item >= 20 + 2 * number else [0.99, 0.01] for item in range(20, 40)]
        given.loss(Echo(), taught, unlabeled([[0.99, 0.01]] * 20 + sure_of_1), at(number))
        history.append(given.thresholds().tolist())
    assert history[0] == pytest.approx([0.95, 0.95])
    assert all(first == pytest.approx(0.95) for first, _ in history)
    assert all(after < before for (_, before), (_, after) in itertools.pairwise(history))
    assert history[-1][1] < 0.05


def test_while_most_items_have_no_sure_guess_all_thresholds_are_low() -> None:
    given = trainer("flexmatch", setting(2, n_items=100), threshold=0.95)
    given.guesses[:50] = -1  # drawn, and never sure
    given.guesses[50:60] = 0
    # 10 of 50, not 10 of 10: 0.95 * 0.2 / 1.8
    assert given.thresholds().tolist() == pytest.approx([0.95 / 9, 0.0])
    given.guesses[:50] = 0
    # Forty rows that are never drawn, such as those of an audit, hold nothing down.
    assert given.thresholds()[0].item() == pytest.approx(0.95)


def test_flexmatch_remembers_the_last_sure_guess_of_each_item() -> None:
    given = trainer("flexmatch", setting(2, n_items=5), threshold=0.95)
    taught = labeled([[0.5, 0.5]], [0])
    given.loss(Echo(), taught, unlabeled([[0.99, 0.01], [0.5, 0.5], [0.02, 0.98]], items=[3, 0, 1]), at(0))
    assert given.guesses.tolist() == [-1, 1, -2, 0, -2]
    given.loss(Echo(), taught, unlabeled([[0.01, 0.99], [0.6, 0.4]], items=[3, 1]), at(1))
    assert given.guesses.tolist() == [-1, 1, -2, 1, -2]  # 3 changed its class; 1 is unsure now and keeps its own
    assert given.per_item == ("guesses",)


# FreeMatch


def test_freematch_by_hand() -> None:
    given = trainer("freematch", setting(2), momentum=0.5, fairness=0.1)
    batch = unlabeled(
        [[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]], strong=[[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7]]
    )
    loss, logs = given.loss(Echo(), labeled([[0.5, 0.5]], [0]), batch, at(20))
    # Half old, half new: confidence (0.5 + 0.75) / 2; mean (0.5 + 0.65) / 2 and (0.5 + 0.35) / 2;
    # histogram (0.5 + 0.75) / 2 and (0.5 + 0.25) / 2.
    assert given.confidence.item() == pytest.approx(0.625)
    assert given.mean.tolist() == pytest.approx([0.575, 0.425])
    assert given.histogram.tolist() == pytest.approx([0.625, 0.375])
    # Thresholds 0.625 and 0.625 * 0.425 / 0.575 = 0.461957: only 0.6 of class 0 is removed.
    assert given.thresholds().tolist() == pytest.approx([0.625, 0.461957], abs=1e-6)
    assert logs["kept"].item() == 0.75
    # (-ln 0.8 - ln 0.6 - ln 0.3) / 4 = 0.484486
    # Fairness: a = 0.92, 1.133333 scaled = 0.448052, 0.551948. The kept strong views have mean 0.5, 0.5 and
    # histogram 1/3, 2/3: b = 1.5, 0.75 scaled = 2/3, 1/3. a ln b = -0.181669 - 0.606377.
    assert logs["fairness_loss"].item() == pytest.approx(-0.788046, abs=1e-6)
    assert loss.item() == pytest.approx(0.693147 + 0.484486 - 0.0788046, abs=1e-6)


def test_the_threshold_of_freematch_begins_at_chance_rises_with_confidence_and_is_cut() -> None:
    given = trainer("freematch", setting(4), momentum=0.9, ceiling=0.95)
    assert given.thresholds().tolist() == pytest.approx([0.25] * 4)
    sure = 0.997 * torch.eye(4) + 0.001 * (1 - torch.eye(4))
    history = []
    for number in range(100):
        given.loss(Echo(), labeled([[0.25] * 4], [0]), unlabeled(sure.tolist()), at(100 + number))
        history.append(given.thresholds().max().item())
    assert history[0] == pytest.approx(0.9 * 0.25 + 0.1 * 0.997)
    assert all(before <= after for before, after in itertools.pairwise(history))
    assert given.confidence.item() > 0.99
    assert history[-1] == pytest.approx(0.95)


def test_a_short_run_forgets_what_the_means_began_with() -> None:
    given = trainer("freematch", setting(4), momentum=0.999)
    sure = 0.97 * torch.eye(4) + 0.01 * (1 - torch.eye(4))
    for number in range(50):
        given.loss(Echo(), labeled([[0.25] * 4], [0]), unlabeled(sure.tolist()), at(number))
    assert given.confidence.item() > 0.9


def test_fairness_is_nothing_when_nothing_is_kept_and_has_a_gradient_otherwise() -> None:
    given = trainer("freematch", setting(3))
    strong = torch.tensor([[0.2, 0.5, 0.3], [0.8, 0.1, 0.1]], requires_grad=True)
    none = given.fairness_loss(strong, torch.zeros(2))
    none.backward()
    assert none.item() == 0.0
    assert strong.grad is not None
    assert strong.grad.tolist() == [[0.0] * 3] * 2
    given.fairness_loss(strong, torch.ones(2)).backward()
    assert torch.isfinite(strong.grad).all()
    assert strong.grad.abs().sum() > 0.1


# SoftMatch


def test_softmatch_by_hand() -> None:
    given = trainer("softmatch", setting(2), momentum=0.0, steepness=2.0)
    # The mean of these is uniform already, so that alignment changes nothing.
    batch = unlabeled([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]], strong=[[0.5, 0.5]] * 4)
    loss, logs = given.loss(Echo(), labeled([[0.5, 0.5]], [0]), batch, at(20))
    # Confidence 0.9, 0.7, 0.8, 0.6: mean 0.75, variance 0.05 / 3. Weights 1, exp(-0.1^2 / (0.1 / 3)) = exp(-0.3), 1,
    # exp(-0.3^2 / (0.1 / 3)) = exp(-2.7).
    assert given.mean.item() == pytest.approx(0.75)
    assert given.variance.item() == pytest.approx(0.05 / 3)
    kept = (1 + 0.740818 + 1 + 0.0672055) / 4
    assert logs["kept"].item() == pytest.approx(kept, abs=1e-6)
    assert loss.item() == pytest.approx(LN2 + kept * LN2, abs=1e-6)


def test_weights_are_one_from_the_mean_upwards_and_a_gaussians_flank_below() -> None:
    given = trainer("softmatch", setting(2), steepness=2.0)
    assert given.weights(torch.tensor([0.5, 0.7, 1.0])).tolist() == [1.0, 1.0, 1.0]  # it begins at 1 / C
    given.mean.fill_(0.8)
    given.variance.fill_(0.04)  # a deviation of 0.2, at steepness 2 a half-width of 0.1
    weights = given.weights(torch.tensor([0.95, 0.8, 0.7, 0.6, 0.5]))
    assert weights.tolist() == pytest.approx([1.0, 1.0, math.exp(-0.5), math.exp(-2.0), math.exp(-4.5)], abs=1e-6)


def test_alignment_moves_the_weight_in_softmatch_and_the_guess_elsewhere() -> None:
    taught, batch = labeled([[0.5, 0.5]], [0]), unlabeled([[0.6, 0.4]], strong=[[0.9, 0.1]])
    # Nine of ten guesses were class 0, where half of them should have been: 0.6, 0.4 is bent to 1/7, 6/7.
    soft, hard = (
        trainer("softmatch", setting(2, alignment="uniform"), momentum=0.99),
        trainer("fixmatch", setting(2, alignment="uniform"), threshold=0.8),
    )
    losses = []
    for given in (soft, hard):
        given.align.momentum = 1.0
        given.align.mean.copy_(torch.tensor([0.9, 0.1]))
        losses.append(given.loss(Echo(), taught, batch, at(1000))[1]["unlabelled_loss"].item())
    assert losses[0] == pytest.approx(-math.log(0.9), abs=1e-6)  # class 0 as it was, at full weight
    assert losses[1] == pytest.approx(-math.log(0.1), abs=1e-5)  # class 1
    assert soft.mean.item() == pytest.approx(0.99 * 0.5 + 0.01 * 6 / 7, abs=1e-6)


def test_softmatch_aligns_to_uniform_unless_told_the_prior() -> None:
    prior = torch.tensor([0.9, 0.1])
    assert trainer("softmatch", setting(2, prior=prior)).align.target.tolist() == [0.5, 0.5]
    told = trainer("softmatch", setting(2, prior=prior, alignment="estimated"))
    assert told.align.target.tolist() == pytest.approx([0.9, 0.1])


def test_a_single_image_has_no_variance_and_breaks_nothing() -> None:
    loss, _ = trainer("softmatch", setting(2)).loss(Echo(), labeled([[0.5, 0.5]], [0]), unlabeled([[0.9, 0.1]]), at(0))
    assert math.isfinite(loss.item())
