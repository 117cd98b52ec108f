"""What is learnt from, and which of it each step sees: images, answers and the order they are drawn in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml_worker import augment, distributed
from ml_worker.images import Images
from ml_worker.pool import Floats, Rows
from ml_worker.trainers import Batch

_DEVICE_SHARE = 0.3  # of the free memory of a GPU that the images may take

Views = Callable[[Tensor], Tensor]  # uint8 (B, 3, H, W) to float32 (B, 3, H, W) in 0..1


@dataclass(frozen=True, eq=False)
class Examples:
    """A pool of images and the answers there are.

    images: uint8 (N, px, px, 3), may be memory-mapped; a row is an item's place in it. labeled: int64 (L,) rows, each
    once; targets: int64 (L,) in 0..C-1; weights: float32 (L,), how much each answer counts; label_versions: int64
    (L,), another number when an item's answer changed. unlabeled: int64 (M,) rows to learn from without their
    answers, the labelled ones among them, never an audited one. audit, audit_targets: int64 (A,), only evaluated on.
    prior: float32 (C,), the estimated share of each class in the pool. Raises ValueError for what does not fit.
    """

    images: Images
    labeled: Rows
    targets: Rows
    weights: Floats
    label_versions: Rows
    unlabeled: Rows
    audit: Rows
    audit_targets: Rows
    n_classes: int
    prior: Floats

    def __post_init__(self) -> None:
        n = len(self.labeled)
        if n == 0:
            raise ValueError("no answer to learn from; label at least one item first")
        for name in ("targets", "weights", "label_versions"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{len(getattr(self, name))} {name} for {n} labelled items; wanted one each")
        if len(np.unique(self.labeled)) != n:
            raise ValueError("an item is labelled twice; wanted each item once")
        if self.targets.min() < 0 or self.targets.max() >= self.n_classes:
            raise ValueError(f"targets {self.targets.min()} to {self.targets.max()}; wanted 0 to {self.n_classes - 1}")
        if np.isin(self.audit, np.concatenate([self.labeled, self.unlabeled])).any():
            raise ValueError("an audited item is among those learnt from; the audit would flatter the model")
        if self.prior.shape != (self.n_classes,):
            raise ValueError(f"prior has shape {self.prior.shape}; wanted ({self.n_classes},)")


def estimated_prior(counts: NDArray[np.int64] | list[int], concentration: float = 1.0) -> Floats:
    """The expected share of each class, float32 (C,), after so many answers of each: counts (C,).

    Posterior mean under a symmetric Dirichlet prior: (count + concentration) / (sum + C concentration), so that a
    class without an answer keeps a share. Count answers to items drawn at random: a queue that asks about close calls
    first says little about how common a class is.
    """
    raised = np.asarray(counts, np.float64) + concentration
    return np.asarray(raised / raised.sum(), np.float32)


def seed_of(*numbers: int) -> int:
    """One seed out of several numbers, 0 to 2**63 - 1; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence([number % 2**63 for number in numbers]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int) -> Rows:
    return np.random.default_rng(seed).permutation(n)


def places(n: int, size: int, step: int, seed: int) -> Rows:
    """Which of n things the batch of a step takes, int64 (size,): one permutation after another, cut into batches.

    Depends on its arguments alone, so that a resumed run goes on with the very batches it would have had. Whatever
    the sizes, nothing is taken twice more often than anything else by more than one. Nothing to take, or none
    wanted, is an empty batch.
    """
    if n == 0 or size == 0:
        return np.zeros(0, np.int64)
    first, taken = step * size, []
    while first < (step + 1) * size:
        epoch, start = divmod(first, n)
        piece = _permutation(n, seed_of(seed, epoch))[start : start + (step + 1) * size - first]
        taken.append(piece)
        first += len(piece)
    return np.concatenate(taken)


class Draws:
    """The labelled and the unlabelled batch of each step, with the views drawn from a generator of that step.

    Where several processes learn together, each gets its part of the batches that one process would get.
    """

    def __init__(
        self, examples: Examples, policy: augment.Policy, *, sizes: tuple[int, int], seed: int, device: torch.device
    ) -> None:
        """sizes: images in a labelled and an unlabelled batch. Raises ValueError where there is not one for each
        process."""
        if any(0 < size < distributed.world() for size in sizes):
            raise ValueError(
                f"batches of {sizes[0]} and {sizes[1]} images cannot be shared by {distributed.world()} processes;"
                " each needs one image at least"
            )
        self.examples, self.policy, self.sizes, self.seed, self.device = examples, policy, sizes, seed, device
        self._resident = _on_device(examples.images, device)

    @property
    def has_unlabeled(self) -> bool:
        return self.sizes[1] > 0 and len(self.examples.unlabeled) > 0

    def of(self, step: int, easy: Callable[[Tensor], Tensor] | None = None) -> tuple[Batch, Batch]:
        """The batches of a step. easy(items int64 (B,)) -> bool (B,): whose strong view is to be harder still."""
        e, generator = self.examples, torch.Generator().manual_seed(seed_of(self.seed, 0, step))
        chosen = places(len(e.labeled), self.sizes[0], step, seed_of(self.seed, 1))
        mine = chosen[distributed.span(len(chosen))]
        targets = torch.from_numpy(np.asarray(e.targets[mine], np.int64)).to(self.device)
        weights = torch.from_numpy(np.asarray(e.weights[mine], np.float32)).to(self.device)
        others = e.unlabeled[places(len(e.unlabeled), self.sizes[1], step, seed_of(self.seed, 2))]
        return (
            self._batch(e.labeled[chosen], generator, targets=targets, weights=weights),
            self._batch(others, generator, easy),
        )

    def _batch(
        self, rows: Rows, generator: torch.Generator, easy: Callable[[Tensor], Tensor] | None = None, **answers: Tensor
    ) -> Batch:
        part = distributed.span(len(rows))
        whole = torch.from_numpy(np.asarray(rows, np.int64)).to(self.device)
        items, chance = whole[part], augment.Part(generator, part.start, len(rows))
        # Nothing is read before a trainer asks: `supervised` never touches the unlabelled images.
        images = lru_cache(maxsize=1)(lambda: self._images(rows[part], items))

        def strong() -> Tensor:
            views = augment.strong(images(), self.policy, chance)
            if easy is not None and (which := easy(whole)).any():
                again = augment.Part(generator, int(which[: part.start].sum()), int(which.sum()))
                views[which[part]] = augment.harder(images()[which[part]], self.policy, again)
            return views

        return Batch(items, lambda: augment.weak(images(), self.policy, chance), strong, **answers, whole=whole)

    def _images(self, rows: Rows, items: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[items].permute(0, 3, 1, 2)
        return torch.from_numpy(self.examples.images[rows]).to(self.device).permute(0, 3, 1, 2)


def _on_device(images: Images, device: torch.device) -> Tensor | None:
    """All images on a GPU where they fit, so that a step copies nothing; None: read them batch by batch."""
    if device.type != "cuda" or images.nbytes > _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    whole = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), 8192):
        whole[start : start + 8192] = torch.from_numpy(np.array(images[start : start + 8192])).to(device)
    return whole
