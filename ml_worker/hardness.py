"""Sample-adaptive augmentation: what a network finds easy is shown harder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ml_worker.pool import Floats

_MOMENTUM = 0.9
_WARM_UP = 0.4  # share of the run before the first split


class Hardness(nn.Module):
    """How hard each unlabelled item has been, and which are easy enough for a harder view.

    Source: Gui et al. 2023, Enhancing Sample Utilization through Sample Adaptive Augmentation. Once per passage
    through the pool, after 400 of 1,024 epochs there and 40 % of the run here, Otsu's threshold on the running mean
    of the losses splits the items; the lower half is easy.
    """

    per_item = ("losses", "easy")
    losses: Tensor
    easy: Tensor

    def __init__(self, n_items: int, n_unlabeled: int) -> None:
        super().__init__()
        self.n_unlabeled = n_unlabeled
        self.register_buffer("losses", torch.full((n_items,), torch.nan))
        self.register_buffer("easy", torch.zeros(n_items, dtype=torch.bool))

    def note(self, items: Tensor, losses: Tensor) -> None:
        """Take losses (B,) of items (B,) into their running means; the first one starts it."""
        losses, before = losses.detach().to(self.losses.dtype), self.losses[items]
        self.losses[items] = torch.where(before.isnan(), losses, before.lerp(losses, 1.0 - _MOMENTUM))

    def is_easy(self, items: Tensor) -> Tensor:
        """bool (B,) for items int64 (B,)."""
        return self.easy[items]

    def split(self, step: int, batch: int, share: float) -> None:
        """Decide anew who is easy, where this step of a run ended a passage through the pool."""
        ended = (step + 1) * batch // self.n_unlabeled > step * batch // self.n_unlabeled
        known = ~self.losses.isnan()
        if not ended or share < _WARM_UP or not known.any():
            return
        threshold = otsu(self.losses[known].cpu().numpy())
        self.easy.copy_(known & (self.losses <= threshold))


def otsu(values: Floats) -> float:
    """The value that best parts low from high: those up to it are the low group. -inf where all are the same.

    values: float (n,), n > 0. Largest variance between the two groups (Otsu 1979), tried at every value rather than
    on a histogram, whose bins a few large losses would stretch.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    if ordered[0] == ordered[-1]:
        return -np.inf
    n, sums = len(ordered), np.cumsum(ordered)
    low = np.arange(1, n)
    gap = sums[:-1] / low - (sums[-1] - sums[:-1]) / (n - low)
    # Among equal values only the last is a border.
    spread = np.where(ordered[1:] > ordered[:-1], low * (n - low) * gap**2, -1.0)
    return float(ordered[int(spread.argmax())])
