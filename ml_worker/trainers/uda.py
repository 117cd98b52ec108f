"""UDA: a sharpened guess on a weak view is the soft answer for a strong one."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ml_worker.trainers import Batch, Logs, Setting, Step, alignment, one_pass, scalars, supervised_loss


class Trainer(nn.Module):
    """Soft pseudo-labels of low temperature, and labelled images that rest once they are known well enough.

    Source: Xie et al. 2020, Unsupervised Data Augmentation: equation 1, confidence-based masking and sharpening
    (section 3), training signal annealing. threshold in 0..1: confidence that a weak view must reach before
    sharpening. temperature: of the sharpened guess; 1 leaves it as it is. weight: of the unlabelled loss. annealing:
    how the bar above which a labelled image's true class makes it rest rises from 1/C to 1: "off" (it is 1 all along),
    "logarithmic" (early, for many answers), "linear" or "exponential" (late, for few answers).

    Difference: cross-entropy with the sharpened guess instead of the divergence from it; their gradients are the same.
    """

    def __init__(
        self, setting: Setting, *, threshold: float, temperature: float, weight: float, annealing: str
    ) -> None:
        super().__init__()
        self.n_classes = setting.n_classes
        self.threshold, self.temperature, self.weight, self.annealing = threshold, temperature, weight, annealing
        self.align = alignment(setting)

    def sharpen(self, probs: Tensor) -> Tensor:
        """probs (B, C) -> p^(1/T) normalised, by logarithms: at a low temperature the powers themselves underflow."""
        return (probs.clamp_min(1e-30).log() / self.temperature).softmax(dim=1)

    def bar_at(self, share: float) -> float:
        """Probability of its true class above which a labelled image rests when this share of the run is over."""
        if self.annealing == "off":
            return 1.0
        risen = {
            "logarithmic": 1.0 - math.exp(-5.0 * share),
            "linear": share,
            "exponential": math.exp(5.0 * (share - 1.0)),
        }[self.annealing]
        return risen * (1.0 - 1.0 / self.n_classes) + 1.0 / self.n_classes

    def loss(self, net: nn.Module, labeled: Batch, unlabeled: Batch, step: Step) -> tuple[Tensor, Logs]:
        labelled, weak, strong = one_pass(net, labeled.weak(), unlabeled.weak(), unlabeled.strong())
        with torch.no_grad():
            true_probs = labelled.softmax(dim=1).gather(1, labeled.targets.unsqueeze(1)).squeeze(1)
            unknown = (true_probs <= self.bar_at(step.share)).float()
        labelled_loss = supervised_loss(labelled, replace(labeled, weights=labeled.weights * unknown))
        if len(unlabeled) == 0:
            return labelled_loss, scalars(labelled_loss=labelled_loss)
        with torch.no_grad():
            probs = self.align(weak.softmax(dim=1))
            confidence = probs.amax(dim=1)
            kept = (confidence >= self.threshold).float()
        losses = cross_entropy(strong, self.sharpen(probs), reduction="none")
        step.note(unlabeled.items, losses.detach())
        unlabelled_loss = unlabeled.mean(losses * kept)  # over the whole batch, not over what passed
        logs = scalars(
            labelled_loss=labelled_loss,
            unlabelled_loss=unlabelled_loss,
            kept=unlabeled.mean(kept),
            labelled_kept=labeled.mean(unknown),
            confidence=unlabeled.mean(confidence),
        )
        return labelled_loss + self.weight * unlabelled_loss, logs
