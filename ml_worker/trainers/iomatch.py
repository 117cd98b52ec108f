"""IOMatch: learns from a pool that also holds images of none of the classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid

from ml_worker.nets import Network
from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, supervised_loss, weighted_mean

EMBEDDING = 128
WARM_UP = 0.02  # share of the run in which the open head rests


class Trainer(nn.Module):
    """Three heads: one among the C classes, one that says of each class "this or not", and one of C + 1 classes.

    Source: Li et al. 2023, IOMatch, section 3. p_c is the guess for a weak view and o_c the chance that it belongs to
    class c at all, if to any. The open target of an item is [p_c o_c for each c, sum of p_c (1 - o_c)]; its last
    number is the chance of a stranger. The open head learns that target on the strong view, whoever the item is,
    where its largest number reaches open_threshold; the served classifier learns the guess where it reaches threshold
    and a stranger is less likely than not. Labelled items, all of known classes, teach the second head their own
    class as "this" and the likeliest wrong class as "not". weight: of the loss of the classifier on unlabelled
    images; open_weight: of the open head's.

    Differences: "this or not" is one logit, not two (the same function); the open head rests for the first 2 % of the
    steps, not for an epoch, which may be longer than a run here; distribution alignment is the loop's option and a
    running mean, not a queue of 128 batches.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        threshold: float,
        open_threshold: float,
        weight: float,
        open_weight: float,
    ) -> None:
        super().__init__()
        self.threshold, self.open_threshold = threshold, open_threshold
        self.weight, self.open_weight = weight, open_weight
        self.align = alignment(setting)
        width = setting.n_features
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, EMBEDDING))
        self.belongs = nn.Linear(EMBEDDING, setting.n_classes)
        self.open = nn.Linear(EMBEDDING, setting.n_classes + 1)

    def loss(self, net: Network, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        b, m = len(labeled), len(unlabeled)
        features = net.features(torch.cat([labeled.weak(), unlabeled.weak(), unlabeled.strong()]))
        logits = net.classify(features).float()
        labelled_loss = supervised_loss(logits[:b], labeled)
        if m == 0:
            return labelled_loss, {"labelled_loss": labelled_loss.detach()}
        embeddings = self.project(features)
        belongs = self.belongs(embeddings[: b + m]).float()
        belongs_loss = one_vs_all_loss(belongs[:b], labeled)
        with torch.no_grad():
            probs = self.align(logits[b : b + m].softmax(dim=1))
            target = open_targets(probs, belongs[b:])
            stranger = target[:, -1]
            confidence, guess = probs.max(dim=1)
            kept = ((confidence >= self.threshold) & (stranger < 0.5)).float()
            open_kept = (target.max(dim=1).values >= self.open_threshold).float()
            open_kept = open_kept * float(step.share >= WARM_UP)
        losses = cross_entropy(logits[b + m :], guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)
        open_losses = -(target * log_softmax(self.open(embeddings[b + m :]).float(), dim=1)).sum(dim=1)
        open_loss = unlabeled.mean(open_losses * open_kept)
        logs = {
            "labelled_loss": labelled_loss.detach(),
            "belongs_loss": belongs_loss.detach(),
            "unlabelled_loss": unlabelled_loss.detach(),
            "open_loss": open_loss.detach(),
            "kept": unlabeled.mean(kept),
            "open_kept": unlabeled.mean(open_kept),
            "strangers": unlabeled.mean((stranger >= 0.5).float()),
            "confidence": unlabeled.mean(confidence),
        }
        total = labelled_loss + belongs_loss + self.weight * unlabelled_loss + self.open_weight * open_loss
        return total, logs

    @torch.no_grad()
    def outlier_scores(self, net: Network, images: Tensor) -> Tensor:
        """How likely each image is of none of the classes: float (B,) in 0..1.

        images: float (B, 3, H, W) in 0..1, as they are. The last number of the open target, sum of p_c (1 - o_c), and
        not the open head's share for the class past the last: on digits with four strange classes it separates better
        (area under the curve 0.83 against 0.76, three seeds) and needs no warm-up. Put net and trainer in eval mode
        first. Scores rank items; they are not calibrated.
        """
        features = net.features(images)
        probs = net.classify(features).float().softmax(dim=1)
        return open_targets(probs, self.belongs(self.project(features)).float())[:, -1]


def one_vs_all_loss(logits: Tensor, batch: Batch) -> Tensor:
    """-log o_y plus the largest -log(1 - o_c) of a wrong class c, averaged over a labelled batch with its weights.

    logits: float (B, C); o is their sigmoid.
    """
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, batch.targets[:, None], True)
    this = -logsigmoid(logits.gather(1, batch.targets[:, None])[:, 0])
    hardest = (-logsigmoid(-logits)).masked_fill(own, 0.0).max(dim=1).values
    return weighted_mean(this + hardest, batch)


def open_targets(probs: Tensor, belongs: Tensor) -> Tensor:
    """probs (M, C) and logits (M, C) of belonging -> shares (M, C + 1) of each class and, last, of a stranger."""
    inside = probs * belongs.sigmoid()
    outside = (probs * (-belongs).sigmoid()).sum(dim=1, keepdim=True)
    return torch.cat([inside, outside], dim=1)
