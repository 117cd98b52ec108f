"""Small pools of pictures to learn from, and a network that learns them at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ml_worker.augment import Policy
from ml_worker.batches import Examples, estimated_prior
from ml_worker.nets import Network

N_CLASSES = 3
POLICY = Policy(
    flip=True, shift=0.125, rotate_deg=15.0, shear=0.1, translate=0.1, tone=True, colour=False, cutout=0.25
)


def examples(n: int = 32, n_labeled: int = 12, n_audit: int = 0, seed: int = 0, **others: Any) -> Examples:
    """n pictures of 8 px, each a colour of its class and noise, the classes in turn; the first ones are labelled and
    the last ones audited."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % N_CLASSES
    images = 128 + 30 * (np.eye(3)[classes][:, None, None, :] - 0.3) + rng.normal(0, 30, (n, 8, 8, 3))
    labeled = np.arange(n_labeled)
    made = Examples(
        images=images.clip(0, 255).astype(np.uint8),
        labeled=labeled,
        targets=classes[labeled],
        weights=np.ones(n_labeled, np.float32),
        label_versions=np.ones(n_labeled, np.int64),
        unlabeled=np.arange(n - n_audit),
        audit=np.arange(n - n_audit, n),
        audit_targets=classes[n - n_audit :],
        n_classes=N_CLASSES,
        prior=estimated_prior(np.bincount(classes[labeled], minlength=N_CLASSES)),
    )
    return replace(made, **others)


def relabeled(before: Examples, place: int, target: int) -> Examples:
    """The same with another answer in this place among the labelled ones."""
    targets, versions = before.targets.copy(), before.label_versions.copy()
    targets[place], versions[place] = target, versions[place] + 1
    return replace(before, targets=targets, label_versions=versions)


def tiny_network(name: str, n_classes: int, image_px: int, *, mean: Tensor, std: Tensor) -> Network:
    """In the place of `nets.build`: one convolution, one normalisation."""
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1)
    )
    return Network(nn.Sequential(body, nn.Flatten()), 16, n_classes, mean, std)


def plain_network(name: str, n_classes: int, image_px: int, *, mean: Tensor, std: Tensor) -> Network:
    """The same without normalisation: what is in a batch does not change what the network says of the others."""
    body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(body, 16, n_classes, mean, std)


def weights_of(module: nn.Module) -> Tensor:
    """All weights and buffers, one after another."""
    return torch.cat([value.detach().double().flatten() for value in module.state_dict().values()])
