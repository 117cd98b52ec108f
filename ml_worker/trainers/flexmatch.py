"""FlexMatch: a class that the network has learnt little of is given a lower threshold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, one_pass, scalars, supervised_loss

UNSEEN, NONE = -2, -1


class Trainer(nn.Module):
    """FixMatch with one threshold per class, by how many items of the pool have been guessed with confidence.

    Source: Zhang et al. 2021, Curriculum Pseudo Labeling: learning effects, threshold warm-up, and the convex mapping
    x / (2 - x). threshold in 0..1: what a class that is learnt best must reach, and what makes a guess count.
    weight: of the unlabelled loss.

    While more items are without a confident guess than the best-learnt class has, they are the measure for all
    classes: thresholds begin at 0, where everything passes, and rise. A class with few items looks like one that is
    learnt little: do not use it on a long-tailed pool.

    Difference: only items that have been drawn count as being without a guess. Rows of the image pool that are held
    back for an audit are never drawn, and would keep every threshold down for good.
    """

    per_item = ("guesses",)
    guesses: Tensor  # int64 (N,): the last class guessed with confidence; NONE or UNSEEN before the first

    def __init__(self, setting: Setting, *, threshold: float, weight: float) -> None:
        super().__init__()
        self.n_classes, self.threshold, self.weight = setting.n_classes, threshold, weight
        self.align = alignment(setting)
        self.register_buffer("guesses", torch.full((setting.n_items,), UNSEEN, dtype=torch.int64))

    def thresholds(self) -> Tensor:
        """float32 (C,): the confidence that a guess of each class must reach now."""
        # scatter_add and not bincount, which on a GPU waits for the device to learn how long its answer is.
        counts = torch.zeros(self.n_classes + 2, dtype=torch.int64, device=self.guesses.device)
        counts.scatter_add_(0, self.guesses - UNSEEN, torch.ones_like(counts[:1]).expand(len(self.guesses)))
        _, none, classes = counts.split([1, 1, self.n_classes])
        learnt = classes / torch.maximum(classes.max(), none).clamp_min(1)
        return self.threshold * learnt / (2.0 - learnt)

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        labelled, weak, strong = one_pass(net, labeled.weak(), unlabeled.weak(), unlabeled.strong())
        labelled_loss = supervised_loss(labelled, labeled)
        if len(unlabeled) == 0:
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        with torch.no_grad():
            confidence, guess = self.align(weak.softmax(dim=1)).max(dim=1)
            thresholds = self.thresholds()
            kept = (confidence >= thresholds[guess]).float()
            # An item that is in the batch twice keeps either of its guesses.
            before = self.guesses[unlabeled.items].clamp_min(NONE)
            now = torch.where(confidence >= self.threshold, guess, before)
            self.guesses[unlabeled.all_items] = unlabeled.gather(now)
        losses = cross_entropy(strong, guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)  # over the whole batch, not over what passed
        logs = scalars(
            labelled_loss=labelled_loss,
            unlabelled_loss=unlabelled_loss,
            kept=unlabeled.mean(kept),
            confidence=unlabeled.mean(confidence),
            threshold=thresholds,
        )
        return labelled_loss + self.weight * unlabelled_loss, logs
