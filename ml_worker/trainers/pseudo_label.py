"""Pseudo-labels: what the network says of an image becomes its answer, more and more as the run goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, one_pass, scalars, supervised_loss


class Trainer(nn.Module):
    """Hard pseudo-labels above a threshold, learnt on the very view they were read from.

    Source: Lee 2013, Pseudo-Label, equations 14 to 16. threshold in 0..1: confidence that a guess must reach; Lee has
    none (0), but with few labels most early guesses are wrong. weight: of the unlabelled loss once the ramp is over.
    ramp in 0..1: the share of the run over which that weight grows linearly from nothing; Lee's begins after 100
    epochs, this one at once, since runs here have no fixed number of epochs.
    """

    def __init__(self, setting: Setting, *, threshold: float, weight: float, ramp: float) -> None:
        super().__init__()
        self.threshold, self.weight, self.ramp = threshold, weight, ramp
        self.align = alignment(setting)

    def weight_at(self, share: float) -> float:
        """Weight of the unlabelled loss when this share of the run is over."""
        return self.weight * (min(1.0, share / self.ramp) if self.ramp else 1.0)

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        labelled, logits = one_pass(net, labeled.weak(), unlabeled.weak())
        labelled_loss = supervised_loss(labelled, labeled)
        if len(unlabeled) == 0:
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        with torch.no_grad():
            confidence, guess = self.align(logits.softmax(dim=1)).max(dim=1)
            kept = (confidence >= self.threshold).float()
        losses = cross_entropy(logits, guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)  # over the whole batch, not over what passed
        logs = scalars(
            labelled_loss=labelled_loss,
            unlabelled_loss=unlabelled_loss,
            kept=unlabeled.mean(kept),
            confidence=unlabeled.mean(confidence),
        )
        return labelled_loss + self.weight_at(step.share) * unlabelled_loss, logs
