"""Distribution alignment on a long-tailed pool: a wrong prior hurts, the estimated one repairs."""

import pytest
import torch
from torch import Tensor, nn

from ml_worker.trainers import Alignment, Batch
from tests.echo import at, setting, trainer

SHARES = torch.tensor([0.85, 0.10, 0.05])
CENTRES = 2.5 * torch.eye(3)
UNIFORM = torch.full((3,), 1 / 3)


def long_tail(seed: int, n: int = 2000) -> tuple[Tensor, Tensor]:
    """Points (n, 3) around one centre per class, and their classes, 17 of the first to 1 of the last."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(SHARES, n, replacement=True, generator=rng)
    return CENTRES[targets] + torch.randn(n, 3, generator=rng), targets


def accuracy_aligned(probs: Tensor, targets: Tensor, target: Tensor | None) -> float:
    align = Alignment(3, target, momentum=0.9)
    for _ in range(2):  # the first round warms the running mean up
        aligned = torch.cat([align(batch) for batch in probs.split(100)])
    return (aligned.argmax(dim=1) == targets).float().mean().item()


def test_predictions_that_know_the_tail_are_spoilt_by_a_uniform_prior_and_left_alone_by_the_true_one() -> None:
    points, targets = long_tail(0)
    probs = (SHARES.log() - torch.cdist(points, CENTRES).square() / 2).softmax(dim=1)  # Bayes' rule: none is better
    plain, uniform, estimated = (accuracy_aligned(probs, targets, prior) for prior in (None, UNIFORM, SHARES))
    assert uniform < plain - 0.02
    assert estimated == pytest.approx(plain, abs=0.005)


def test_predictions_taught_by_as_many_answers_of_each_class_are_repaired_by_the_true_prior() -> None:
    points, targets = long_tail(1)
    probs = (-torch.cdist(points, CENTRES).square() / 2).softmax(dim=1)
    plain, uniform, estimated = (accuracy_aligned(probs, targets, prior) for prior in (None, UNIFORM, SHARES))
    assert uniform < plain - 0.05
    assert estimated > plain + 0.01


def test_a_predictor_whose_mean_is_the_target_is_left_unchanged() -> None:
    align = Alignment(2, torch.tensor([0.5, 0.5]), momentum=0.5)
    probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    for _ in range(5):
        torch.testing.assert_close(align(probs), probs)


def trained_accuracy(alignment: str, seed: int) -> float:
    """Accuracy on fresh points of a linear network that FixMatch taught from four answers a class."""
    points, targets = long_tail(seed)
    rng = torch.Generator().manual_seed(seed)
    taught = torch.cat([(targets == c).nonzero()[:4, 0] for c in range(3)])
    torch.manual_seed(seed)
    net = nn.Linear(3, 3)
    of = setting(3, n_items=len(points), labeled_items=taught, prior=SHARES, alignment=alignment)
    given, optimizer = trainer("fixmatch", of, threshold=0.9), torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def batch(rows: Tensor, answers: Tensor) -> Batch:
        def view(noise: float) -> Tensor:
            return points[rows] + noise * torch.randn(len(rows), 3, generator=rng)

        return Batch(rows, lambda: view(0.1), lambda: view(0.5), answers, torch.ones(len(answers)))

    for number in range(300):
        drawn = torch.randint(len(points), (64,), generator=rng)
        loss, _ = given.loss(net, batch(taught, targets[taught]), batch(drawn, targets[:0]), at(number))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh, truth = long_tail(seed + 1000)
    return (net(fresh).argmax(dim=1) == truth).float().mean().item()


@pytest.mark.slow
def test_training_on_a_long_tail_is_spoilt_by_a_uniform_prior_and_not_by_the_true_one() -> None:
    none, uniform, estimated = (
        sum(trained_accuracy(alignment, seed) for seed in range(3)) / 3
        for alignment in ("none", "uniform", "estimated")
    )
    assert uniform < none - 0.03
    assert estimated > uniform + 0.05
    assert estimated > none - 0.01
