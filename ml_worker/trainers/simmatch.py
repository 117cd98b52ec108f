"""SimMatch: guesses have to agree with the labelled images that look alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from ml_worker.nets import Network
from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, supervised_loss

EMBEDDING = 128  # numbers per image in the bank
MOMENTUM = 0.7  # of an embedding in the bank
WARM_UP = 0.02  # share of the run without the bank's say
NOBODY = -1e4  # the similarity of an entry not seen yet: its share of a softmax is exactly 0, its logarithm is not


class Trainer(nn.Module):
    """FixMatch whose guesses are mixed with the labels of similar labelled images, and a second task: the strong view
    must resemble the same labelled images as the weak one.

    Source: Zheng et al. 2022, SimMatch, section 3: the similarity to every labelled image is multiplied by the guess
    for that image's class and renormalised (unfolding: the instance target); summed over the images of each class, it
    is mixed into the guess (aggregation: the semantic target). smoothing in 0..1: the share that the guess keeps of
    the semantic target. threshold in 0..1: what the semantic target's top class must reach. temperature: of the
    similarities. weight, instance_weight: of the two losses on unlabelled images.

    The bank holds one embedding per labelled item, a running mean over the batches it was in. Differences: the first
    epoch without the bank is the first 2 % of the steps, since here an epoch may be longer than a run; distribution
    alignment is the loop's option and a running mean, not a queue of 32 batches; an item that is twice in a batch
    goes into the bank as the mean of its views; weak views come from the network itself, as in the paper's small
    data sets.
    """

    per_labeled = ("bank", "seen")

    bank: Tensor
    seen: Tensor
    bank_targets: Tensor
    sorted_items: Tensor
    order: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        threshold: float,
        smoothing: float,
        temperature: float,
        weight: float,
        instance_weight: float,
    ) -> None:
        super().__init__()
        self.threshold, self.smoothing, self.temperature = threshold, smoothing, temperature
        self.weight, self.instance_weight = weight, instance_weight
        self.align = alignment(setting)
        width = setting.n_features
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, EMBEDDING))
        items, order = setting.labeled_items.sort()
        self.register_buffer("sorted_items", items, persistent=False)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("bank_targets", setting.labeled_targets.clone(), persistent=False)
        self.register_buffer("bank", torch.zeros(len(items), EMBEDDING))
        self.register_buffer("seen", torch.zeros(len(items), dtype=torch.bool))

    def loss(self, net: Network, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        b, m = len(labeled), len(unlabeled)
        features = net.features(torch.cat([labeled.weak(), unlabeled.weak(), unlabeled.strong()]))
        logits = net.classify(features).float()
        labelled_loss = supervised_loss(logits[:b], labeled)
        if m == 0:
            return labelled_loss, {"labelled_loss": labelled_loss.detach()}
        embeddings = normalize(self.project(features).float(), dim=1)
        self.refresh(labeled.all_items, labeled.gather(embeddings[:b]))
        similar = self.similarities(embeddings[b:])
        with torch.no_grad():
            probs = self.align(logits[b : b + m].softmax(dim=1))
            semantic, instance = self.targets(probs, similar[:m])
            started = step.share >= WARM_UP
            semantic = semantic if started else probs
            confidence = semantic.max(dim=1).values
            kept = (confidence >= self.threshold).float()
        losses = -(semantic * log_softmax(logits[b + m :], dim=1)).sum(dim=1)
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)
        instance_losses = -(instance * log_softmax(similar[m:], dim=1)).sum(dim=1)
        instance_loss = unlabeled.mean(instance_losses) * float(started)
        logs = {
            "labelled_loss": labelled_loss.detach(),
            "unlabelled_loss": unlabelled_loss.detach(),
            "instance_loss": instance_loss.detach(),
            "kept": unlabeled.mean(kept),
            "confidence": unlabeled.mean(confidence),
        }
        return labelled_loss + self.weight * unlabelled_loss + self.instance_weight * instance_loss, logs

    def similarities(self, embeddings: Tensor) -> Tensor:
        """embeddings float (B, E), of length 1 -> their logits (B, L) over the bank; unseen entries have no share."""
        return ((embeddings @ self.bank.T).float() / self.temperature).masked_fill(~self.seen, NOBODY)

    def targets(self, probs: Tensor, similar: Tensor) -> tuple[Tensor, Tensor]:
        """probs (M, C), similar logits (M, L) -> the semantic target (M, C) and the instance target (M, L).

        Rows sum to 1; where nothing of the bank has been seen, the semantic target is probs, the other one 0.
        """
        shares = similar.softmax(dim=1) * self.seen
        unfolded = shares * probs[:, self.bank_targets]
        instance = unfolded / unfolded.sum(dim=1, keepdim=True).clamp_min(1e-12)
        by_class = torch.zeros_like(probs).index_add_(1, self.bank_targets, shares)
        mixed = self.smoothing * probs + (1.0 - self.smoothing) * by_class
        return torch.where(self.seen.any(), mixed, probs), instance

    def refresh(self, items: Tensor, embeddings: Tensor) -> None:
        """Take the embeddings float (B, E) of labelled items into the bank; other items are passed over."""
        places = torch.searchsorted(self.sorted_items, items).clamp_max(len(self.sorted_items) - 1)
        known, slots = (self.sorted_items[places] == items).to(self.bank.dtype), self.order[places]
        count = torch.zeros_like(self.bank[:, 0]).index_add_(0, slots, known)
        total = torch.zeros_like(self.bank).index_add_(0, slots, embeddings.to(self.bank.dtype) * known[:, None])
        mean = total / count.clamp_min(1.0)[:, None]
        blend = torch.where(self.seen[:, None], MOMENTUM * self.bank + (1.0 - MOMENTUM) * mean, mean)
        here = count > 0
        self.bank.copy_(torch.where(here[:, None], normalize(blend, dim=1), self.bank))
        self.seen.logical_or_(here)
