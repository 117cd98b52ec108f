"""FixMatch: what the network is sure of on a weak view, it must say on a strong one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, one_pass, scalars, supervised_loss


class Trainer(nn.Module):
    """Hard pseudo-labels from weak views above a fixed threshold, learnt on strong views.

    Source: Sohn et al. 2020, equations 3 and 4. threshold in 0..1: confidence a weak view must reach. weight: of the
    unlabelled loss. The unlabelled loss is divided by the whole batch, not by what passed the gate: that is what
    ramps it up as the network grows sure.
    """

    def __init__(self, setting: Setting, *, threshold: float, weight: float) -> None:
        super().__init__()
        self.threshold, self.weight = threshold, weight
        self.align = alignment(setting)

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        if len(unlabeled) == 0:
            labelled_loss = supervised_loss(net(labeled.weak()), labeled)
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        plain, weak, strong = one_pass(net, labeled.weak(), unlabeled.weak(), unlabeled.strong())
        labelled_loss = supervised_loss(plain, labeled)
        with torch.no_grad():
            confidence, guess = self.align(weak.softmax(dim=1)).max(dim=1)
            kept = (confidence >= self.threshold).float()
        losses = cross_entropy(strong, guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)
        logs = scalars(
            labelled_loss=labelled_loss,
            unlabelled_loss=unlabelled_loss,
            kept=unlabeled.mean(kept),
            confidence=unlabeled.mean(confidence),
        )
        return labelled_loss + self.weight * unlabelled_loss, logs
