"""A small network that says what a larger model says, learnt from a pool nobody labelled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ml_worker import augment, nets
from ml_worker.batches import places, seed_of
from ml_worker.images import Images
from ml_worker.pool import Floats, Rows
from ml_worker.precision import autocast, precision
from ml_worker.predict import predict

HELD_OUT = 0.1
HELD_OUT_AT_MOST = 1000
_REPORT_S = 2.0


@dataclass(frozen=True, eq=False)
class Distilled:
    """net: the student, in eval mode. agreement: share of `held_out` images, never learnt from, that student and
    teacher put in the same class; None where the pool is too small to hold any out."""

    net: nets.Network
    agreement: float | None
    held_out: int
    steps: int


@torch.random.fork_rng(devices=[])
def distil(
    teacher: Floats,
    images: Images,
    rows: Rows,
    policy: augment.Policy,
    *,
    net: str = "small",
    tau: float = 1.0,
    steps: int = 2**20,
    seconds: float = math.inf,
    batch: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[float, str], None] = lambda share, said: None,
) -> Distilled:
    """A fresh network of this name whose predictions on the rows follow the teacher's.

    teacher: probabilities float32 (n, C), rows sum to 1, of images[rows]: of a network, of a head on an encoder, of
    anything. images: uint8 (N, px, px, 3), may be memory-mapped; rows: int64 (n,). steps, seconds: whichever ends
    first; the learning rate comes down by then. The same seed gives the same student on one thread, unless the clock
    ends it. progress(share, sentence) may raise to cancel. Raises ValueError for what does not fit.

    Source: Hinton et al. 2015, section 2: cross-entropy between the teacher's and the student's probabilities, both
    softened by tau, times tau squared. That the pool needs no labels for it is the third step of SimCLRv2 (Chen et al.
    2020, equation 2). Differs: the teacher is asked once per image, not once per view, because a head has no other
    answer than the one it stored and because it makes the step as cheap as the student.
    """
    if len(teacher) != len(rows) or len(rows) == 0:
        raise ValueError(f"{len(teacher)} predictions for {len(rows)} images; wanted one each, and at least one")
    if steps == 2**20 and math.isinf(seconds):
        raise ValueError("it would go on for ever; wanted steps or seconds")
    torch.manual_seed(seed_of(seed))
    place = torch.device(device)
    taught, held_out = _split(len(rows), seed)
    student = _student(net, images, rows, teacher.shape[1]).to(place)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=1e-2)
    soft = soften(torch.from_numpy(np.array(teacher, np.float32)), tau)
    dtype, started, told = precision(place, "auto"), time.monotonic(), 0.0
    step, share = 0, 0.0
    while share < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        chosen = taught[places(len(taught), batch, step, seed_of(seed, 1))]
        generator = torch.Generator().manual_seed(seed_of(seed, 2, step))
        squares = torch.from_numpy(np.array(images[rows[chosen]])).to(place).permute(0, 3, 1, 2)
        with autocast(place, dtype):
            logits = student(augment.weak(squares, policy, generator)).float()
        loss = nn.functional.cross_entropy(logits / tau, soft[chosen].to(place)) * tau**2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        spent = time.monotonic() - started
        share = min(1.0, max(step / steps, spent / seconds))
        if spent - told >= _REPORT_S or share == 1.0:
            told = spent
            progress(share, f"step {step:,}, loss {float(loss.detach()):.2f}")
    student.eval()
    said = predict(student, images, rows[held_out], device=device, batch=512)
    agrees = said.probs.argmax(axis=1) == teacher[held_out].argmax(axis=1)
    return Distilled(student, float(agrees.mean()) if len(held_out) else None, len(held_out), step)


def soften(probs: Tensor, tau: float) -> Tensor:
    """Probabilities (n, C) at temperature tau: p^(1/tau), brought back to sum 1. Zeros count as one in a million, as
    little as half precision, in which they are stored, can tell from nothing."""
    return (probs.clamp_min(1e-6).log() / tau).softmax(dim=1)


def _split(n: int, seed: int) -> tuple[Rows, Rows]:
    """Places to learn from and places to hold out, int64."""
    order = np.random.default_rng(seed).permutation(n)
    kept = min(HELD_OUT_AT_MOST, int(HELD_OUT * n))
    return np.sort(order[kept:]), np.sort(order[:kept])


def _student(name: str, images: Images, rows: Rows, n_classes: int) -> nets.Network:
    """A fresh network that knows mean and deviation of the pool."""
    some = np.sort(np.random.default_rng(0).permutation(rows)[:2000])
    colours = torch.from_numpy(np.array(images[some])).reshape(-1, 3).float() / 255.0
    mean, std = colours.mean(dim=0), colours.std(dim=0, correction=0)
    return nets.build(name, n_classes, images.shape[1], mean=mean, std=std)
