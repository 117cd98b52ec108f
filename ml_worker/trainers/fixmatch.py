"""FixMatch: what the network is sure of on a weak view, it must say on a strong one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, supervised_loss


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
        b, m = len(labeled), len(unlabeled)
        # One pass over all views, so that batch normalisation sees the same statistics everywhere.
        logits = net(torch.cat([labeled.weak(), unlabeled.weak(), unlabeled.strong()])).float()
        labelled_loss = supervised_loss(logits[:b], labeled)
        if m == 0:
            return labelled_loss, {"labelled_loss": labelled_loss.detach()}
        with torch.no_grad():
            probs = self.align(logits[b : b + m].softmax(dim=1))
            confidence, guess = probs.max(dim=1)
            kept = (confidence >= self.threshold).float()
        losses = cross_entropy(logits[b + m :], guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = (losses * kept).sum() / m
        logs = {
            "labelled_loss": labelled_loss.detach(),
            "unlabelled_loss": unlabelled_loss.detach(),
            "kept": kept.mean(),
            "confidence": confidence.mean(),
        }
        return labelled_loss + self.weight * unlabelled_loss, logs
