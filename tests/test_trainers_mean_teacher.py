"""Mean teacher: who is asked about which view, who learns, and what the unlabelled pass must not touch."""

import math

import pytest
import torch
from torch import nn

from ml_worker.trainers import Batch
from ml_worker.trainers.mean_teacher import frozen_statistics
from tests.echo import Echo, at, images_of, labeled, setting, trainer


def two_views(first: list[list[float]], second: list[list[float]]) -> Batch:
    """A batch whose weak views are these two, one per call."""
    views = iter([images_of(first), images_of(second)])
    return Batch(torch.arange(len(first)), lambda: next(views), lambda: pytest.fail("no strong view is asked for"))


def test_mean_teacher_by_hand() -> None:
    given = trainer("mean_teacher", setting(2), weight=50.0, ramp=0.4)
    noted = []
    step = at(20, note=lambda items, losses: noted.extend(losses.tolist()))
    loss, _ = given.loss(
        Echo(), labeled([[0.5, 0.5]], [0]), two_views([[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [0.2, 0.8]]), step
    )
    # The student sees the first view, the teacher the second: (0.3^2 + 0.3^2) / 2 = 0.09 and 0.01, mean 0.05.
    # A fifth of the run is over, half of the ramp: ln 2 + 25 * 0.05.
    assert noted == pytest.approx([0.09, 0.01], abs=1e-6)
    assert loss.item() == pytest.approx(math.log(2) + 25 * 0.05, abs=1e-5)


def test_consistency_teaches_the_student_and_not_the_teacher() -> None:
    student, teacher = Echo(), Echo(2.0)
    batch = two_views([[0.8, 0.2]], [[0.8, 0.2]])
    # Answers of weight 0: whatever gradient there is comes from the consistency.
    loss, _ = trainer("mean_teacher", setting(2)).loss(
        student, labeled([[0.5, 0.5]], [0], weights=[0.0]), batch, at(50, teacher)
    )
    loss.backward()
    assert student.weight.grad is not None
    # The teacher is surer (16/17 against 0.8), so a larger weight brings the student closer.
    assert student.weight.grad.item() < -1.0
    assert teacher.weight.grad is None
    assert (student.calls, teacher.calls) == (2, 1)


def test_the_weight_ramps_up() -> None:
    given = trainer("mean_teacher", setting(2), weight=50.0, ramp=0.4)
    assert [given.weight_at(share) for share in (0.0, 0.1, 0.4, 1.0)] == pytest.approx([0.0, 12.5, 50.0, 50.0])
    assert trainer("mean_teacher", setting(2), weight=50.0, ramp=0.0).weight_at(0.0) == 50.0


def test_running_statistics_are_those_of_the_labelled_images_alone() -> None:
    norm = nn.BatchNorm2d(2, momentum=1.0)  # remembers the last batch and nothing else
    net = nn.Sequential(norm, nn.Flatten())
    taught = labeled([[0.9, 0.1], [0.6, 0.4]], [0, 1])
    batch = two_views([[0.01, 0.99], [0.02, 0.98]], [[0.01, 0.99], [0.02, 0.98]])
    trainer("mean_teacher", setting(2)).loss(net, taught, batch, at(50))
    assert torch.allclose(norm.running_mean, taught.weak().mean(dim=(0, 2, 3)))
    assert norm.num_batches_tracked == 1
    assert norm.track_running_stats


def test_the_unlabelled_pass_is_normalised_by_its_own_batch_and_tracking_returns_after_an_error() -> None:
    norm = nn.BatchNorm1d(1)
    rows = torch.tensor([[4.0], [6.0]])
    with frozen_statistics(norm):
        assert torch.allclose(norm(rows), torch.tensor([[-1.0], [1.0]]), atol=1e-4)
    assert norm.running_mean.tolist() == [0.0]
    with pytest.raises(RuntimeError, match="on purpose"), frozen_statistics(norm):
        raise RuntimeError("on purpose")
    norm(rows)
    assert norm.running_mean.item() == pytest.approx(0.5)
