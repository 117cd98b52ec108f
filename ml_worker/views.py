"""Two different looks at one image, for self-supervision: random resized crops and colour, whole batches at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_CROP = 0.2  # share of the area; 0.08, as on photographs of 224 px, leaves little of a 32 px image
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def contrastive(images: Tensor, generator: torch.Generator, *, colour: float, flip: bool) -> Tensor:
    """uint8 (B, 3, H, W) -> another look at each, float32 (B, 3, H, W) in 0..1.

    A random part of the image at full size, mirrored half the time where flip allows it, then brightness, contrast,
    saturation and hue. colour in 0..1 is how far they go; 0 leaves colours alone. generator: on the CPU, so that
    every device draws the same. Chen et al. 2020, SimCLR, appendix A. There colours change one after the other,
    clipped in between and in random order; here they are one matrix per image, which makes a view ten times
    cheaper than a training step.
    """
    draws = torch.rand(len(images), 11, generator=generator).to(images.device)
    views = _crop(images.float().div_(255.0), draws[:, :5], flip)
    return _recolour(views, draws[:, 5:], colour).clamp_(0.0, 1.0) if colour > 0 else views


def _crop(images: Tensor, draws: Tensor, flip: bool) -> Tensor:
    """A crop is linear and separable: a matrix for the rows times the image times one for the columns.

    Two products of small matrices; grid_sample costs ten times as much on a CPU.
    """
    _, _, height, width = images.shape
    area = SMALLEST_CROP + (1.0 - SMALLEST_CROP) * draws[:, 0]
    ratio = torch.exp((2.0 * draws[:, 1] - 1.0) * math.log(4.0 / 3.0))
    tall = (area / ratio).sqrt().clamp_max(1.0) * height
    wide = (area * ratio).sqrt().clamp_max(1.0) * width
    rows = _interpolation(draws[:, 2] * (height - tall), tall, height)
    columns = _interpolation(draws[:, 3] * (width - wide), wide, width)
    if flip:
        columns = torch.where((draws[:, 4] < 0.5)[:, None, None], columns.flip(1), columns)
    images = torch.einsum("bhy,bcyx->bchx", rows, images)
    return torch.einsum("bwx,bchx->bchw", columns, images)


def _interpolation(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size, size): row i weighs the two pixels between which sample i of [start, start + length) lies."""
    pixels = torch.arange(size, device=start.device)
    at = start[:, None] + (pixels + 0.5) / size * length[:, None] - 0.5
    return (1.0 - (at.clamp(0, size - 1)[:, :, None] - pixels).abs()).clamp_min_(0.0)


def _recolour(images: Tensor, draws: Tensor, colour: float) -> Tensor:
    """Colour jitter for eight images of ten, and no colour at all for two of ten."""
    jittered = (draws[:, 0] < 0.8) * colour
    brightness, contrast, saturation = (1.0 + 0.8 * jittered * (2.0 * draws[:, k] - 1.0) for k in (1, 2, 3))
    angle = 0.2 * jittered * (2.0 * draws[:, 4] - 1.0) * (2.0 * math.pi)
    saturation = torch.where(draws[:, 5] < 0.2, 0.0, saturation)
    # Hue and saturation turn and scale the chroma plane of YIQ; brightness and contrast scale everything.
    to_yiq = torch.tensor(_YIQ, device=images.device)
    turn = torch.zeros(len(images), 3, 3, device=images.device)
    turn[:, 0, 0] = 1.0
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos() * saturation
    turn[:, 2, 1] = angle.sin() * saturation
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq * (brightness * contrast)[:, None, None]
    level = images.mean(dim=(2, 3)) @ torch.tensor(_LUMA, device=images.device)
    offset = level * brightness * (1.0 - contrast)
    return torch.einsum("bij,bjhw->bihw", matrix, images) + offset[:, None, None, None]
