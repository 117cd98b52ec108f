"""FreeMatch: the threshold follows how sure the network has become, for the pool and for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ml_worker import distributed
from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, inertia, one_pass, scalars, supervised_loss


class Trainer(nn.Module):
    """FixMatch with a threshold that is a running mean of confidence, and a term that keeps all classes in use.

    Source: Wang et al. 2023, section 4.1 (self-adaptive threshold, equations 5 to 7) and section 4.2 (self-adaptive
    fairness). ceiling in 0..1: the threshold never rises above it; 1 is the paper, whose authors cut at 0.95 on SVHN
    only; without the cut a network that is sure of everything keeps half of it. fairness: weight of the fairness term.
    momentum in 0..1: of the three running means. weight: of the unlabelled loss.

    Differences: the threshold is cut when used, not in memory; classes that no kept strong view was given to are left
    out of the fairness term, where the paper's ratio has no value.
    """

    confidence: Tensor  # float32 (): running mean of the confidence; begins at 1 / C
    mean: Tensor  # float32 (C,): running mean of the guesses as probabilities
    histogram: Tensor  # float32 (C,): running mean of the guesses as classes

    def __init__(self, setting: Setting, *, ceiling: float, fairness: float, momentum: float, weight: float) -> None:
        super().__init__()
        self.ceiling, self.fairness, self.momentum, self.weight = ceiling, fairness, momentum, weight
        self.align = alignment(setting)
        uniform = torch.full((setting.n_classes,), 1.0 / setting.n_classes)
        self.register_buffer("confidence", uniform[0].clone())
        self.register_buffer("mean", uniform.clone())
        self.register_buffer("histogram", uniform.clone())

    def thresholds(self) -> Tensor:
        """float32 (C,): the confidence that a guess of each class must reach now."""
        return self.confidence.clamp_max(self.ceiling) * self.mean / self.mean.max()

    def observe(self, probs: Tensor, momentum: float) -> None:
        """Take a batch of guesses (B, C) into the running means."""
        confidence, guess = probs.max(dim=1)
        shares = one_hot(guess, len(self.mean)).to(probs.dtype).mean(dim=0)
        for memory, now in (
            (self.confidence, confidence.mean()),
            (self.mean, probs.mean(dim=0)),
            (self.histogram, shares),
        ):
            memory.lerp_(now, 1.0 - momentum)

    def fairness_loss(self, probs: Tensor, kept: Tensor) -> Tensor:
        """Sum of a log b over the classes; 0 when nothing was kept.

        probs (B, C): strong views, with gradient. kept (B,): 0 or 1. a and b: mean probability over histogram, scaled
        to sum 1, of the pool so far and of the kept strong views. Processes that share the batch get the same number.
        """
        share = (kept / distributed.total(kept.sum()).clamp_min(1.0)).unsqueeze(1)
        histogram = distributed.total((share * one_hot(probs.argmax(dim=1), probs.shape[1])).sum(dim=0))
        used = histogram > 0
        mean = distributed.total((share * probs).sum(dim=0))
        ratio = torch.where(used, mean / histogram.clamp_min(1e-6), 0.0)
        b = ratio / ratio.sum().clamp_min(1e-6)
        a = self.mean / self.histogram.clamp_min(1e-6)
        return (a / a.sum() * torch.where(used, b, 1.0).log()).sum()

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        labelled, weak, strong = one_pass(net, labeled.weak(), unlabeled.weak(), unlabeled.strong())
        labelled_loss = supervised_loss(labelled, labeled)
        if len(unlabeled) == 0:
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        with torch.no_grad():
            probs = self.align(weak.softmax(dim=1))
            self.observe(unlabeled.gather(probs), inertia(self.momentum, step))
            confidence, guess = probs.max(dim=1)
            kept = (confidence >= self.thresholds()[guess]).float()
        losses = cross_entropy(strong, guess, reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)  # over the whole batch, not over what passed
        fairness_loss = self.fairness_loss(strong.softmax(dim=1), kept)
        logs = scalars(
            labelled_loss=labelled_loss,
            unlabelled_loss=unlabelled_loss,
            fairness_loss=fairness_loss,
            kept=unlabeled.mean(kept),
            confidence=unlabeled.mean(confidence),
            threshold=self.thresholds(),
        )
        return labelled_loss + self.weight * unlabelled_loss + self.fairness * fairness_loss, logs
