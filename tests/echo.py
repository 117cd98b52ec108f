"""A network that says what its images say, so that a test writes down predictions and gets the loss by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from annotator.algorithms import clean_parameters
from ml_worker import trainers
from ml_worker.trainers import Batch, Setting, Step

Rows = list[list[float]]

# On tensors this small two threads that wait for each other take several times as long as one.
torch.set_num_threads(1)


class Echo(nn.Module):
    """Logits are the images themselves, times a weight that begins at 1. counts its calls."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1) * self.weight


def images_of(probs: Rows) -> Tensor:
    """Images (B, C, 1, 1) of which Echo says exactly these probabilities."""
    return torch.tensor(probs).log()[:, :, None, None]


def unlabeled(weak: Rows, strong: Rows | None = None, items: list[int] | None = None) -> Batch:
    """A batch whose weak and strong views Echo reads as these probabilities; strong are weak where not given."""
    rows = torch.arange(len(weak)) if items is None else torch.tensor(items)
    strong = weak if strong is None else strong
    return Batch(rows, lambda: images_of(weak), lambda: images_of(strong))


def labeled(probs: Rows, targets: list[int], weights: list[float] | None = None) -> Batch:
    """The same with answers; items are rows 0, 1, ..."""
    views = images_of(probs)
    counts = torch.ones(len(targets)) if weights is None else torch.tensor(weights)
    return Batch(torch.arange(len(targets)), lambda: views, lambda: views, torch.tensor(targets), counts)


def nothing(n_classes: int) -> Batch:
    """An unlabelled batch without images."""
    return Batch(*_empty(n_classes))


def _empty(n_classes: int) -> tuple[Tensor, Callable[[], Tensor], Callable[[], Tensor]]:
    views = torch.zeros(0, n_classes, 1, 1)
    return torch.zeros(0, dtype=torch.int64), lambda: views, lambda: views


def setting(n_classes: int, *, n_items: int = 8, n_labeled: int = 2, **changes: Any) -> Setting:
    """A pool of so many items, the first of them labelled as class 0, and a uniform prior."""
    given: dict[str, Any] = {
        "n_classes": n_classes,
        "n_features": n_classes,
        "n_items": n_items,
        "steps": 100,
        "labeled_items": torch.arange(n_labeled),
        "labeled_targets": torch.zeros(n_labeled, dtype=torch.int64),
        "prior": torch.full((n_classes,), 1.0 / n_classes),
    }
    return Setting(**{**given, **changes})


def trainer(name: str, of: Setting, **parameters: Any) -> Any:
    """The trainer of this name, with the catalogue's defaults for what is not given."""
    return trainers.load(name)(of, **clean_parameters("trainer", name, parameters))


def at(number: int, teacher: nn.Module | None = None, **more: Any) -> Step:
    """Step `number` of 100."""
    return Step(number, 100, Echo() if teacher is None else teacher, **more)
