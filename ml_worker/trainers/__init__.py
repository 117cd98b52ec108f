"""Trainers: how a network learns from few labels and many images. One file each; its name is the trainer's name.

A trainer is a class `Trainer(setting, **parameters)`, a torch module, with

    loss(net, labeled, unlabeled, step) -> (scalar tensor, {name: scalar tensor})

It holds no optimiser, no loader, no file and no database: `ml_worker/loop.py` does. What it has to remember
(thresholds, one number per item, a bank of embeddings) it keeps in buffers, and heads of its own are submodules: both
travel with its `state_dict`, so that a resumed run goes on as if nothing had happened. The numbers beside the loss are
logged, averaged over steps, and shown while it trains; every trainer with a gate logs the share it let through as
`kept`. They stay tensors: reading one on a GPU would wait for it.

Memory per item is declared, so that the loop can forget the entries of items whose answer changed (their memory was of
another answer) and keep the others when the pool grew or answers came in between two sittings of one run:

    per_item = ("guesses",)       # buffers of setting.n_items rows; row = the item's row in the image pool
    per_labeled = ("targets",)    # buffers with one row per setting.labeled_items, in that order

What can be worked out from the setting is no memory: register it with persistent=False. Dropout, torch.rand and the
like need no care: before each step the loop seeds torch from the run's seed and the step's number.

Several processes may share a batch: a trainer is then given a part of it, and the mean of what the processes return is
the loss. `Batch.mean`, `weighted_mean` and `scalars` see to that. Whatever is remembered or decided for the batch as a
whole is worked out from all of it: `Batch.all_items`, `Batch.gather`, `distributed.mean`. In one process these do
nothing.

Arithmetic that a third trainer needs becomes a function here, never a base class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ml_worker import distributed

Logs = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a trainer may know before it begins.

    n_classes: C. n_features: D of `Network.features`. n_items: rows of the image pool; `items` of a batch are such
    rows, so memory per item is a buffer of this length. steps: how many steps the run will have. labeled_items: int64
    (L,), each once, and labeled_targets int64 (L,): which items are labelled. prior: float (C,), the estimated share
    of each class in the pool. alignment: "none", "uniform" or "estimated", the loop's option for `Alignment`.
    """

    n_classes: int
    n_features: int
    n_items: int
    steps: int
    labeled_items: Tensor
    labeled_targets: Tensor
    prior: Tensor
    alignment: str = "none"


@dataclass(frozen=True, eq=False)
class Batch:
    """B images and as many views of them as a trainer asks for. Every call draws anew, from the step's own seed.

    items: int64 (B,) rows of the image pool. weak(), strong(): float32 (B, 3, H, W) in 0..1, shifted and flipped as
    the project allows; strong distorts on top of that. targets: int64 (B,), empty for unlabelled batches. weights:
    float32 (B,), how much each answer counts. whole: int64 rows of the batch that several processes share, of which
    this is one's part; None where this is all of it.
    """

    items: Tensor
    weak: Callable[[], Tensor]
    strong: Callable[[], Tensor]
    targets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    weights: Tensor = field(default_factory=lambda: torch.ones(0))
    whole: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def all_items(self) -> Tensor:
        """The items of all processes, int64, in the order of `gather`."""
        return self.items if self.whole is None else self.whole

    def gather(self, rows: Tensor) -> Tensor:
        """One row per item of this batch -> those of all processes, without gradient."""
        return distributed.gather(rows, len(self.all_items))

    def mean(self, values: Tensor) -> Tensor:
        """This process's term, with gradient, of the mean over all items: the mean of these terms over the processes.
        values: float (B,)."""
        return values.sum() / max(1, len(self.all_items)) * distributed.world()


@dataclass(frozen=True, eq=False)
class Step:
    """Where the run stands. number: from 0. teacher: the running mean (EMA) of the network's weights, in eval mode,
    without gradients. note(items, losses): tells the loop how hard each unlabelled item was (float (B,), any scale);
    sample-adaptive augmentation lives on it."""

    number: int
    steps: int
    teacher: nn.Module
    note: Callable[[Tensor, Tensor], None] = lambda items, losses: None

    @property
    def share(self) -> float:
        """How much of the run is over, 0 to 1."""
        return self.number / max(1, self.steps)


def inertia(momentum: float, step: Step) -> float:
    """The momentum of a running mean at this step: small at first, so that a run of a thousand steps forgets what the
    mean began with too. The published values are for a million steps."""
    return min(momentum, (1 + step.number) / (10 + step.number))


class Alignment(nn.Module):
    """Distribution alignment: predictions on the pool are bent until their mean is the class prior.

    p' is proportional to p * target / running mean of p (Berthelot et al. 2020, ReMixMatch, section 3.1), the mean as
    EMA. target: float (C,); None leaves p as it is. A predictor whose mean is the target already is left unchanged.
    """

    mean: Tensor
    target: Tensor | None

    def __init__(self, n_classes: int, target: Tensor | None, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        # Not saved: a resumed run must align to the prior estimated from the answers there are now.
        self.register_buffer("target", target, persistent=False)
        start = torch.full((n_classes,), 1.0 / n_classes) if target is None else target.clone()
        self.register_buffer("mean", start)

    def forward(self, probs: Tensor) -> Tensor:
        """probs (B, C), rows sum to 1 -> the same, aligned. Takes the batch into the running mean first."""
        target = self.target
        if target is None or len(probs) == 0:
            return probs
        self.mean.lerp_(distributed.mean(probs).to(self.mean.dtype), 1.0 - self.momentum)
        bent = probs * (target / self.mean.clamp_min(1e-6)).to(probs.dtype)
        return bent / bent.sum(dim=1, keepdim=True)


def alignment(setting: Setting) -> Alignment:
    """The alignment that the loop's option asks for; one that changes nothing when it is off."""
    if setting.alignment == "uniform":
        target = torch.full((setting.n_classes,), 1.0 / setting.n_classes)
    elif setting.alignment == "estimated":
        target = setting.prior.clone()
    else:
        return Alignment(setting.n_classes, None)
    return Alignment(setting.n_classes, target)


def supervised_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of logits (B, C) over a labelled batch, each answer with its weight."""
    return weighted_mean(nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none"), batch)


def weighted_mean(losses: Tensor, batch: Batch) -> Tensor:
    """Mean of losses (B,) over a labelled batch, each answer with its weight; this process's term, as `Batch.mean`."""
    weight = distributed.total(batch.weights.sum())
    return (losses * batch.weights).sum() * distributed.world() / weight.clamp_min(1e-6)


def one_pass(net: nn.Module, *views: Tensor) -> tuple[Tensor, ...]:
    """Logits (B, C) of each batch of views, float32, from one pass over all, so that batch normalisation sees the
    same statistics everywhere."""
    return net(torch.cat(views)).float().split([len(view) for view in views])


def scalars(**values: Tensor) -> Logs:
    """Each value as its mean without gradient, under its name: what `loss` returns beside the loss."""
    return {name: value.detach().mean() for name, value in values.items()}


def load(name: str) -> Any:
    """The Trainer class in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    return import_module(f"{__name__}.{name}").Trainer
