"""SimMatchV2: each unlabelled image and its nearest labelled ones form a graph along which labels flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, log_softmax, normalize

from ml_worker.nets import Network
from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, supervised_loss

EMBEDDING = 128  # numbers per image in both banks
MOMENTUM = 0.7  # of a labelled image's embedding
NOBODY = -1e4  # the similarity to an entry not seen yet: its share of a softmax is exactly 0, its logarithm is not


class Trainer(nn.Module):
    """Four kinds of agreement between views: nodes are views with a guess, edges are their similarities.

    Source: Zheng et al. 2023, SimMatchV2, section 3. Edge to node: the guess of a weak view is replaced by what comes
    of propagating labels over the graph of that view and its `neighbours` nearest labelled images. Node to node: the
    strong view learns that target where its top class reaches `threshold`. Edge to edge: the strong view's
    similarities to recent unlabelled views must be those of the weak view. Edge from node: they must also be high
    where the guesses agree. alpha in 0..1: how much of a node's label comes from its neighbours. temperature: of the
    similarities. weight: of the loss on guesses; edge_weight: of each of the two losses on edges. memory: how many
    recent views are kept. The paper takes 128 neighbours and 82 thousand views; time per step grows with both.

    Differences: layer normalisation stands before the embedding alone, not before the classifier, because the network
    is served without this trainer; one strong view, no small crops; weak views come from the network itself, not from
    a teacher; distribution alignment is the loop's option; labelled embeddings are kept as running means.
    """

    per_labeled = ("bank", "seen")

    bank: Tensor
    seen: Tensor
    bank_targets: Tensor
    sorted_items: Tensor
    order: Tensor
    recent: Tensor
    recent_probs: Tensor
    taken: Tensor

    def __init__(
        self,
        setting: Setting,
        *,
        threshold: float,
        neighbours: int,
        alpha: float,
        temperature: float,
        memory: int,
        weight: float,
        edge_weight: float,
    ) -> None:
        super().__init__()
        self.threshold, self.alpha, self.temperature = threshold, alpha, temperature
        self.weight, self.edge_weight = weight, edge_weight
        self.neighbours = min(neighbours, len(setting.labeled_items))
        self.align = alignment(setting)
        width = setting.n_features
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, EMBEDDING))
        items, order = setting.labeled_items.sort()
        self.register_buffer("sorted_items", items, persistent=False)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("bank_targets", setting.labeled_targets.clone(), persistent=False)
        self.register_buffer("bank", torch.zeros(len(items), EMBEDDING))
        self.register_buffer("seen", torch.zeros(len(items), dtype=torch.bool))
        self.register_buffer("recent", torch.zeros(memory, EMBEDDING))
        self.register_buffer("recent_probs", torch.zeros(memory, setting.n_classes))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))  # views ever taken into `recent`

    def loss(self, net: Network, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        b, m = len(labeled), len(unlabeled)
        features = net.features(torch.cat([labeled.weak(), unlabeled.weak(), unlabeled.strong()]))
        logits = net.classify(features).float()
        labelled_loss = supervised_loss(logits[:b], labeled)
        if m == 0:
            return labelled_loss, {"labelled_loss": labelled_loss.detach()}
        embeddings = normalize(self.project(layer_norm(features, features.shape[1:])).float(), dim=1)
        weak, strong = embeddings[b : b + m].detach(), embeddings[b + m :]
        with torch.no_grad():
            probs = self.align(logits[b : b + m].softmax(dim=1))
            self.refresh(labeled.all_items, labeled.gather(embeddings[:b]))
            target = self.propagate(probs, weak)
            confidence = target.max(dim=1).values
            kept = (confidence >= self.threshold).float()
            filled = torch.arange(len(self.recent), device=probs.device) < self.taken
            edges = self.edges(weak, filled).softmax(dim=1) * filled
            alike = (probs @ self.recent_probs.T).float()
            alike = alike / alike.sum(dim=1, keepdim=True).clamp_min(1e-12)
        losses = -(target * log_softmax(logits[b + m :], dim=1)).sum(dim=1)
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)
        strong_edges = log_softmax(self.edges(strong, filled), dim=1)
        edge_edge = -unlabeled.mean((edges * strong_edges).sum(dim=1))
        node_edge = -unlabeled.mean((alike * strong_edges).sum(dim=1))
        self.remember(unlabeled.gather(weak), unlabeled.gather(probs))
        logs = {
            "labelled_loss": labelled_loss.detach(),
            "unlabelled_loss": unlabelled_loss.detach(),
            "edge_edge_loss": edge_edge.detach(),
            "node_edge_loss": node_edge.detach(),
            "kept": unlabeled.mean(kept),
            "confidence": unlabeled.mean(confidence),
        }
        return labelled_loss + self.weight * unlabelled_loss + self.edge_weight * (edge_edge + node_edge), logs

    def propagate(self, probs: Tensor, weak: Tensor) -> Tensor:
        """probs (M, C) and embeddings (M, E) of weak views -> what their labels become on their graphs, (M, C).

        With A the similarities among a view and its k nearest labelled images, rows normalised, no loops, the limit
        of Y <- alpha A Y + (1 - alpha) Y0 is (1 - alpha) (I - alpha A)^-1 Y0. Only its first row is wanted, so one
        transposed system with one right-hand side is solved per view. With nothing seen, probs come back.
        """
        nearest = (weak @ self.bank.T).float().masked_fill(~self.seen, NOBODY).topk(self.neighbours, dim=1).indices
        nodes = torch.cat([weak[:, None], self.bank[nearest]], dim=1)
        there = torch.cat([torch.ones_like(nearest[:, :1], dtype=torch.bool), self.seen[nearest]], dim=1)
        identity = torch.eye(nodes.shape[1], device=nodes.device)
        allowed = there[:, None, :] & ~identity.bool()
        scores = (nodes @ nodes.mT).float() / self.temperature
        graph = scores.masked_fill(~allowed, NOBODY).softmax(dim=2) * allowed
        first = (1.0 - self.alpha) * identity[:1].T.expand(len(nodes), -1, -1)
        shares = torch.linalg.solve((identity - self.alpha * graph).mT, first)[:, :, 0]
        target = (shares[:, :1] * probs).scatter_add_(1, self.bank_targets[nearest], shares[:, 1:])
        return target / target.sum(dim=1, keepdim=True)

    def edges(self, embeddings: Tensor, filled: Tensor) -> Tensor:
        """embeddings (M, E) -> logits (M, R) of their similarity to the recent views that there are."""
        recent = self.recent.clone()  # overwritten in part before the gradient is taken
        return ((embeddings @ recent.T).float() / self.temperature).masked_fill(~filled, NOBODY)

    def remember(self, embeddings: Tensor, probs: Tensor) -> None:
        """Put weak views (M, E) and their guesses (M, C) over the oldest ones."""
        size = len(self.recent)
        places = (self.taken + torch.arange(len(probs[:size]), device=probs.device)) % size
        self.recent[places] = embeddings[:size].to(self.recent.dtype)
        self.recent_probs[places] = probs[:size].to(self.recent_probs.dtype)
        self.taken.add_(len(places))

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
