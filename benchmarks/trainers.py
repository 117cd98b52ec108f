"""How much of the time of a training run is the network's own: every trainer of the catalogue in the real loop.

    python benchmarks/trainers.py [--images PHOTOS.zip] [--net small] [--batch 32] [--ratio 4] [--steps 8]
    python benchmarks/trainers.py --accuracy [--images PHOTOS.zip] [--labels 40] [--seen 200000] [--seeds 3]

loop: images a second through the whole training loop: reading the images, augmentation, the trainer's bookkeeping,
gradient clipping, the optimiser, the running mean. bare: the same network doing the same forward and backward passes
(and, for a teacher, the same forward passes) on tensors that are ready, in the same precision. Both take turns, step
by step; medians. Seconds are the processor's: on one thread those of the clock where nothing else runs,
and do not grow where something does. share = loop / bare, the aim is 0.85.

Then FixMatch against a step written the usual way: Pillow augments image by image, a DataLoader without workers
stacks them, float32; the same network, the same batch, again in turns. The aim is 3 times as fast.

--images: a zip of image files, of which 2,000 are decoded to 32 pixels; without it the digits of scikit-learn,
enlarged to 32 pixels. One thread.

--accuracy: how right each trainer's network is on 500 images that it never saw, after the same number of images went
through the network, every forward pass counted, with the same augmentation; and how much that is above `supervised`
on the same labels. The labels, drawn at random anew for each seed, are the only ones used. Half of a 95 % interval of
the mean over the seeds behind each number (Student's t; the difference is paired by seed). --images is then a zip of
class folders; without it the digits as small as they are, 8 pixels.
"""

import argparse
import copy
import os
import random
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, RandomSampler

from annotator.algorithms import catalogue, clean_parameters
from ml_worker import loop, nets
from ml_worker.augment import Policy
from ml_worker.batches import Examples, estimated_prior
from ml_worker.images import decode
from ml_worker.precision import autocast, precision
from ml_worker.predict import predict

PX, N_IMAGES, N_LABELED, N_CLASSES = 32, 2000, 250, 10
WARM_UP = 2  # steps that are not counted
N_TEST = 500
AIM_SHARE, AIM_TIMES = 0.85, 3.0
CPU = torch.device("cpu")


def pictures(path: Path | None) -> np.ndarray:
    """uint8 (n, PX, PX, 3)."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits().images.repeat(PX // 8, axis=1).repeat(PX // 8, axis=2)
        return np.stack([(digits / 16 * 255).astype(np.uint8)] * 3, axis=-1)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]
        chosen = random.Random(0).sample(sorted(names), min(N_IMAGES, len(names)))
        return np.stack([decode(archive.read(name), PX) for name in chosen])


def examples(images: np.ndarray) -> Examples:
    """Answers are drawn by lot: nothing here looks at what is learnt."""
    rng = np.random.default_rng(0)
    return Examples(
        images=images,
        labeled=np.arange(N_LABELED),
        targets=rng.integers(0, N_CLASSES, N_LABELED),
        weights=np.ones(N_LABELED, np.float32),
        label_versions=np.ones(N_LABELED, np.int64),
        unlabeled=np.arange(len(images)),
        audit=np.zeros(0, np.int64),
        audit_targets=np.zeros(0, np.int64),
        n_classes=N_CLASSES,
        prior=estimated_prior([N_LABELED // N_CLASSES] * N_CLASSES),
    )


def network(name: str) -> nets.Network:
    return nets.build(name, N_CLASSES, PX, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))


class Passes:
    """What a trainer asked of networks in one step: how many images, and whether with gradient."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self._forward = nets.Network.features

    def __enter__(self) -> "Passes":
        def noted(network: nets.Network, images: Tensor) -> Tensor:
            with_gradient = torch.is_grad_enabled() and next(network.parameters()).requires_grad
            self.asked.append((len(images), with_gradient))
            return self._forward(network, images)

        nets.Network.features = noted  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        nets.Network.features = self._forward  # type: ignore[method-assign]


def bare_step(net: nets.Network, passes: list[tuple[int, bool]]) -> Callable[[], None]:
    """The same passes on ready tensors."""
    ready = [
        (torch.rand(n, 3, PX, PX).contiguous(memory_format=torch.channels_last), torch.randint(N_CLASSES, (n,)), grad)
        for n, grad in passes
    ]
    dtype = precision(CPU, "auto")

    def step() -> None:
        net.zero_grad(set_to_none=True)
        for images, targets, with_gradient in ready:
            with torch.set_grad_enabled(with_gradient), autocast(CPU, dtype):
                logits = net(images)
            if with_gradient:
                cross_entropy(logits.float(), targets).backward()

    return step


def in_turns(given: Examples, recipe: loop.Recipe, policy: Policy, other: Callable[[], None]) -> tuple[float, float]:
    """Median seconds of a step of the loop and of the other step, which runs between two steps of the loop."""
    ours: list[float] = []
    theirs: list[float] = []
    begun = time.process_time()

    def report(progress: loop.Progress) -> None:
        nonlocal begun
        ours.append(time.process_time() - begun)
        begun = time.process_time()
        other()
        theirs.append(time.process_time() - begun)
        begun = time.process_time()

    loop.train(given, recipe, policy, folder=None, report=report)
    return statistics.median(ours[WARM_UP:]), statistics.median(theirs[WARM_UP:])


def passes_of(given: Examples, recipe: loop.Recipe, policy: Policy) -> list[tuple[int, bool]]:
    """Of a step in the middle of a run: some trainers do less in the first."""
    with Passes() as passes:
        last: list[int] = []
        loop.train(given, recipe, policy, folder=None, report=lambda progress: last.append(len(passes.asked)))
    return passes.asked[last[-2] :]


# --- FixMatch the usual way


def _flip_and_shift(image: Image.Image, policy: Policy) -> Image.Image:
    if policy.flip and random.random() < 0.5:
        image = ImageOps.mirror(image)
    margin = round(policy.shift * PX)
    padded = ImageOps.expand(image, margin, fill=(127, 127, 127))
    left, top = random.randint(0, 2 * margin), random.randint(0, 2 * margin)
    return padded.crop((left, top, left + PX, top + PX))


def _affine(image: Image.Image, *, turn: float = 0.0, shear: float = 0.0, move: float = 0.0) -> Image.Image:
    if turn:
        return image.rotate(turn, Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))
    matrix = (1.0, shear, move * PX, 0.0, 1.0, 0.0)
    return image.transform((PX, PX), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, m: image,
    lambda image, m: ImageOps.autocontrast(image),
    lambda image, m: ImageOps.equalize(image),
    lambda image, m: ImageEnhance.Brightness(image).enhance(0.05 + 0.9 * m),
    lambda image, m: ImageEnhance.Color(image).enhance(0.05 + 0.9 * m),
    lambda image, m: ImageEnhance.Contrast(image).enhance(0.05 + 0.9 * m),
    lambda image, m: ImageEnhance.Sharpness(image).enhance(0.05 + 0.9 * m),
    lambda image, m: ImageOps.posterize(image, 4 + round(4 * m)),
    lambda image, m: ImageOps.solarize(image, round(255 * m)),
    lambda image, m: _affine(image, turn=60 * m - 30),
    lambda image, m: _affine(image, shear=0.6 * m - 0.3),
    lambda image, m: _affine(image, move=0.6 * m - 0.3),
)


def _distorted(image: Image.Image, policy: Policy) -> Image.Image:
    image = _flip_and_shift(image, policy)
    for operation in random.sample(OPERATIONS, 3):
        image = operation(image, random.random())
    side, left, top = random.randint(0, PX // 2), random.randrange(PX), random.randrange(PX)
    image.paste((127, 127, 127), (left, top, left + side, top + side))
    return image


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


class Views(Dataset[Any]):
    """One image after another, augmented by Pillow."""

    def __init__(self, given: Examples, policy: Policy, labeled: bool) -> None:
        self.given, self.policy, self.labeled = given, policy, labeled
        self.rows = given.labeled if labeled else given.unlabeled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        image = Image.fromarray(self.given.images[self.rows[index]])
        weak = _tensor(_flip_and_shift(image, self.policy))
        if self.labeled:
            return weak, int(self.given.targets[index])
        return weak, _tensor(_distorted(image, self.policy))


def usual_step(given: Examples, recipe: loop.Recipe, policy: Policy) -> Callable[[], None]:
    """FixMatch, float32, in the layout networks have unless told otherwise."""
    net = network(recipe.net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    mean = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def endless(labeled: bool, size: int) -> Iterator[list[Tensor]]:
        views = Views(given, policy, labeled)
        while True:
            yield from DataLoader(views, size, sampler=RandomSampler(views, True, 100 * size), num_workers=0)

    labeled, unlabeled = endless(True, recipe.batch), endless(False, recipe.batch * recipe.ratio)

    def step() -> None:
        (images, targets), (weak, strong) = next(labeled), next(unlabeled)
        every = (torch.cat([images, weak, strong]) - 0.5) / 0.25
        logits = net.classify(net.body(every))
        answered, plain, distorted = logits.split([len(images), len(weak), len(strong)])
        confidence, guess = plain.detach().softmax(dim=1).max(dim=1)
        kept = (confidence >= 0.95).float()
        loss = cross_entropy(answered, targets) + (cross_entropy(distorted, guess, reduction="none") * kept).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, value in zip(mean.parameters(), net.parameters(), strict=True):
                average.mul_(0.999).add_(value, alpha=0.001)

    return step


# --- accuracy at equal images seen


def answered(path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, px, px, 3) in an order drawn by lot, and their classes int64 (n,)."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.stack([(digits.images / 16 * 255).astype(np.uint8)] * 3, axis=-1)
        targets = digits.target.astype(np.int64)
    else:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]
            names = random.Random(0).sample(sorted(names), min(N_IMAGES + N_TEST, len(names)))
            classes = sorted({Path(name).parent.name for name in names})
            images = np.stack([decode(archive.read(name), PX) for name in names])
            targets = np.array([classes.index(Path(name).parent.name) for name in names], np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], targets[order]


def accuracy(name: str, images: np.ndarray, targets: np.ndarray, seed: int, asked: argparse.Namespace) -> float:
    """On the first N_TEST images, of a network that learnt from the others."""
    pool, truth, n_classes = images[N_TEST:], targets[N_TEST:], len(np.unique(targets))
    rows = np.sort(np.random.default_rng(seed).permutation(len(pool))[: asked.labels])
    given = Examples(
        images=pool,
        labeled=rows,
        targets=truth[rows],
        weights=np.ones(len(rows), np.float32),
        label_versions=np.ones(len(rows), np.int64),
        unlabeled=np.arange(len(pool)),
        audit=np.zeros(0, np.int64),
        audit_targets=np.zeros(0, np.int64),
        n_classes=n_classes,
        prior=estimated_prior(np.bincount(truth[rows], minlength=n_classes)),
    )
    policy = Policy.for_images(pool[:256])
    recipe = loop.Recipe(
        name, clean_parameters("trainer", name, {}), net=asked.net, steps=3, batch=asked.batch, ratio=asked.ratio,
        evaluate_every=1, seed=seed, alignment="estimated",
    )  # fmt: skip
    a_step = sum(n for n, _ in passes_of(given, recipe, policy))
    recipe = replace(recipe, steps=max(1, asked.seen // a_step), evaluate_every=2**20)
    net = loop.train(given, recipe, policy, folder=None, report=lambda progress: None).net
    said = predict(net, images, np.arange(N_TEST), device="cpu", batch=500).probs.argmax(axis=1)
    return float((said == targets[:N_TEST]).mean())


def compare(asked: argparse.Namespace) -> None:
    images, targets = answered(asked.images)
    print(f"{len(images) - N_TEST} images of {images.shape[1]} px, {asked.labels} labels, {asked.seeds} seeds;")
    print(f"{asked.seen:,} images through the network. Percent right of {N_TEST} others:\n")
    print(f"{'trainer':<14}{'accuracy':>16}{'above supervised':>20}{'a run takes':>14}")
    yardstick: list[float] = []
    names = asked.trainers or [algorithm.name for algorithm in catalogue("trainer")]
    for name in ["supervised", *(each for each in names if each != "supervised")]:
        begun = time.perf_counter()
        right = [100 * accuracy(name, images, targets, seed, asked) for seed in range(asked.seeds)]
        yardstick = yardstick or right
        above = "" if name == "supervised" else _mean([a - b for a, b in zip(right, yardstick, strict=True)], "+.1f")
        print(
            f"{name:<14}{_mean(right, '.1f'):>16}{above:>20}{(time.perf_counter() - begun) / asked.seeds:>12.0f} s",
            flush=True,
        )


def _mean(values: list[float], how: str) -> str:
    """The mean and half of its 95 % interval."""
    if len(values) < 2:
        return format(values[0], how)
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):{how}} ±{half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, help="a zip of image files")
    parser.add_argument("--net", default="small", choices=nets.NAMES)
    parser.add_argument("--batch", type=int, default=32, help="labelled images a step")
    parser.add_argument("--ratio", type=int, default=4, help="unlabelled images for each of them")
    parser.add_argument("--steps", type=int, default=8, help="steps counted, per trainer")
    parser.add_argument("--trainers", nargs="*", help="only these")
    parser.add_argument("--accuracy", action="store_true", help="compare how right they are, not how fast")
    parser.add_argument("--labels", type=int, default=40)
    parser.add_argument("--seen", type=int, default=200_000, help="images through the network in one run")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.accuracy:
        compare(asked)
        return
    images = pictures(asked.images)
    given, policy = examples(images), Policy.for_images(images[:500])
    bits = precision(CPU, "auto") or torch.float32
    print(
        f"{len(images)} images of {PX} px; network {asked.net}, {str(bits).removeprefix('torch.')}, one thread; a step"
    )
    print(f"takes {asked.batch} + {asked.batch * asked.ratio} images. Through the network a second:\n")
    print(f"{'trainer':<14}{'loop':>8}{'bare':>8}{'share':>8}")

    def recipe(name: str, steps: int) -> loop.Recipe:
        return loop.Recipe(
            name, clean_parameters("trainer", name, {}), net=asked.net, steps=steps, batch=asked.batch,
            ratio=asked.ratio, evaluate_every=1,
        )  # fmt: skip

    shares = []
    for name in asked.trainers or [algorithm.name for algorithm in catalogue("trainer")]:
        passes = passes_of(given, recipe(name, 3), policy)
        ours, bare = in_turns(
            given, recipe(name, WARM_UP + asked.steps), policy, bare_step(network(asked.net).train(), passes)
        )
        n = sum(count for count, _ in passes)
        shares.append(bare / ours)
        print(f"{name:<14}{n / ours:>8.0f}{n / bare:>8.0f}{bare / ours:>8.2f}", flush=True)
    print(f"\nsmallest share {min(shares):.2f}, aim {AIM_SHARE}")

    ours, usual = in_turns(
        given, recipe("fixmatch", WARM_UP + asked.steps), policy, usual_step(given, recipe("fixmatch", 1), policy)
    )
    n = asked.batch * (1 + 2 * asked.ratio)
    print(
        f"FixMatch: {n / ours:.0f} images a second here, {n / usual:.0f} the usual way: {usual / ours:.1f} times",
        end="",
    )
    print(f" as fast, aim {AIM_TIMES:.0f}")


if __name__ == "__main__":
    main()
