"""ShrinkMatch: where the network wavers between a few classes, it can still learn what the image is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from ml_worker import distributed
from ml_worker.nets import Network
from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, supervised_loss


class Trainer(nn.Module):
    """FixMatch, and for uncertain items the same lesson among fewer classes: the likeliest and those far behind it.

    Source: Yang et al. 2023, ShrinkMatch, section 3: for an item below the threshold the classes of rank 2 to k are
    struck out, k the smallest for which the likeliest one reaches the threshold among the rest; an auxiliary head
    learns the likeliest class on the strong view among those. Each item counts by its confidence, and all of them by
    the running share of certain items. threshold in 0..1. weight: of the loss on certain items; shrunk_weight: of the
    one on uncertain items. momentum: of the running share (0.999 in the paper, which runs a million steps).

    Both losses are divided by the whole batch. Where only the likeliest class is left there is nothing to tell it
    from, and the item teaches nothing; with two classes that is so for every uncertain item, and this is FixMatch.
    Difference: distribution alignment is the loop's option.
    """

    certain: Tensor

    def __init__(
        self, setting: Setting, *, threshold: float, weight: float, shrunk_weight: float, momentum: float
    ) -> None:
        super().__init__()
        self.threshold, self.weight, self.shrunk_weight = threshold, weight, shrunk_weight
        self.momentum = momentum
        self.align = alignment(setting)
        width = setting.n_features
        # Its own head, so that the served classifier never learns from a class space with holes.
        self.auxiliary = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, setting.n_classes))
        self.register_buffer("certain", torch.zeros(()))

    def loss(self, net: Network, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        b, m = len(labeled), len(unlabeled)
        features = net.features(torch.cat([labeled.weak(), unlabeled.weak(), unlabeled.strong()]))
        logits = net.classify(features).float()
        labelled_loss = supervised_loss(logits[:b], labeled)
        if m == 0:
            return labelled_loss, {"labelled_loss": labelled_loss.detach()}
        with torch.no_grad():
            probs = self.align(logits[b : b + m].softmax(dim=1))
            confidence = probs.max(dim=1).values
            guess, left = shrink(probs, self.threshold)
            kept = (confidence >= self.threshold).float()
            self.certain.lerp_(distributed.mean(kept), 1.0 - self.momentum)
        losses = cross_entropy(logits[b + m :], guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)
        shrunk = shrunk_losses(self.auxiliary(features[b + m :]).float(), guess, left)
        shrunk_loss = self.certain * unlabeled.mean(shrunk * confidence * (1.0 - kept))
        logs = {
            "labelled_loss": labelled_loss.detach(),
            "unlabelled_loss": unlabelled_loss.detach(),
            "shrunk_loss": shrunk_loss.detach(),
            "kept": unlabeled.mean(kept),
            "confidence": unlabeled.mean(confidence),
            "classes_left": unlabeled.mean(left.sum(dim=1).float()),
        }
        return labelled_loss + self.weight * unlabelled_loss + self.shrunk_weight * shrunk_loss, logs


def shrink(probs: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The likeliest class of each item, int64 (B,), and which classes stay in its shrunk space, bool (B, C).

    probs: float (B, C). The likeliest class always stays; one of rank r does if the likeliest reaches the threshold
    among itself and the ranks from r on. Once one stays, all behind it do, so that one sum per rank replaces the
    search for k. Among equals the smaller class number has the better rank.
    """
    ranked, order = probs.sort(dim=1, descending=True, stable=True)
    from_rank = ranked.flip(1).cumsum(dim=1).flip(1)
    stays = ranked[:, :1] >= threshold * (ranked[:, :1] + from_rank)
    stays[:, 0] = True
    return order[:, 0], torch.zeros_like(stays).scatter_(1, order, stays)


def shrunk_losses(logits: Tensor, guess: Tensor, left: Tensor) -> Tensor:
    """Cross-entropy (B,) of logits (B, C) against guess (B,) among the classes left (B, C); no others get gradient."""
    among = log_softmax(logits.masked_fill(~left, -torch.inf), dim=1)
    return -among.gather(1, guess[:, None])[:, 0]
