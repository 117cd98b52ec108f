"""Networks small enough for two cores, and the one published results are measured on."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

NAMES = ("quick", "small", "wide_resnet")


class Network(nn.Module):
    """A body that turns images into features, and a linear classifier on them.

    Takes images as float (B, 3, H, W) in 0..1 and normalises them itself, with mean and std float (3,) of the pool:
    whoever has the weights has the transform. features() gives (B, D), classify() turns those into logits (B, C), and
    calling it does both. name: of the ones there are, where `build` made it.
    """

    name: str = ""
    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, n_features: int, n_classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.body, self.n_features = body, n_features
        self.classifier = nn.Linear(n_features, n_classes)
        self.register_buffer("mean", mean.reshape(1, 3, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, 3, 1, 1).clamp_min(1e-3).clone())

    def features(self, images: Tensor) -> Tensor:
        normal = (images - self.mean) / self.std
        return self.body(normal.contiguous(memory_format=torch.channels_last))

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def build(name: str, n_classes: int, image_px: int, *, mean: Tensor, std: Tensor) -> Network:
    """A fresh network of this name for square images of image_px. Raises ValueError naming the ones there are."""
    if name == "quick":
        body, width = _small(image_px, sooner=1), 256
    elif name == "small":
        body, width = _small(image_px), 256
    elif name == "wide_resnet":
        body, width = _wide_resnet(depth=28, widen=2), 128
    else:
        raise ValueError(f"there is no network {name!r}; there are: {', '.join(NAMES)}")
    network = Network(body, width, n_classes, mean, std)
    network.name = name
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_network(net: Network, folder: Path, name: str, n_classes: int, image_px: int) -> None:
    """Weights and what is needed to build the network around them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"net": name, "n_classes": n_classes, "image_px": image_px, "weights": net.cpu().state_dict()},
        folder / "network.pt",
    )


def load_network(folder: Path) -> tuple[Network, int]:
    """The network saved in a folder, in eval mode, and the side of the squares it was trained on."""
    saved = torch.load(folder / "network.pt", map_location="cpu", weights_only=True)
    flat = torch.zeros(3), torch.ones(3)
    net = build(saved["net"], saved["n_classes"], saved["image_px"], mean=flat[0], std=flat[1])
    net.load_state_dict(saved["weights"])
    return net.eval(), saved["image_px"]


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    ]


def _small(image_px: int, sooner: int = 0) -> nn.Module:
    """Four convolutions; the first halves large images, so that nothing is computed at full size. 0.39 M weights.

    sooner: so many more halvings, each of which makes it twice to three times as fast and somewhat blinder.
    """
    halvings = sooner + (3 if image_px > 40 else 2 if image_px > 16 else 1)
    strides = [2 if index < halvings else 1 for index in range(4)]
    widths = [3, 32, 64, 128, 256]
    layers: list[nn.Module] = []
    for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
        layers += _conv(inputs, outputs, stride)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Block(nn.Module):
    """Pre-activation residual block (He et al. 2016b; Zagoruyko and Komodakis 2016, section 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = leaky_relu(self.norm1(x), 0.1)
        skip = x if self.shortcut is None else self.shortcut(active)
        return skip + self.conv2(leaky_relu(self.norm2(self.conv1(active)), 0.1))


def _wide_resnet(*, depth: int, widen: int) -> nn.Module:
    blocks = (depth - 4) // 6
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    for group, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        for index in range(blocks):
            stride = 2 if group and index == 0 else 1
            layers.append(_Block(inputs if index == 0 else outputs, outputs, stride))
    last = [nn.BatchNorm2d(widths[-1]), nn.LeakyReLU(0.1, inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *last)
