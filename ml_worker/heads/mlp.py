"""A small network on the embeddings that must say the same of two looks at an item."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from ml_worker.heads import BLOCK, Origin, origin, with_absent
from ml_worker.pool import Floats, Pool, Rows

_SEED = 0
_RATE, _DECAY = 3e-3, 1e-2
_UNLABELLED = 256  # items a step
_LABELLED = 512  # answers a step, at most
_DROPPED = 0.2  # of the hidden units
_RAMP = 0.4  # of the steps, until consistency counts in full


@dataclass(frozen=True, eq=False)
class _Weights:
    """hidden: (D, H) and (H,); out: (H, P) and (P,). Hidden units are rectified."""

    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def all(self) -> list[Tensor]:
        return [self.hidden, self.hidden_bias, self.out, self.out_bias]


class Head:
    """One hidden layer; cross-entropy on the answers, and agreement between two looks at items without one.

    Source: Laine and Aila 2017, "Temporal Ensembling", the Pi-model: the mean squared difference of both looks'
    probabilities, its weight rising over the first part of the training; Bachman et al. 2014 for noise on
    features. Differences: one look is the target and carries no gradient; both get Gaussian noise and dropout. The
    target looks at the embedding itself, as do the answers; the other look is at one of the pool's cached views where
    it has any (`Pool.views`), every other step. Views on both sides, or for the answers too, taught it to name views
    and not items: of 100 answered digits it then named 0.81 of the others rightly, 0.90 with noise alone, 0.92 so.

    The same answers give the same network: its random numbers come from a generator of its own.

    hidden: units. consistency: weight of the agreement. noise: its deviation, where 1 is that of the embeddings.
    steps: of AdamW, over which the rate falls as a cosine.
    """

    def __init__(self, n_classes: int, *, hidden: int, consistency: float, noise: float, steps: int) -> None:
        self.n_classes, self.hidden, self.consistency = n_classes, hidden, consistency
        self.noise, self.steps = noise, steps
        self.present: Rows = np.zeros(0, np.int64)
        self.weights: _Weights | None = None

    def fit(self, pool: Pool, rows: Rows, targets: Rows, weights: Floats) -> None:
        """Train from nothing on the answers and on items at random. One class only: it is predicted everywhere."""
        if len(rows) == 0:
            raise ValueError("cannot fit a head on no answer")
        self.present, column = np.unique(targets, return_inverse=True)
        generator = torch.Generator().manual_seed(_SEED)
        self.weights = _drawn(pool.embeddings.shape[1], self.hidden, len(self.present), generator)
        if len(self.present) > 1:
            # Steps this small are not worth sharing out: with two threads they took four times as long and more.
            with threadpool_limits(1):
                self._train(pool, rows, torch.from_numpy(column), torch.from_numpy(np.array(weights)), generator)

    def logits(self, pool: Pool) -> Floats:
        """Logits float32 (N, C), finite, for every row of the pool; the embeddings themselves are looked at."""
        assert self.weights is not None
        about = origin(pool)
        seen = np.zeros((len(pool), len(self.present)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(pool) if len(self.present) > 1 else 0, BLOCK):
                block = slice(start, start + BLOCK)
                seen[block] = _forward(self.weights, _standard(pool.embeddings[block], about)).numpy()
        return with_absent(seen, self.present, self.n_classes)

    def _train(self, pool: Pool, rows: Rows, targets: Tensor, weights: Tensor, generator: torch.Generator) -> None:
        assert self.weights is not None
        about = origin(pool)
        indexed = np.flatnonzero(pool.indexed)
        network = self.weights
        optimiser = torch.optim.AdamW([w.requires_grad_() for w in network.all()], lr=_RATE, weight_decay=_DECAY)
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = _RATE * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
            # 1. The answers: all of them, or as many as a step takes.
            taken = _some(len(rows), _LABELLED, generator)
            losses = functional.cross_entropy(
                self._look(pool, rows[taken], about, generator), targets[taken], reduction="none"
            )
            loss = (weights[taken] * losses).sum() / weights[taken].sum().clamp_min(1e-12)
            # 2. Items without regard to their answers: both looks must say the same.
            if self.consistency > 0 and len(indexed):
                others = indexed[_some(len(indexed), _UNLABELLED, generator)]
                with torch.no_grad():
                    wanted = self._look(pool, others, about, generator).softmax(dim=1)
                said = self._look(pool, others, about, generator, at_views=True).softmax(dim=1)
                ramp = min(1.0, (step + 1) / (_RAMP * self.steps))
                loss = loss + self.consistency * ramp * (said - wanted).square().sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for weight in network.all():
            weight.requires_grad_(False)

    def _look(
        self, pool: Pool, rows: Rows, about: Origin, generator: torch.Generator, *, at_views: bool = False
    ) -> Tensor:
        """Logits (B, P) of one distorted look at these rows; at_views: as often at a cached view as at the item."""
        assert self.weights is not None
        source = pool.embeddings
        if at_views and pool.views is not None:
            drawn = int(torch.randint(2 * len(pool.views), (), generator=generator))
            source = pool.views[drawn] if drawn < len(pool.views) else source
        features = _standard(source[rows], about)
        features = features + self.noise * torch.randn(features.shape, generator=generator)
        kept = (torch.rand(len(rows), self.hidden, generator=generator) >= _DROPPED) / (1.0 - _DROPPED)
        return _forward(self.weights, features, kept)


def _drawn(inputs: int, hidden: int, classes: int, generator: torch.Generator) -> _Weights:
    """He et al. 2015 for the rectified layer; the last one starts small, so that at first all is level."""
    first = torch.randn(inputs, hidden, generator=generator) * math.sqrt(2.0 / max(inputs, 1))
    last = torch.randn(hidden, classes, generator=generator) * 0.1 / math.sqrt(hidden)
    return _Weights(first, torch.zeros(hidden), last, torch.zeros(classes))


def _forward(weights: _Weights, features: Tensor, kept: Tensor | None = None) -> Tensor:
    hidden = torch.relu(features @ weights.hidden + weights.hidden_bias)
    return (hidden if kept is None else hidden * kept) @ weights.out + weights.out_bias


def _standard(embeddings: Floats, about: Origin) -> Tensor:
    return torch.from_numpy(np.asarray((embeddings - about.mean) / np.float32(about.scale), np.float32))


def _some(n: int, at_most: int, generator: torch.Generator) -> Rows:
    """Places 0..n-1 in order, or so many of them drawn with replacement."""
    if n <= at_most:
        return np.arange(n)
    return torch.randint(n, (at_most,), generator=generator).numpy()
