"""ELR: what it believes of each labelled item, and that wrong labels are learnt by heart less."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ml_worker.trainers import Batch
from tests.echo import Echo, at, labeled, nothing, setting, trainer


def test_elr_by_hand() -> None:
    given = trainer("elr", setting(2), memory=0.7, weight=3.0)
    taught = labeled([[0.8, 0.2]], [0])
    first, logs = given.loss(Echo(), taught, nothing(2), at(0))
    # t = 0.3 * (0.8, 0.2); <t, p> = 0.3 * 0.68 = 0.204; -ln 0.8 + 3 ln(1 - 0.204)
    assert logs["agreement"].item() == pytest.approx(0.204, abs=1e-6)
    assert first.item() == pytest.approx(0.223144 - 3 * 0.228156, abs=1e-5)
    second, _ = given.loss(Echo(), taught, nothing(2), at(1))
    # t = 0.7 * 0.3 p + 0.3 p = 0.51 p; <t, p> = 0.3468
    assert second.item() == pytest.approx(0.223144 - 3 * 0.425872, abs=1e-5)
    assert given.beliefs.flatten().tolist() == pytest.approx([0.408, 0.102, 0.0, 0.0])


def test_a_belief_holds_the_prediction_against_the_label() -> None:
    pulls = []
    for weight in (0.0, 3.0):
        given, net = trainer("elr", setting(2), weight=weight), Echo()
        given.beliefs[0] = torch.tensor([0.9, 0.1])
        loss, _ = given.loss(net, labeled([[0.8, 0.2]], [1]), nothing(2), at(0))
        loss.backward()
        assert net.weight.grad is not None
        pulls.append(net.weight.grad.item())
    assert pulls[0] > 0  # the label alone: say less clearly what you say
    assert pulls[1] < 0  # with the belief: say it more clearly


def test_beliefs_belong_to_items_wherever_these_stand_in_the_pool() -> None:
    given = trainer("elr", setting(2, n_items=9, labeled_items=torch.tensor([7, 2])), memory=0.5)
    given.remember(torch.tensor([2]), torch.tensor([[0.2, 0.8]]))
    assert given.beliefs.flatten().tolist() == pytest.approx([0.0, 0.0, 0.1, 0.4])
    assert given.per_labeled == ("beliefs",)
    assert given.state_dict().keys() == {"beliefs"}


def test_an_item_that_is_twice_in_a_batch_enters_its_memory_once_by_the_mean() -> None:
    given = trainer("elr", setting(2), memory=0.5)
    beliefs = given.remember(torch.tensor([1, 0, 1]), torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.6, 0.4]]))
    assert beliefs.flatten().tolist() == pytest.approx([0.2, 0.3, 0.25, 0.25, 0.2, 0.3])
    assert given.beliefs.flatten().tolist() == pytest.approx([0.25, 0.25, 0.2, 0.3])


def test_perfect_agreement_has_a_finite_loss_and_gradient() -> None:
    given, net = trainer("elr", setting(2), memory=0.0), Echo(20.0)
    loss, _ = given.loss(net, labeled([[0.99, 0.01]], [0]), nothing(2), at(0))
    loss.backward()
    assert math.isfinite(loss.item())
    assert net.weight.grad is not None
    assert torch.isfinite(net.weight.grad)


def test_an_answer_of_weight_0_counts_in_neither_term() -> None:
    alone, both = (trainer("elr", setting(2)) for _ in range(2))
    loss, _ = alone.loss(Echo(), labeled([[0.8, 0.2]], [0]), nothing(2), at(0))
    same, _ = both.loss(Echo(), labeled([[0.8, 0.2], [0.6, 0.4]], [0, 1], weights=[1.0, 0.0]), nothing(2), at(0))
    assert same.item() == pytest.approx(loss.item())


def learnt_from_flipped_labels(name: str, seed: int, digits: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Share of 120 flipped labels, of 400, that the network says after 400 steps; and its accuracy on the rest."""
    images, truth = digits
    rng = torch.Generator().manual_seed(seed)
    taught, rest = torch.randperm(len(images), generator=rng).split([400, len(images) - 400])
    answers, flipped = truth[taught].clone(), torch.arange(120)
    answers[flipped] = (answers[flipped] + torch.randint(1, 10, (120,), generator=rng)) % 10
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    of = setting(10, n_items=len(images), labeled_items=taught, n_labeled=400)
    given, optimizer = trainer(name, of), torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for number in range(400):
        pick = torch.randint(400, (64,), generator=rng)
        views = images[taught[pick]]
        batch = Batch(taught[pick], lambda v=views: v, lambda v=views: v, answers[pick], torch.ones(64))
        loss, _ = given.loss(net, batch, nothing(64), at(number))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        said, right = net(images[taught]).argmax(dim=1), net(images[rest]).argmax(dim=1) == truth[rest]
    return (said == answers)[flipped].float().mean().item(), right.float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_are_learnt_by_heart_less_and_the_rest_is_known_no_worse(seed: int) -> None:
    pixels, targets = load_digits(return_X_y=True)
    digits = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(targets)
    plain_memorised, plain_accuracy = learnt_from_flipped_labels("supervised", seed, digits)
    memorised, accuracy = learnt_from_flipped_labels("elr", seed, digits)
    assert plain_memorised > 0.4
    assert memorised < plain_memorised / 2
    assert accuracy >= plain_accuracy
