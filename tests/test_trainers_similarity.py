"""Trainers that compare images with each other, and the one that shrinks the class space."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ml_worker.trainers import Setting, Step
from ml_worker.trainers.shrinkmatch import shrink, shrunk_losses
from tests.toys import Columns, Written, batch_of, fit, setting_of, step_of, trainer_of

NAMES = ["simmatch", "simmatchv2", "shrinkmatch"]
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def trainer_with_embeddings(name: str, setting: Setting, **parameters: Any) -> Any:
    """A trainer on rows [C logits, 2 numbers of embedding]."""
    trainer = trainer_of(name, setting, **parameters)
    c = setting.n_classes
    trainer.project = Columns(c, c + 2)
    trainer.bank = torch.zeros(len(setting.labeled_items), 2)
    if name == "simmatchv2":
        trainer.recent = trainer.recent[:, :2]
    return trainer


# --- what all of them keep to


@pytest.mark.parametrize("name", NAMES)
def test_without_unlabelled_items_it_is_plain_supervised(name: str) -> None:
    trainer = trainer_of(name, setting_of(3, [0, 1, 2]))
    net, labeled = Written(3), batch_of([[2.0, 1, 0], [0, 0, 0]], [0, 2])
    loss, _ = trainer.loss(net, labeled, batch_of(torch.zeros(0, 3)), step_of(net))
    # 3 classes: -ln(e^2 / (e^2 + e + 1)) = 0.407606, and ln 3 = 1.098612
    assert loss.item() == pytest.approx((0.407606 + 1.098612) / 2, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [0, 50])
def test_two_classes_with_one_answer_each_are_enough(name: str, number: int) -> None:
    torch.manual_seed(0)
    trainer = trainer_of(name, setting_of(2, [1, 0], items=[7, 3]), threshold=0.5)
    net = Written(2)
    labeled = batch_of(torch.randn(6, 2), [1, 0, 1, 1, 0, 0], items=[7, 3, 7, 7, 3, 3])
    unlabeled = batch_of(torch.randn(9, 2), strong=torch.randn(9, 2))
    for _ in range(2):
        loss, logs = trainer.loss(net, labeled, unlabeled, step_of(net, number))
        assert torch.isfinite(loss)
        assert all(torch.isfinite(value) and value.ndim == 0 for value in logs.values())
        assert logs["kept"] == 1.0
        loss.backward()
        gradients = [weights.grad for weights in trainer.parameters() if weights.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_the_gate_removes_an_item_and_the_loss_is_still_divided_by_the_batch(name: str) -> None:
    trainer = trainer_of(name, setting_of(2, [0, 1]), threshold=0.9)
    net, labeled = Written(2), batch_of([[0.0, 0], [0, 0]], [0, 1])
    sure, unsure = [9.0, 0.0], [0.1, 0.0]
    noted: list[Tensor] = []
    step = Step(0, 100, net, note=lambda items, losses: noted.append(losses))
    _, logs = trainer.loss(net, labeled, batch_of([sure, unsure], strong=[[0, 0], [0, 0]]), step)
    assert logs["kept"].item() == 0.5
    assert noted[0].tolist() == pytest.approx([LN2, LN2], abs=1e-5)
    assert logs["unlabelled_loss"].item() == pytest.approx(LN2 / 2, abs=1e-5)
    _, logs = trainer.loss(net, labeled, batch_of([unsure, unsure], strong=[[0, 0], [0, 0]]), step)
    assert logs["kept"].item() == 0.0
    assert logs["unlabelled_loss"].item() == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_weak_view_is_a_teacher_and_gets_no_gradient(name: str) -> None:
    trainer = trainer_of(name, setting_of(2, [0, 1]), threshold=0.5)
    net, labeled = Written(2), batch_of([[0.0, 1], [1, 0]], [0, 1])
    weak = torch.tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    strong = torch.tensor([[0.0, 0.5], [0.5, 0.0]], requires_grad=True)
    for _ in range(2):  # at the second step the banks hold something
        loss, _ = trainer.loss(net, labeled, batch_of(weak, strong=strong), step_of(net))
    loss.backward()
    assert weak.grad is None or not weak.grad.any()
    assert strong.grad is not None
    assert strong.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_trainer_goes_on_as_if_nothing_had_happened(name: str) -> None:
    torch.manual_seed(0)
    setting = setting_of(3, [0, 1, 2])
    first, second = trainer_of(name, setting, threshold=0.3), trainer_of(name, setting, threshold=0.3)
    net, labeled = Written(3), batch_of(torch.randn(3, 3), [0, 1, 2])
    unlabeled = batch_of(torch.randn(5, 3), strong=torch.randn(5, 3))
    first.loss(net, labeled, unlabeled, step_of(net))
    second.load_state_dict(first.state_dict())
    losses = [trainer.loss(net, labeled, unlabeled, step_of(net))[0] for trainer in (first, second)]
    assert losses[0].item() == losses[1].item()


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_clouds_from_one_answer_each(name: str) -> None:
    torch.manual_seed(0)
    targets = torch.arange(90) % 3
    angles = 2 * math.pi * targets / 3
    images = 4 * torch.stack([angles.cos(), angles.sin()], dim=1) + 0.7 * torch.randn(90, 2)
    net = Written(3, nn.Sequential(nn.Linear(2, 32), nn.ReLU()), nn.Linear(32, 3))
    trainer = trainer_of(name, setting_of(3, [0, 1, 2], n_features=32, n_items=90), threshold=0.8)
    history = fit(
        net,
        trainer,
        images,
        targets[:3],
        lambda views: views + 0.1 * torch.randn_like(views),
        lambda views: views + 0.7 * torch.randn_like(views),
        steps=60,
    )
    assert (net(images).argmax(dim=1) == targets).float().mean() > 0.95
    assert history[-1]["kept"] > 0.8


# --- the bank of labelled images


@pytest.mark.parametrize("name", ["simmatch", "simmatchv2"])
def test_an_embedding_in_the_bank_is_a_running_mean_of_length_one(name: str) -> None:
    trainer = trainer_with_embeddings(name, setting_of(2, [1, 0, 1], items=[8, 2, 5]))
    trainer.refresh(torch.tensor([8, 2]), torch.tensor([[1.0, 0], [0, 1]]))
    assert trainer.bank.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert trainer.seen.tolist() == [True, True, False]
    # 0.7 * (1, 0) + 0.3 * (0, 1) has length sqrt(0.58) = 0.761577: (0.919145, 0.393919).
    # Item 5 is there twice and new: the mean (0.5, 0.5), of length one (0.707107, 0.707107). Item 6 has no answer.
    trainer.refresh(torch.tensor([8, 5, 5, 6]), torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 0]]))
    assert trainer.bank[0].tolist() == pytest.approx([0.919145, 0.393919], abs=1e-5)
    assert trainer.bank[1].tolist() == [0, 1]
    assert trainer.bank[2].tolist() == pytest.approx([0.707107, 0.707107], abs=1e-5)
    assert trainer.seen.all()


def test_memory_per_labelled_item_is_declared_row_by_row() -> None:
    for name in ("simmatch", "simmatchv2"):
        trainer = trainer_of(name, setting_of(2, [1, 0, 1], items=[8, 2, 5]))
        assert all(len(trainer.state_dict()[buffer]) == 3 for buffer in trainer.per_labeled)
        assert "bank_targets" not in trainer.state_dict()


# --- SimMatch


def test_simmatch_by_hand() -> None:
    trainer = trainer_with_embeddings("simmatch", setting_of(2, [0, 1]), threshold=0.75, temperature=1.0)
    net = Written(2)
    labeled = batch_of([[0, 0, 1, 0], [0, 0, 0, 1]], [0, 1])
    unlabeled = batch_of([[LN4, 0, 1, 0]], strong=[[0, LN3, 0, 1]], items=[4])
    loss, logs = trainer.loss(net, labeled, unlabeled, step_of(net))
    # guess (0.8, 0.2); similarities (1, 0), shares e / (e + 1) = 0.731059 and 0.268941
    # unfolded: 0.8 * 0.731059 = 0.584847, 0.2 * 0.268941 = 0.053788, renormalised (0.915775, 0.084225)
    # aggregated: 0.9 * (0.8, 0.2) + 0.1 * (0.731059, 0.268941) = (0.793106, 0.206894)
    # strong view: logs of (1/4, 3/4) = (-1.386294, -0.287682); of its shares (-1.313262, -0.313262)
    assert logs["confidence"].item() == pytest.approx(0.793106, abs=1e-5)
    assert logs["labelled_loss"].item() == pytest.approx(LN2, abs=1e-5)
    assert logs["unlabelled_loss"].item() == pytest.approx(0.793106 * 1.386294 + 0.206894 * 0.287682, abs=1e-5)
    assert logs["instance_loss"].item() == pytest.approx(0.915775 * 1.313262 + 0.084225 * 0.313262, abs=1e-5)
    assert loss.item() == pytest.approx(0.693147 + 1.158998 + 1.229037, abs=1e-5)


def test_simmatch_starts_without_the_bank() -> None:
    trainer = trainer_with_embeddings("simmatch", setting_of(2, [0, 1]), threshold=0.75, temperature=1.0)
    net, labeled = Written(2), batch_of([[0, 0, 1, 0], [0, 0, 0, 1]], [0, 1])
    unlabeled = batch_of([[LN4, 0, 1, 0]], strong=[[0, LN3, 0, 1]], items=[4])
    _, logs = trainer.loss(net, labeled, unlabeled, step_of(net, number=1, steps=100))
    assert logs["instance_loss"].item() == 0.0
    assert logs["unlabelled_loss"].item() == pytest.approx(0.8 * 1.386294 + 0.2 * 0.287682, abs=1e-5)
    assert trainer.seen.all()


def similar_to(trainer: Any, bank: list[list[float]], embedding: list[float]) -> Tensor:
    trainer.bank = torch.tensor(bank)
    trainer.seen = trainer.bank.abs().sum(dim=1) > 0
    return trainer.similarities(torch.tensor([embedding]))


def test_simmatch_asks_to_resemble_images_of_the_guessed_class() -> None:
    trainer = trainer_with_embeddings("simmatch", setting_of(2, [0, 1, 1]), temperature=1.0)
    similar = similar_to(trainer, [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [1.0, 0.0])
    # Three images at one place: each gets a third times the guess for its class.
    _, instance = trainer.targets(torch.tensor([[0.5, 0.5]]), similar)
    assert instance[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=1e-5)
    _, instance = trainer.targets(torch.tensor([[0.2, 0.8]]), similar)
    assert instance[0].tolist() == pytest.approx([0.2 / 1.8, 0.8 / 1.8, 0.8 / 1.8], abs=1e-5)


def test_simmatch_pulls_a_guess_towards_its_labelled_neighbours() -> None:
    trainer = trainer_with_embeddings("simmatch", setting_of(2, [0, 1]), temperature=0.1)
    bank = [[1.0, 0.0], [0.0, 1.0]]
    even = torch.tensor([[0.5, 0.5]])
    near_first, _ = trainer.targets(even, similar_to(trainer, bank, [1.0, 0.0]))
    near_second, _ = trainer.targets(even, similar_to(trainer, bank, [0.0, 1.0]))
    # All of a share of one tenth: shares are e^10 to 1.
    assert near_first[0].tolist() == pytest.approx([0.55, 0.45], abs=1e-4)
    assert near_second[0].tolist() == pytest.approx([0.45, 0.55], abs=1e-4)


def test_simmatch_entries_that_were_not_seen_do_not_count() -> None:
    probs = torch.tensor([[0.7, 0.3]])
    some = trainer_with_embeddings("simmatch", setting_of(2, [0, 1, 1]), temperature=1.0)
    few = trainer_with_embeddings("simmatch", setting_of(2, [0, 1]), temperature=1.0)
    semantic, instance = some.targets(probs, similar_to(some, [[1.0, 0], [0, 1], [0, 0]], [0.6, 0.8]))
    expected = few.targets(probs, similar_to(few, [[1.0, 0], [0, 1]], [0.6, 0.8]))
    assert torch.allclose(semantic, expected[0])
    assert torch.allclose(instance[:, :2], expected[1])
    assert instance[0, 2] == 0.0
    semantic, instance = few.targets(probs, similar_to(few, [[0.0, 0], [0, 0]], [0.6, 0.8]))
    assert torch.allclose(semantic, probs)
    assert not instance.any()


# --- SimMatchV2


def test_simmatchv2_by_hand() -> None:
    setting = setting_of(2, [0, 1])
    trainer = trainer_with_embeddings("simmatchv2", setting, threshold=0.5, neighbours=1, alpha=0.5, temperature=1.0)
    net = Written(2)
    # The weak view points where the second labelled image does, and away from the first.
    labeled = batch_of([[0, 0, -3, 3], [0, 0, 3, -3]], [0, 1])
    weak, strong = [LN4, 0.0, 3.0, -3.0], [0.0, LN3, -3.0, 3.0]
    loss, logs = trainer.loss(net, labeled, batch_of([weak], strong=[strong], items=[5]), step_of(net))
    # One neighbour, of class 1: A = [[0, 1], [1, 0]], so the target is (guess + 0.5 * label) / 1.5
    #   = (0.8, 0.2 + 0.5) / 1.5 = (0.533333, 0.466667); the strong view says (1/4, 3/4).
    assert logs["confidence"].item() == pytest.approx(0.533333, abs=1e-5)
    assert logs["unlabelled_loss"].item() == pytest.approx(0.533333 * 1.386294 + 0.466667 * 0.287682, abs=1e-5)
    # No view has been kept yet, so that the edges say nothing.
    assert loss.item() == pytest.approx(0.693147 + 0.873608, abs=1e-5)
    assert trainer.taken.item() == 1
    assert trainer.recent_probs[0].tolist() == pytest.approx([0.8, 0.2], abs=1e-5)


def test_simmatchv2_edges_by_hand() -> None:
    trainer = trainer_with_embeddings(
        "simmatchv2", setting_of(2, [0, 1]), threshold=1.0, temperature=1.0, memory=4, edge_weight=2.0
    )
    trainer.recent[:2] = torch.eye(2)
    trainer.recent_probs[:2] = torch.eye(2)
    trainer.taken.fill_(2)
    net = Written(2)
    labeled = batch_of([[0, 0, 1, -1], [0, 0, -1, 1]], [0, 1])
    # Rows with mean 0 whose last two columns normalise to (1, 0) and (0, 1).
    weak, strong = [-LN4 / 2 - 1, LN4 / 2 - 1, 2.0, 0.0], [-1.0, -1.0, 0.0, 2.0]
    loss, logs = trainer.loss(net, labeled, batch_of([weak], strong=[strong], items=[5]), step_of(net))
    # guess (0.2, 0.8); weak similarities (1, 0): shares (0.731059, 0.268941), the two empty places have none
    # strong similarities (0, 1): logs of the shares (-1.313262, -0.313262)
    # edge to edge 0.731059 * 1.313262 + 0.268941 * 0.313262 = 1.044320
    # guesses agree with those kept by 0.2 and 0.8: 0.2 * 1.313262 + 0.8 * 0.313262 = 0.513262
    assert logs["edge_edge_loss"].item() == pytest.approx(1.044320, abs=1e-5)
    assert logs["node_edge_loss"].item() == pytest.approx(0.513262, abs=1e-5)
    assert logs["kept"].item() == 0.0
    assert loss.item() == pytest.approx(0.693147 + 2 * (1.044320 + 0.513262), abs=1e-5)


def graph_of(trainer: Any, nodes: Tensor) -> Tensor:
    """The rows-normalised similarities among nodes (n, E), without loops, one entry at a time."""
    n = len(nodes)
    graph = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if i != j:
                graph[i, j] = math.exp(float(nodes[i] @ nodes[j]) / trainer.temperature)
    return graph / graph.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_simmatchv2_propagation_is_the_limit_of_its_steps(alpha: float) -> None:
    torch.manual_seed(1)
    labels = [0, 1, 2, 0, 1, 2]
    trainer = trainer_with_embeddings("simmatchv2", setting_of(3, labels), alpha=alpha, temperature=0.3)
    trainer.bank = nn.functional.normalize(torch.randn(6, 2), dim=1)
    trainer.seen.fill_(True)
    weak = nn.functional.normalize(torch.randn(4, 2), dim=1)
    probs = torch.randn(4, 3).softmax(dim=1)
    for row, target in enumerate(trainer.propagate(probs, weak)):
        graph = graph_of(trainer, torch.cat([weak[row : row + 1], trainer.bank]).double())
        start = torch.cat([probs[row : row + 1], torch.eye(3)[labels]]).double()
        label = start
        for _ in range(400):
            label = alpha * graph @ label + (1 - alpha) * start
        assert target.tolist() == pytest.approx(label[0].tolist(), abs=1e-5)


def test_simmatchv2_takes_the_labels_of_neighbours_in_the_limit() -> None:
    labels = [0] * 27 + [1] * 9
    setting = setting_of(2, labels)
    crowd = torch.tensor([[1.0, 0.0]]).repeat(36, 1)
    probs = torch.tensor([[0.0, 1.0]])
    targets = {}
    for alpha in (0.0, 0.01, 0.99):
        trainer = trainer_with_embeddings("simmatchv2", setting, alpha=alpha, neighbours=36)
        trainer.bank, trainer.seen = crowd, torch.ones(36, dtype=torch.bool)
        targets[alpha] = trainer.propagate(probs, crowd[:1])[0]
    # Nothing flows; a little flows: what comes in is 27 to 9; everything flows: 37 equal nodes share all labels.
    assert targets[0.0].tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    incoming = (targets[0.01] - 0.99 * probs[0]) / 0.01
    assert incoming.tolist() == pytest.approx([0.75, 0.25], abs=0.01)
    assert targets[0.99].tolist() == pytest.approx([27 / 37, 10 / 37], abs=0.01)


def test_simmatchv2_uses_the_nearest_and_only_those_seen() -> None:
    trainer = trainer_with_embeddings("simmatchv2", setting_of(2, [0, 1, 1]), alpha=0.5, neighbours=2, temperature=0.1)
    even, weak = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    assert trainer.propagate(even, weak)[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)  # an empty bank is silent
    trainer.bank[0] = torch.tensor([1.0, 0.0])
    trainer.seen[0] = True
    # One neighbour seen, of class 0: (0.5 + 0.5, 0.5) / 1.5.
    assert trainer.propagate(even, weak)[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-5)
    # With room for one neighbour it is that one, although it lies on the other side and an unseen entry is nearer.
    trainer.neighbours = 1
    assert trainer.propagate(even, -weak)[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-5)


def test_simmatchv2_overwrites_the_oldest_views() -> None:
    trainer = trainer_with_embeddings("simmatchv2", setting_of(2, [0, 1]), memory=3)
    probs = torch.eye(2)
    for value in (1.0, 2.0):
        trainer.remember(torch.full((2, 2), value), probs)
    assert trainer.recent[:, 0].tolist() == [2, 1, 2]
    trainer.remember(torch.arange(10.0).reshape(5, 2), torch.ones(5, 2))  # more than there is room for
    assert sorted(trainer.recent[:, 0].tolist()) == [0, 2, 4]


# --- ShrinkMatch

CASES = {
    "two classes in between are struck out": ([0.5, 0.3, 0.15, 0.05], 0.9, [0, 3]),  # 0.5 / 0.55 = 0.909
    "of equals the last stay": ([0.4, 0.2, 0.2, 0.2], 0.6, [0, 3]),  # 0.4 / 0.8 = 0.5, 0.4 / 0.6 = 0.667
    "all but one are struck out": ([0.33, 0.34, 0.33], 0.5, [1, 2]),  # 0.34 / 0.67 = 0.507
    "the likeliest alone is left": ([0.33, 0.34, 0.33], 0.95, [1]),
    "two equals at the top": ([0.5, 0.5], 0.95, [0]),
    "all are equal": ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 3]),  # 0.25 / 0.5 = 0.5 is enough
    "sure already": ([0.01, 0.01, 0.97, 0.01], 0.95, [0, 1, 2, 3]),
}


@pytest.mark.parametrize("case", CASES)
def test_shrinkmatch_strikes_out_the_rivals(case: str) -> None:
    probs, threshold, expected = CASES[case]
    guess, left = shrink(torch.tensor([probs]), threshold)
    assert left[0].nonzero()[:, 0].tolist() == expected
    assert guess[0] == max(range(len(probs)), key=probs.__getitem__)


def test_shrinkmatch_sums_agree_with_the_search_for_k() -> None:
    torch.manual_seed(0)
    probs = (2 * torch.randn(300, 8, dtype=torch.float64)).softmax(dim=1)
    guess, left = shrink(probs, 0.95)
    for row in range(len(probs)):
        ranking = probs[row].argsort(descending=True).tolist()
        top, others = ranking[0], ranking[1:]
        while others and probs[row, top] / (probs[row, top] + probs[row, others].sum()) < 0.95:
            others = others[1:]
        assert set(left[row].nonzero()[:, 0].tolist()) == {top, *others}
        assert guess[row] == top


def test_shrinkmatch_by_hand() -> None:
    trainer = trainer_of("shrinkmatch", setting_of(4, [0, 1, 2, 3]), threshold=0.9, momentum=0.8)
    trainer.auxiliary = Columns(4, 8)
    net = Written(4)
    labeled = batch_of([[0.0] * 8], [2])
    weak = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.94, 0.02, 0.02, 0.02]]).log()
    strong = [[1.0, 2, 3, 4, 0, 5, 5, LN3], [0.0] * 8]
    loss, logs = trainer.loss(net, labeled, batch_of(torch.cat([weak, weak], dim=1), strong=strong), step_of(net))
    # The first keeps classes 0 and 3, where the auxiliary head says 1/4 : 3/4: loss 1.386294, confidence 0.5.
    # The second is certain: ln 4 = 1.386294. One of two is certain: the running share is 0.8 * 0 + 0.2 * 0.5 = 0.1.
    assert logs["kept"].item() == 0.5
    assert logs["unlabelled_loss"].item() == pytest.approx(1.386294 / 2, abs=1e-5)
    assert logs["shrunk_loss"].item() == pytest.approx(0.1 * 0.5 * 1.386294 / 2, abs=1e-5)
    assert loss.item() == pytest.approx(1.386294 + 0.693147 + 0.034657, abs=1e-5)


def test_shrinkmatch_teaches_only_among_the_classes_left() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.5], [1.0, 2.0, 3.0, 0.5]], requires_grad=True)
    left = torch.tensor([[True, False, False, True], [False, True, False, False]])
    losses = shrunk_losses(logits, torch.tensor([0, 1]), left)
    assert losses[1].item() == 0.0  # one class left: nothing to tell it from
    losses.sum().backward()
    assert logits.grad is not None
    # softmax of (1, 0.5) is (0.622459, 0.377541)
    assert logits.grad[0].tolist() == pytest.approx([0.622459 - 1, 0, 0, 0.377541], abs=1e-5)
    assert not logits.grad[1].any()


def test_shrinkmatch_listens_to_uncertain_items_only_once_others_are_certain() -> None:
    trainer = trainer_of("shrinkmatch", setting_of(3, [0, 1, 2]), threshold=0.9, momentum=0.5)
    net, labeled = Written(3), batch_of([[0.0] * 3], [2])
    wavering = torch.tensor([[0.5, 0.46, 0.04]]).log()
    _, logs = trainer.loss(net, labeled, batch_of(wavering), step_of(net))
    assert logs["shrunk_loss"].item() == 0.0
    sure = torch.tensor([[0.98, 0.01, 0.01]]).log()
    trainer.loss(net, labeled, batch_of(sure), step_of(net))
    _, logs = trainer.loss(net, labeled, batch_of(wavering), step_of(net))
    assert logs["shrunk_loss"].item() > 0.0
