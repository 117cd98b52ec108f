"""What to train with, when the user leaves that to us; and whether what came of it is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_worker.loop import Recipe

# With fewer audited answers of a class, its recall says nothing.
MIN_CLASS_ANSWERS = 5
# Of answers for each class, on a processor: below it the pool teaches more than strong augmentation does.
FEW_PER_CLASS = 20
MINUTES_FOR_SSL = 45
# The clock ends a run long before.
STEPS_AT_MOST = 2**20


@dataclass(frozen=True)
class Choice:
    """A trainer and a network, and the sentence that says why these."""

    trainer: str
    net: str
    why: str


def choose(*, n_labels: int, n_classes: int, image_px: int, device: str, minutes: float) -> Choice:
    """The trainer and the network for this much data and time.

    On a processor a short run gives semi-supervised training a sixth of the labelled steps that plain training gets,
    and with some twenty labels for each class the latter wins; with an hour, a GPU, or very few labels it is the
    reverse.
    """
    each = n_labels / max(1, n_classes)
    has = f"{n_labels:,} answers for {n_classes} classes"
    if device != "cpu":
        return Choice("freematch", "wide_resnet", f"{has} and a GPU: the pool's own images teach most (FreeMatch).")
    if minutes >= MINUTES_FOR_SSL and image_px <= 64:
        return Choice("freematch", "small", f"{has} and {minutes:g} minutes: time to learn from the pool (FreeMatch).")
    if each < FEW_PER_CLASS:
        return Choice("freematch", "small", f"{has}: too few to learn from alone, so the pool helps (FreeMatch).")
    return Choice("supervised", "small", f"{has}, {minutes:g} minutes on a processor: plain training gets furthest.")


def recipe(
    choice: Choice, parameters: Mapping[str, Any], *, minutes: float, n_audit: int, seed: int, device: str
) -> Recipe:
    """How a project trains what was chosen. parameters: all of the trainer's; n_audit: answered random checks.

    Where there is no GPU, small batches: the steps they leave time for teach more than their gradients lack. Evaluated
    often enough to be watched and seldom enough to cost little; in coarse steps of n_audit, because the checkpoint of
    a run that was evaluated at other times is not gone on from.
    """
    on_cpu = device == "cpu"
    return Recipe(
        trainer=choice.trainer,
        trainer_parameters=parameters,
        net=choice.net,
        steps=STEPS_AT_MOST,
        seconds=60.0 * minutes,
        batch=32 if on_cpu else 64,
        ratio=4 if on_cpu else 7,
        evaluate_every=(50 if on_cpu else 500) * max(1, n_audit // 500),
        seed=seed,
        alignment="estimated",
        device=device,
    )


def is_better(candidate: dict[str, Any] | None, standing: dict[str, Any] | None) -> tuple[bool, str]:
    """Whether a model may take the place of another, and why (not), from their `evaluate.accuracy_report`s.

    Both on the same audited answers. It must be right at least as often, and in its worst class (of those with enough
    answers) at least as often as the other in its own worst.
    """
    if not candidate or not candidate["n"]:
        return False, "there are no answered random checks to compare it on"
    if not standing or not standing["n"]:
        return True, "there is no other model yet"
    new, old = candidate["correct"], standing["correct"]
    n = candidate["n"]
    if new < old:
        return False, f"it is right on {new} of {n} random checks, the model before on {old}"
    worst_new, worst_old = _worst(candidate), _worst(standing)
    if worst_new is not None and worst_old is not None and worst_new < worst_old:
        return False, f"its worst class is right in {worst_new:.0%} of the random checks, before in {worst_old:.0%}"
    return True, f"it is right on {new} of {n} random checks, the model before on {old}"


def _worst(report: dict[str, Any]) -> float | None:
    rates = [right / answered for right, answered in report["recall"] if answered >= MIN_CLASS_ANSWERS]
    return min(rates) if rates else None
