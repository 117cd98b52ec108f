"""Mean teacher: the network is drawn to what the running mean of its own weights says of another view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, scalars, supervised_loss


@contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Batch normalisation goes on as in training, by the batch's own statistics, but does not remember them."""
    tracking = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


class Trainer(nn.Module):
    """Squared distance between the student's probabilities on one weak view and the teacher's on another.

    Source: Tarvainen and Valpola 2017, section 2; the distance is the mean over classes, as in their experiments.
    weight: of the consistency loss once the ramp is over. ramp in 0..1: the share of the run over which it grows
    from nothing, linearly; theirs follows exp(-5 (1 - t)^2). Differences: consistency is asked of the unlabelled
    batch alone (the pool it is drawn from holds the labelled images too), and the student's unlabelled pass leaves
    the running statistics of batch normalisation alone, so that the network that is evaluated is normalised by the
    images it was told the truth about.

    The student is asked about its own view, with gradient: a consistency loss between two passes of the teacher would
    fall and teach nothing.
    """

    def __init__(self, setting: Setting, *, weight: float, ramp: float) -> None:
        super().__init__()
        self.weight, self.ramp = weight, ramp
        self.align = alignment(setting)

    def weight_at(self, share: float) -> float:
        """Weight of the consistency loss when this share of the run is over."""
        return self.weight * (min(1.0, share / self.ramp) if self.ramp else 1.0)

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        labelled_loss = supervised_loss(net(labeled.weak()), labeled)
        if len(unlabeled) == 0:
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        with frozen_statistics(net):
            student = net(unlabeled.weak()).float().softmax(dim=1)
        with torch.no_grad():
            teacher = self.align(step.teacher(unlabeled.weak()).float().softmax(dim=1))
        losses = (student - teacher).square().mean(dim=1)
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses)
        confidence = unlabeled.mean(teacher.amax(dim=1))
        logs = scalars(labelled_loss=labelled_loss, unlabelled_loss=unlabelled_loss, confidence=confidence)
        return labelled_loss + self.weight_at(step.share) * unlabelled_loss, logs
