"""Runs of every trainer, in one process or, as `torchrun -m tests.together FOLDER`, in several that learn as one."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from annotator.algorithms import catalogue, clean_parameters, get
from ml_worker import distributed, loop, nets, trainers
from ml_worker.batches import Examples
from ml_worker.loop import NotFinite, Progress, Recipe, Trained
from tests.pictures import POLICY, examples, tiny_network, weights_of

NAMES = [algorithm.name for algorithm in catalogue("trainer")]
STEPS = 6
# What makes each gate open, close and remember within a few steps.
QUICK = {
    "threshold": 0.5,
    "momentum": 0.5,
    "ceiling": 0.5,
    "fairness": 0.5,
    "open_threshold": 0.3,
    "neighbours": 4,
    "memory": 30,
    "annealing": "linear",
}


class Stopped(Exception):
    """By the first process."""


def recipe(name: str) -> Recipe:
    """Batches of 7 and 21 images, which no two processes share evenly, and every option that has a memory."""
    known = {parameter.name for parameter in get("trainer", name).parameters}
    quick = {key: value for key, value in QUICK.items() if key in known and (name, key) != ("elr", "memory")}
    return Recipe(
        name,
        clean_parameters("trainer", name, quick),
        steps=STEPS,
        batch=7,
        ratio=3,
        learning_rate=0.1,
        ema=0.5,
        evaluate_every=1,
        alignment="estimated",
        adaptive=True,
        amp="off",
    )


def given() -> Examples:
    """Answers of different weight, and an audit of nine."""
    return examples(n=33, n_audit=9, weights=np.linspace(0.2, 1.5, 12, dtype=np.float32))


def run(name: str, folder: Path, until: int = STEPS, **others: Any) -> Trained:
    def report(progress: Progress) -> None:
        if progress.step == until < STEPS:
            raise Stopped

    return loop.train(given(), replace(recipe(name), **others), POLICY, folder=folder / name, report=report)


def without_pool(folder: Path) -> Trained:
    """Of a trainer whose own head then has no part in the loss."""
    alone = replace(given(), unlabeled=np.zeros(0, np.int64))
    return loop.train(alone, recipe("simmatch"), POLICY, folder=folder, report=lambda progress: None)


def breaking(folder: Path) -> None:
    """A loss that is not a number, in the last process alone."""

    class Breaking(trainers.load("fixmatch")):  # type: ignore[misc]
        def loss(self, *batches: Any) -> tuple[torch.Tensor, trainers.Logs]:
            loss, logs = super().loss(*batches)
            return loss * (math.inf if distributed.rank() == distributed.world() - 1 else 1.0), logs

    load, trainers.load = trainers.load, lambda name: Breaking
    try:
        run("fixmatch", folder / "breaking")
    except NotFinite as error:
        (folder / f"breaking-{distributed.rank()}.txt").write_text(str(error))
    trainers.load = load


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    nets.build = tiny_network
    dist.init_process_group("gloo")
    for name in NAMES:
        trained = run(name, folder)
        torch.save(weights_of(trained.net), folder / name / f"weights-{distributed.rank()}.pt")
    without_pool(folder / "without_pool")
    resumed = run("flexmatch", folder / "begun_by_one")
    (folder / f"resumed-{distributed.rank()}.txt").write_text(resumed.resumed)
    try:
        run("flexmatch", folder / "stopped_by_two", until=3)
    except (Stopped, distributed.Ended) as error:
        (folder / f"stopped-{distributed.rank()}.txt").write_text(type(error).__name__)
    breaking(folder)
    # As different as two clocks can be: what they decide must not differ.
    loop.REPORT_S = loop.CHECKPOINT_S = 1e9 * (1 - distributed.rank())
    by_clock = run("fixmatch", folder / "clock", steps=10**6, seconds=0.3, evaluate_every=10**6)
    (folder / f"clock-{distributed.rank()}.txt").write_text(f"{by_clock.step} {by_clock.stopped}")
    try:
        run("supervised", folder / "few", batch=1)
    except ValueError as error:
        (folder / f"few-{distributed.rank()}.txt").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
