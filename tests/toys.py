"""Networks simple enough to work out by hand, and a training loop of ten lines, for tests of trainers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from annotator.algorithms import clean_parameters
from ml_worker import trainers
from ml_worker.trainers import Batch, Setting, Step

View = Callable[[Tensor], Tensor]


class Written(nn.Module):
    """A network whose "images" are rows of features, the first C of which are its logits; or one with these parts."""

    def __init__(self, n_classes: int, body: nn.Module | None = None, classifier: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body or nn.Identity()
        self.classifier = classifier or Columns(0, n_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


class Columns(nn.Module):
    """Passes on some columns; stands in for a head of a trainer."""

    def __init__(self, first: int, end: int) -> None:
        super().__init__()
        self.first, self.end = first, end

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self.first : self.end]


def trainer_of(name: str, setting: Setting, **parameters: Any) -> Any:
    """The trainer with these parameters and the catalogue's for the others."""
    return trainers.load(name)(setting, **clean_parameters("trainer", name, parameters))


def setting_of(n_classes: int, targets: list[int], items: list[int] | None = None, **other: Any) -> Setting:
    """Items 0, 1, ... (or those given) are labelled so; ten items more are not."""
    labeled = torch.tensor(list(range(len(targets))) if items is None else items)
    known: dict[str, Any] = {"n_features": n_classes, "n_items": int(labeled.max()) + 11, "steps": 100, **other}
    prior = torch.full((n_classes,), 1.0 / n_classes)
    return Setting(
        n_classes=n_classes, labeled_items=labeled, labeled_targets=torch.tensor(targets), prior=prior, **known
    )


def batch_of(weak: Any, targets: Any = (), strong: Any = None, items: Any = None) -> Batch:
    """A batch whose views are the rows given; the strong view is the weak one unless told otherwise."""
    rows = torch.as_tensor(weak, dtype=torch.float32)
    distorted = rows if strong is None else torch.as_tensor(strong, dtype=torch.float32)
    answers = torch.as_tensor(targets, dtype=torch.int64)
    numbers = torch.arange(len(rows)) if items is None else torch.as_tensor(items)
    return Batch(numbers, lambda: rows, lambda: distorted, answers, torch.ones(len(answers)))


def step_of(net: nn.Module, number: int = 50, steps: int = 100) -> Step:
    return Step(number, steps, net)


def fit(
    net: nn.Module, trainer: nn.Module, images: Tensor, targets: Tensor, weak: View, strong: View, *, steps: int
) -> list[dict[str, float]]:
    """Train on images (N, ...) of which the first len(targets) are labelled; what was logged at every step."""
    optimiser = torch.optim.Adam([*net.parameters(), *trainer.parameters()], lr=3e-3)
    history = []
    for number in range(steps):
        rows = torch.randint(len(targets), (32,))
        pool = torch.randint(len(images), (96,)) if len(images) > len(targets) else rows[:0]
        labeled = Batch(rows, *_views(images[rows], weak, strong), targets[rows], torch.ones(len(rows)))
        unlabeled = Batch(pool, *_views(images[pool], weak, strong))
        net.train()
        loss, logs = trainer.loss(net, labeled, unlabeled, Step(number, steps, net))  # type: ignore[operator]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append({name: float(value) for name, value in logs.items()})
    net.eval()
    trainer.eval()
    return history


def _views(images: Tensor, weak: View, strong: View) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    return lambda: weak(images), lambda: strong(images)
