"""Images a second of weak, strong and harder views, against the usual way, and their share of a training step.

    python benchmarks/augmentation.py [--rounds 15] [--batch 256]

One thread, batches of uint8 noise of 32 and 48 px held as (B, H, W, 3), everything the policy for photographs allows.
Columns: images a second of processor time (median of the rounds), the same for the usual way in the same run, their
ratio (larger is better), and the share of a training step of the small network: forward and backward on a ready batch
of the same size, in float32 and, where the processor has it, under bfloat16 autocast; the aim is on the faster.

The usual way: image by image with Pillow, flip and reflected crop, then as many operations of the same list and ranges
and cutout, to one float32 batch. Processor time, not the clock on the wall, so that other work here shows less.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn.functional import cross_entropy

from ml_worker import augment, nets
from ml_worker.augment import Policy

AIM = 0.15


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median processor time of a call, after one that is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


# --- the usual way


def pillow_weak(image: Image.Image, policy: Policy) -> Image.Image:
    if policy.flip and random.random() < 0.5:
        image = ImageOps.mirror(image)
    side = image.width
    most = round(policy.shift * side)
    padded = np.pad(np.asarray(image), ((most, most), (most, most), (0, 0)), mode="reflect")
    top, left = random.randint(0, 2 * most), random.randint(0, 2 * most)
    return Image.fromarray(padded[top : top + side, left : left + side])


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    grey = (127, 127, 127)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=grey)


def pillow_operation(name: str, image: Image.Image, policy: Policy) -> Image.Image:
    either_way, strength = random.uniform(-1, 1), random.random()
    shear, move = either_way * policy.shear, either_way * policy.translate * image.width
    match name:
        case "rotate":
            turn = either_way * policy.rotate_deg
            return image.rotate(turn, Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))
        case "shear_x":
            return affine(image, 1, shear, 0, 0, 1, 0)
        case "shear_y":
            return affine(image, 1, 0, 0, shear, 1, 0)
        case "translate_x":
            return affine(image, 1, 0, move, 0, 1, 0)
        case "translate_y":
            return affine(image, 1, 0, 0, 0, 1, move)
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "solarize":
            return ImageOps.solarize(image, int(256 * strength))
        case "posterize":
            return ImageOps.posterize(image, 4 + int(4 * strength))
        case "identity":
            return image
    enhancer = {
        "brightness": ImageEnhance.Brightness,
        "colour": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }[name]
    return enhancer(image).enhance(0.05 + 0.9 * strength)


def pillow_strong(image: Image.Image, policy: Policy, ops: int = 3) -> Image.Image:
    image = pillow_weak(image, policy)
    for name in random.sample(augment.OPERATIONS, ops):
        image = pillow_operation(name, image, policy)
    half = random.random() * policy.cutout * image.width / 2
    x, y = random.uniform(0, image.width), random.uniform(0, image.height)
    ImageDraw.Draw(image).rectangle((x - half, y - half, x + half, y + half), fill=(127, 127, 127))
    return image


def the_usual_way(stored: np.ndarray, view: Callable[[Image.Image, Policy], Image.Image], policy: Policy) -> Tensor:
    views = [torch.from_numpy(np.array(view(Image.fromarray(image), policy))) for image in stored]
    return torch.stack(views).permute(0, 3, 1, 2).float() / 255


# --- the step it must be small beside


def training_step(views: Tensor, *, bfloat16: bool) -> Callable[[], None]:
    network = nets.build("small", 10, views.shape[-1], mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    targets = torch.arange(len(views)) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(views)
        cross_entropy(logits.float(), targets).backward()
        network.zero_grad()

    return step


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--batch", type=int, default=256)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    print(f"{'px':>3} {'views':<7} {'images/s':>9} {'usual way':>10} {'ratio':>6} {'of f32':>8} {'of bf16':>8}")
    shares = [share for image_px in (32, 48) for share in measured(image_px, chosen.batch, chosen.rounds)]
    print(f"aim: strong at 32 px at most {AIM:.0%} of a training step: {'met' if shares[1] <= AIM else 'missed'}")


def measured(image_px: int, batch: int, rounds: int) -> list[float]:
    """Prints a line for each kind of view; returns their shares of the fastest training step here."""
    stored = np.random.default_rng(0).integers(0, 256, (batch, image_px, image_px, 3), np.uint8)
    policy, generator = Policy.for_images(stored), torch.Generator().manual_seed(0)
    images = torch.from_numpy(stored).permute(0, 3, 1, 2)
    ready = augment.weak(images, policy, generator)
    steps = [seconds(training_step(ready, bfloat16=False), rounds)]
    if torch.cpu._is_avx512_bf16_supported():
        steps.append(seconds(training_step(ready, bfloat16=True), rounds))
    shares = []
    for view, usual_view in ((augment.weak, pillow_weak), (augment.strong, pillow_strong), (augment.harder, None)):
        took = seconds(partial(view, images, policy, generator), rounds)
        line = f"{image_px:>3} {view.__name__:<7} {batch / took:>9,.0f} "
        if usual_view is None:
            line += " " * 18
        else:
            usually = seconds(partial(the_usual_way, stored, usual_view, policy), max(3, rounds // 3))
            line += f"{batch / usually:>10,.0f} {usually / took:>6.1f} "
        print(line + " ".join(f"{took / step:>8.1%}" for step in steps), flush=True)
        shares.append(took / min(steps))
    return shares


if __name__ == "__main__":
    main()
