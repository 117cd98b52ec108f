"""SoftMatch: no guess is thrown away; the less sure it is, the less it counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml_worker.trainers import (
    Alignment,
    Batch,
    Logs,
    Setting,
    Step,
    alignment,
    inertia,
    one_pass,
    scalars,
    supervised_loss,
)


class Trainer(nn.Module):
    """FixMatch with a weight per guess: 1 from the mean confidence upwards, a Gaussian's flank below it.

    Source: Chen et al. 2023: truncated Gaussian weighting and uniform alignment. steepness: the weight falls
    to exp(-1/2) at one standard deviation of confidence divided by it below the mean; 1 is the paper's formula, 2 what
    its experiments use. momentum in 0..1: of the running mean and variance of confidence. weight: of the unlabelled
    loss.

    Alignment bends the confidence that the weight is read from and never the pseudo-label. It belongs to the method:
    with the loop's option at "none" it is uniform as in the paper; "estimated" takes the pool's prior instead.
    """

    mean: Tensor  # float32 (): running mean of the confidence; begins at 1 / C
    variance: Tensor  # float32 (): its running variance; begins at 1, where all count alike

    def __init__(self, setting: Setting, *, steepness: float, momentum: float, weight: float) -> None:
        super().__init__()
        self.steepness, self.momentum, self.weight = steepness, momentum, weight
        uniform = torch.full((setting.n_classes,), 1.0 / setting.n_classes)
        self.align = Alignment(setting.n_classes, uniform) if setting.alignment == "none" else alignment(setting)
        self.register_buffer("mean", uniform[0].clone())
        self.register_buffer("variance", torch.tensor(1.0))

    def observe(self, confidence: Tensor, momentum: float) -> None:
        """Take the confidence (B,) of a batch into the running mean and variance."""
        self.mean.lerp_(confidence.mean(), 1.0 - momentum)
        if len(confidence) > 1:
            self.variance.lerp_(confidence.var(), 1.0 - momentum)

    def weights(self, confidence: Tensor) -> Tensor:
        """float32 (B,) in 0..1: how much guesses of this confidence count now."""
        below = (self.mean - confidence).clamp_min(0.0) * self.steepness
        return (-below.square() / (2.0 * self.variance.clamp_min(1e-12))).exp()

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        labelled, weak, strong = one_pass(net, labeled.weak(), unlabeled.weak(), unlabeled.strong())
        labelled_loss = supervised_loss(labelled, labeled)
        if len(unlabeled) == 0:
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        with torch.no_grad():
            probs = weak.softmax(dim=1)
            guess = probs.argmax(dim=1)
            confidence = self.align(probs).amax(dim=1)
            self.observe(unlabeled.gather(confidence), inertia(self.momentum, step))
            kept = self.weights(confidence)
        losses = cross_entropy(strong, guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)  # over the whole batch, whatever the weights sum to
        logs = scalars(
            labelled_loss=labelled_loss,
            unlabelled_loss=unlabelled_loss,
            kept=unlabeled.mean(kept),
            confidence=unlabeled.mean(confidence),
        )
        return labelled_loss + self.weight * unlabelled_loss, logs
