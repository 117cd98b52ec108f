"""ELR: early on a network is right where labels are wrong; it is held to what it believed then."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ml_worker.trainers import Batch, Logs, Setting, Step, scalars, supervised_loss, weighted_mean


class Trainer(nn.Module):
    """Cross-entropy on the labelled images plus a reward for agreeing with one's own running mean prediction.

    Source: Liu et al. 2020, Early-Learning Regularization: the loss CE + lambda * mean of log(1 - <p, t>) and the
    running mean t <- beta t + (1 - beta) p. memory in 0..1: beta. weight: lambda, to be tuned (3 for symmetric, 1 for
    asymmetric wrong labels, 7 for many classes).

    Differences: views are strong, as those of `supervised`, where the paper's are cropped and flipped; an answer's
    weight counts for both terms; an item that stands in a batch more than once enters its memory once, by the mean
    of its predictions. Unlabelled images are not used.
    """

    per_labeled = ("beliefs",)
    believed = "beliefs"  # what a finished training keeps of it, to be held against the labels
    beliefs: Tensor  # float32 (L, C): running mean prediction of each labelled item; 0 before the first
    places: Tensor  # int64 (N,): which row of `beliefs` belongs to an item of the pool

    def __init__(self, setting: Setting, *, memory: float, weight: float) -> None:
        super().__init__()
        self.memory, self.weight = memory, weight
        n_labeled = len(setting.labeled_items)
        self.register_buffer("beliefs", torch.zeros(n_labeled, setting.n_classes))
        places = torch.zeros(setting.n_items, dtype=torch.int64)
        places[setting.labeled_items] = torch.arange(n_labeled)
        self.register_buffer("places", places, persistent=False)

    def remember(self, items: Tensor, probs: Tensor) -> Tensor:
        """Take predictions (B, C) of these items into their beliefs; returns the beliefs after that, (B, C)."""
        rows = self.places[items]
        # The first place in the batch of each item: writes of one item must agree, or a GPU would pick one by chance.
        first = (rows.unsqueeze(1) == rows).to(torch.uint8).argmax(dim=1)
        sums = torch.zeros_like(probs).index_add_(0, first, probs)
        times = torch.zeros_like(probs[:, 0]).index_add_(0, first, torch.ones_like(probs[:, 0]))
        means = (sums / times.clamp_min(1.0).unsqueeze(1))[first]
        self.beliefs[rows] = torch.lerp(means, self.beliefs[rows], self.memory)
        return self.beliefs[rows]

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        logits = net(labeled.strong()).float()
        labelled_loss = supervised_loss(logits, labeled)
        # Clamped as in the paper's experiments: the logarithm has no value where belief and prediction are both 1.
        probs = logits.softmax(dim=1).clamp(1e-4, 1.0 - 1e-4)
        with torch.no_grad():
            self.remember(labeled.all_items, labeled.gather(probs / probs.sum(dim=1, keepdim=True)))
            beliefs = self.beliefs[self.places[labeled.items]]
        agreement = (beliefs * probs).sum(dim=1)
        regularizer = weighted_mean(torch.log1p(-agreement), labeled)
        logs = scalars(labelled_loss=labelled_loss, regularizer=regularizer, agreement=labeled.mean(agreement))
        return labelled_loss + self.weight * regularizer, logs
