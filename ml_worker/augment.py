"""Weak and strong views of image batches, as tensor operations: every image draws its own, none is looped over.

Pixels are moved by a gather (flip, whole-pixel shift) and resampled at most once: rotation, shears and translations of
an image become one matrix. Every other operation runs only on the part of the batch that drew it.

All chance comes from the generator as a few numbers per image, drawn on the generator's device and read on the CPU:
which images go through which operation must be known there, and a GPU would be waited for. With a CPU generator, which
is therefore the one to pass, the views of a seed are also the same on every device, within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

GREY = 127.5  # what is behind an image, and what cutout leaves
LARGEST = {"shift": 0.5, "rotate_deg": 180.0, "shear": 1.0, "translate": 0.5, "cutout": 1.0}

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
TINY_PX = 16


@dataclass(frozen=True)
class Policy:
    """What a project allows: its owner switches off what turns one class into another (a mirrored 6, a dark day).

    flip: mirror left-right. shift: of the side, in whole pixels, of weak views. The rest is for strong views, at most:
    rotate_deg either way; shear; translate and cutout as shares of the side; 0 is never. tone: brightness, contrast
    and sharpness, which leave hues as they are. colour: operations that do not (colour, and autocontrast, equalize,
    solarize, posterize, each channel for itself). Raises ValueError naming the field.
    """

    flip: bool
    shift: float
    rotate_deg: float
    shear: float
    translate: float
    tone: bool
    colour: bool
    cutout: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in LARGEST:
                if not isinstance(value, bool):
                    raise ValueError(f"augmentation: {name} is {value!r}; it must be true or false")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"augmentation: {name} is {value!r}; it must be a number")
            elif not 0 <= value <= LARGEST[name]:  # also refuses NaN
                raise ValueError(f"augmentation: {name} is {value}; it must be from 0 to {LARGEST[name]:g}")

    def to_json(self) -> dict[str, bool | float]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Policy:
        """The policy that to_json() gave. Raises ValueError naming what is missing, unknown or out of range."""
        if not isinstance(stored, Mapping):
            raise ValueError(f"augmentation: found {stored!r}; wanted a mapping of names to values")
        names = {field.name for field in fields(cls)}
        for wrong, what in ((names - set(stored), "missing"), (set(stored) - names, "unknown")):
            if wrong:
                raise ValueError(f"augmentation: {', '.join(sorted(map(str, wrong)))}: {what}")
        return cls(**stored)

    @classmethod
    def for_images(cls, images_sample: Any) -> Policy:
        """A start for images like these, uint8 (n, 3, H, W) or (n, H, W, 3), tensor or array.

        Photographs get the published ranges (USB, Wang et al. 2022, with cutout as in FixMatch). Grey images are
        mostly digits, text and scans: not mirrored, turned by 15 degrees at most, moved less, no colour operations.
        So are tiny ones, where a large distortion leaves nothing, but for mirroring and colours. Raises ValueError.
        """
        images = torch.as_tensor(images_sample)
        if images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]) or len(images) == 0:
            raise ValueError(f"images are {tuple(images.shape)}; wanted some of (n, 3, H, W) or (n, H, W, 3)")
        if images.shape[1] != 3:
            images = images.permute(0, 3, 1, 2)
        tiny = max(images.shape[2:]) <= TINY_PX
        grey = _are_grey(images)
        if tiny or grey:
            cautious = {"rotate_deg": 15.0, "shear": 0.15, "translate": 0.125}
            return cls(flip=not grey, shift=0.125, tone=True, colour=not grey, cutout=0.5, **cautious)
        return cls(
            flip=True, shift=0.125, rotate_deg=30.0, shear=0.3, translate=0.3, tone=True, colour=True, cutout=0.5
        )

    def allows(self, operation: str) -> bool:
        """Whether strong views may use this one of OPERATIONS."""
        if operation in GEOMETRIC:
            largest = {"r": self.rotate_deg, "s": self.shear, "t": self.translate}
            return largest[operation[0]] > 0
        if operation in ("brightness", "contrast", "sharpness"):
            return self.tone
        return self.colour or operation == "identity"


@dataclass(frozen=True, eq=False)
class Part:
    """A generator for images that are only some of a batch: rows `first` and on of `whole`.

    Numbers are drawn for all of the batch, so that each image gets the view it has when the batch is whole.
    """

    generator: torch.Generator
    first: int
    whole: int


Chance = torch.Generator | Part


@torch.no_grad()
def weak(images: Tensor, policy: Policy, generator: Chance) -> Tensor:
    """Flipped and shifted by whole pixels as the policy allows, the border reflected.

    images: uint8 in 0..255 or floating point in 0..1, (B, 3, H, W) in any memory order. Returns float32 (B, 3, H, W)
    in 0..1, a copy. Source: Sohn et al. 2020, section 2.3.
    """
    return _moved(images, policy, generator).div_(255)


@torch.no_grad()
def strong(images: Tensor, policy: Policy, generator: Chance, ops: int = 3) -> Tensor:
    """A weak view, then `ops` operations of those allowed, each with a uniform magnitude, then cutout.

    Takes and returns what weak() does; a generator in the same state gives both the same flip and shift. Source: Sohn
    et al. 2020, appendix D, with the ranges of USB (Wang et al. 2022). Differs: the operations of an image are
    different ones, in one fixed order, so that each runs once per batch and a geometric one never resamples what
    another has; outside the image is grey, not black; equalize also acts on images of under 256 pixels.
    """
    return _distorted(_moved(images, policy, generator), policy, generator, ops).div_(255).clamp_(0, 1)


@torch.no_grad()
def harder(images: Tensor, policy: Policy, generator: Chance) -> Tensor:
    """For items that plain strong views no longer teach: half of one strong view pasted over another, then weak.

    Takes and returns what weak() does. The left or the upper half, drawn per image; which of the two views
    it is from is chance anyway. Source: sample-adaptive augmentation, Gui et al. 2023, section 3.3.
    """
    levels = _levels(images)
    below = _distorted(levels.clone(), policy, generator, 3)
    above = _distorted(levels, policy, generator, 3)
    height, width = images.shape[2:]
    across = _draws(len(images), 1, generator).view(-1, 1, 1, 1) < 0.5
    first_rows = (torch.arange(height) < height // 2).view(1, 1, -1, 1)
    first_columns = (torch.arange(width) < width // 2).view(1, 1, 1, -1)
    pasted = torch.where(across, first_rows, first_columns)
    both = above.sub_(below).mul_(pasted.float().to(levels.device)).add_(below)
    return _moved(both.div_(255), policy, generator).div_(255).clamp_(0, 1)


# --- moving pixels


def transformed(levels: Tensor, rotate_deg: Tensor, shear: Tensor, translate: Tensor) -> Tensor:
    """Images moved, turned clockwise and sheared, about their centre and in that order; grey where nothing is.

    levels: float32 (n, 3, H, W), overwritten. rotate_deg (n,); shear (n, 2) and translate (n, 2), x before y,
    translate as a share of the side, positive to the right and down. One bilinear resampling does it all.
    """
    height, width = levels.shape[2:]
    angle = rotate_deg * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    shear_x, shear_y = shear.unbind(1)
    # Where a pixel of the result comes from, in pixels from the centre: the inverse rotation after the two shears.
    from_x = torch.stack([cos + sin * shear_y, cos * shear_x + sin, -translate[:, 0] * width])
    from_y = torch.stack([cos * shear_y - sin, cos - sin * shear_x, -translate[:, 1] * height])
    # grid_sample counts in half sides. The products are sums of a row and a column: no matrix per pixel is formed.
    terms = torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1).to(levels.device)
    x = torch.arange(width, device=levels.device) - (width - 1) / 2
    y = torch.arange(height, device=levels.device) - (height - 1) / 2
    grid = torch.empty(len(levels), height, width, 2, device=levels.device)
    for axis in range(2):
        row, column, constant = terms[:, :, axis, None]
        torch.add((row * x)[:, None, :], (column * y + constant)[:, :, None], out=grid[..., axis])
    return grid_sample(levels.sub_(GREY), grid, align_corners=False).add_(GREY)


def _moved(images: Tensor, policy: Policy, generator: Chance) -> Tensor:
    """Weak views as float32 levels in 0..255, contiguous: planes are what the operations after it are fastest on."""
    n, channels, height, width = images.shape
    flip, down, right = _draws(n, 3, generator).unbind(1)
    rows = _reflected(torch.arange(height) + _shifts(down, policy.shift, height), height)
    columns = _reflected(torch.arange(width) + _shifts(right, policy.shift, width), width)
    mirrored = (flip < 0.5) & policy.flip
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    sources = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width).expand(-1, channels, -1)
    return _levels(images.flatten(2).gather(2, sources).view(n, channels, height, width))


def _shifts(uniform: Tensor, share: float, side: int) -> Tensor:
    """Whole pixels, int64 (n, 1), each from minus to plus the share of the side equally likely."""
    most = min(round(share * side), side - 1)
    return ((uniform * (2 * most + 1)).long() - most)[:, None]


def _reflected(places: Tensor, side: int) -> Tensor:
    return (side - 1) - ((side - 1) - places.abs()).abs()


# --- strong views


def _distorted(levels: Tensor, policy: Policy, generator: Chance, ops: int) -> Tensor:
    """Levels after the operations each image draws and cutout; overwrites what it is given."""
    n, n_kinds = len(levels), len(OPERATIONS)
    draws = _draws(n, 2 * n_kinds + 3, generator)
    order, strength, hole = draws.split([n_kinds, n_kinds, 3], dim=1)
    allowed = torch.tensor([policy.allows(name) for name in OPERATIONS])
    # The first few of a random order per image, in which what is not allowed comes last.
    first = order.masked_fill(~allowed, 2.0).argsort(dim=1, stable=True)[:, :ops]
    drawn = torch.zeros(n, n_kinds, dtype=torch.bool).scatter_(1, first, True) & allowed
    _apply(
        levels, drawn[:, : len(GEOMETRIC)].any(dim=1), lambda some, rows: _turned(some, policy, drawn, strength, rows)
    )
    for kind, name in enumerate(OPERATIONS):
        if name in TONES:
            operation, column = TONES[name], strength[:, kind]
            _apply(levels, drawn[:, kind], lambda some, rows: operation(some, _beside(column[rows], some)))  # noqa: B023
    return _cut_out(levels, hole, policy.cutout)


def _apply(levels: Tensor, drawn: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the images of `drawn`, bool (B,), by what the operation makes of them."""
    rows = drawn.nonzero()[:, 0]
    if len(rows):
        places = rows.to(levels.device)
        levels.index_copy_(0, places, operation(levels.index_select(0, places), rows))


def _turned(levels: Tensor, policy: Policy, drawn: Tensor, strength: Tensor, rows: Tensor) -> Tensor:
    """The geometric operations these rows drew; those they did not are zero and change nothing."""
    geometric = slice(0, len(GEOMETRIC))
    amounts = (2 * strength[rows, geometric] - 1) * drawn[rows, geometric]
    return transformed(
        levels, amounts[:, 0] * policy.rotate_deg, amounts[:, 1:3] * policy.shear, amounts[:, 3:] * policy.translate
    )


def _cut_out(levels: Tensor, uniform: Tensor, share: float) -> Tensor:
    """A grey rectangle of up to `share` of each side, centred anywhere (DeVries and Taylor 2017); uniform (n, 3)."""
    inside = []
    for axis, side in enumerate(levels.shape[2:]):
        length = (uniform[:, 2] * (int(share * side) + 1)).long()
        start = (uniform[:, axis] * side).long() - length // 2
        places = torch.arange(side) - start[:, None]
        inside.append(((places >= 0) & (places < length[:, None])).float().to(levels.device))
    rows, columns = inside
    hole = (rows[:, :, None] * columns[:, None, :])[:, None]
    return levels.mul_(1 - hole).add_(hole.mul_(GREY))  # masked_fill_ takes ten times as long on a CPU


# --- operations on brightness and colour: float32 levels (n, 3, H, W) in 0..255 that they may overwrite, and strength,
# float32 (n, 1, 1, 1) uniform in 0..1. Factors run from 0.05 to 0.95: towards black, grey or blur, never beyond.


def _factor(strength: Tensor) -> Tensor:
    return 0.05 + 0.9 * strength


def _brightness(levels: Tensor, strength: Tensor) -> Tensor:
    return levels.mul_(_factor(strength))


def _contrast(levels: Tensor, strength: Tensor) -> Tensor:
    # Rounded, as Pillow does it: the order in which threads add up must not show.
    mean = _luma(levels).mean(dim=(2, 3), keepdim=True, dtype=torch.float64).round().float()
    return _blend(mean, levels, strength)


def _colour(levels: Tensor, strength: Tensor) -> Tensor:
    return _blend(_luma(levels), levels, strength)


def _sharpness(levels: Tensor, strength: Tensor) -> Tensor:
    """Towards the mean of 3 x 3 pixels, the middle one counting five times; the border stays."""
    if min(levels.shape[2:]) < 3:
        return levels
    triples = levels[..., :-2] + levels[..., 1:-1] + levels[..., 2:]
    inner = levels[..., 1:-1, 1:-1]
    smooth = (triples[:, :, :-2] + triples[:, :, 1:-1] + triples[:, :, 2:]).add_(inner, alpha=4).div_(13)
    _blend(smooth, inner, strength)  # in place: inner is a part of levels
    return levels


def _autocontrast(levels: Tensor, strength: Tensor) -> Tensor:
    """Each channel stretched to the whole range; one of a single level stays."""
    low, high = levels.amin(dim=(2, 3), keepdim=True), levels.amax(dim=(2, 3), keepdim=True)
    span = high - low
    flat = span < 0.5
    low, scale = low.masked_fill(flat, 0.0), (255 / span).masked_fill(flat, 1.0)
    return levels.sub_(low).mul_(scale)


def _equalize(levels: Tensor, strength: Tensor) -> Tensor:
    """Each level becomes the share of the channel's pixels at or below it, the lowest 0, the highest 255."""
    places = levels.flatten(2).round().long()
    n_pixels = places.shape[2]
    counts = torch.zeros(*places.shape[:2], 256, dtype=torch.int32, device=levels.device)
    counts.scatter_add_(2, places, counts.new_ones(()).expand_as(places))
    below = counts.cumsum(dim=2)
    lowest = below.gather(2, places.amin(dim=2, keepdim=True))
    table = (below - lowest).float() * (255 / (n_pixels - lowest).clamp_min(1))
    spread = table.gather(2, places).view_as(levels)
    return torch.where((lowest == n_pixels)[..., None], levels, spread)


def _solarize(levels: Tensor, strength: Tensor) -> Tensor:
    # By arithmetic: torch.where takes ten times as long on a CPU.
    flipped = (levels >= 256 * strength).to(levels.dtype)
    return levels.mul_(1 - 2 * flipped).add_(flipped.mul_(255))


def _posterize(levels: Tensor, strength: Tensor) -> Tensor:
    """Four to seven bits of eight are kept."""
    step = torch.exp2(4 - (4 * strength).floor())
    return levels.round_().div_(step).floor_().mul_(step)


# In this order: stretching first, or it would undo what darkening and greying did.
TONES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sharpness": _sharpness,
    "equalize": _equalize,
    "autocontrast": _autocontrast,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "solarize": _solarize,
    "posterize": _posterize,
}
OPERATIONS = (*GEOMETRIC, *TONES, "identity")


# --- shared


def _draws(n: int, columns: int, chance: Chance) -> Tensor:
    """Uniform in 0..1, float32 (n, columns) on the CPU."""
    if isinstance(chance, Part):
        return _draws(chance.whole, columns, chance.generator)[chance.first : chance.first + n]
    return torch.rand((n, columns), generator=chance, device=chance.device).cpu()


def _levels(images: Tensor) -> Tensor:
    """A copy of uint8 or 0..1 images as contiguous float32 in 0..255."""
    levels = torch.empty(images.shape, dtype=torch.float32, device=images.device).copy_(images)
    return levels if images.dtype == torch.uint8 else levels.mul_(255)


def _beside(values: Tensor, levels: Tensor) -> Tensor:
    return values.to(levels.device).view(-1, 1, 1, 1)


def _luma(levels: Tensor) -> Tensor:
    """Brightness as ITU-R BT.601 weighs the channels, (n, 1, H, W)."""
    return (levels[:, :1] * 0.299).add_(levels[:, 1:2] * 0.587).add_(levels[:, 2:] * 0.114)


def _blend(towards: Tensor, levels: Tensor, strength: Tensor) -> Tensor:
    return levels.sub_(towards).mul_(_factor(strength)).add_(towards)


def _are_grey(images: Tensor) -> bool:
    """Whether the channels of nearly all of these images differ by no more than compression makes them."""
    some = images[:512].float() * (1.0 if images.dtype == torch.uint8 else 255.0)
    colourful = (some.amax(dim=1) - some.amin(dim=1)).mean(dim=(1, 2)) > 4
    return bool(colourful.float().mean() < 0.05)
