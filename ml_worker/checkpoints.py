"""A run that was cut short goes on where it was: its state in one file, whole or absent."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ml_worker.batches import Examples
from ml_worker.whole_files import whole_file

_FORMAT = 1
_CHANGED_AT_MOST = 0.1  # of all answers; what was learnt from more wrong ones than that is better learnt anew


class Unusable(ValueError):
    """This checkpoint cannot be gone on from; the message says why."""


@dataclass(eq=False)
class State:
    """All that a run remembers. parts: name -> what has a state_dict. best_weights: of the network at best_step."""

    parts: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stopped: str = ""


_PLAIN = ("step", "seconds", "history", "best_step", "best_accuracy", "best_weights", "stopped")


def save(path: Path, state: State, identity: Mapping[str, Any], examples: Examples) -> None:
    """Write the state so that after a crash the file is the old one or the new one, never half of either."""
    content = {name: getattr(state, name) for name in _PLAIN}
    content |= {"format": _FORMAT, "identity": dict(identity), "answers": _answers(examples)}
    content |= {"parts": {name: part.state_dict() for name, part in state.parts.items()}}
    with whole_file(path) as file:
        torch.save(content, file)


def resume(path: Path, state: State, identity: Mapping[str, Any], examples: Examples) -> str:
    """Bring a fresh state to where the checkpoint was; what happened, as a sentence, empty without a checkpoint.

    identity: whatever makes this the same run, by name. Answers may have changed in between, up to a tenth of them:
    the entries of their items in per-item memory then go back to what they were at the start, and the best step is
    forgotten, because it was judged with other answers. Raises Unusable, the state untouched, for anything else.
    """
    if not path.exists():
        return ""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        format_found = found["format"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise Unusable(f"the checkpoint cannot be read ({type(error).__name__})") from error
    if format_found != _FORMAT:
        raise Unusable(f"the checkpoint has format {format_found}; wanted {_FORMAT}")
    differing = [
        name for name in {**identity, **found["identity"]} if identity.get(name) != found["identity"].get(name)
    ]
    if differing:
        raise Unusable(f"the checkpoint is of a run with other settings: {', '.join(sorted(differing))}")
    changed = _changed(found["answers"], _answers(examples))
    if len(changed) > _CHANGED_AT_MOST * len(examples.labeled):
        raise Unusable(f"{len(changed)} of {len(examples.labeled)} answers changed since the checkpoint")
    fitted = {
        name: _fitted(part, found["parts"][name], found["answers"], examples, changed)
        for name, part in state.parts.items()
    }
    for name, part in state.parts.items():
        part.load_state_dict(fitted[name])
    for name in _PLAIN:
        setattr(state, name, found[name])
    if not changed:
        return f"resumed at step {state.step}"
    state.best_step, state.best_accuracy, state.best_weights = 0, -1.0, {}
    what = (
        "1 answer changed since, its item starts"
        if len(changed) == 1
        else f"{len(changed)} answers changed since, their items start"
    )
    return f"resumed at step {state.step}; {what} afresh"


def memory(path: Path, name: str) -> tuple[Tensor, Tensor] | None:
    """What a finished run's trainer remembers of each labelled item, (L, ...), and the versions of the answers it was
    learnt with, int64 (L,), in the order of the examples; None where no checkpoint tells."""
    if not path.exists():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True)
    remembered = found["parts"]["trainer"].get(name)
    return None if remembered is None else (remembered, found["answers"]["versions"])


def _answers(examples: Examples) -> dict[str, Tensor]:
    answers = {"items": examples.labeled, "versions": examples.label_versions, "targets": examples.targets}
    return {name: torch.from_numpy(np.array(values, np.int64)) for name, values in answers.items()}


def _keys(answers: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    return list(zip(*(answers[name].tolist() for name in ("items", "versions", "targets")), strict=True))


def _changed(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> set[int]:
    """Items that got, lost or changed their answer."""
    return {key[0] for key in set(_keys(before)) ^ set(_keys(now))}


def _fitted(
    part: Any, found: dict[str, Any], before: Mapping[str, Tensor], examples: Examples, changed: set[int]
) -> dict[str, Any]:
    """The saved state of a part, its memory per item brought to the items and answers there are now."""
    if not isinstance(part, nn.Module):
        return found
    fresh, fitted = part.state_dict(), dict(found)
    for name in getattr(part, "per_item", ()):
        memory, kept = fresh[name].cpu().clone(), min(len(fresh[name]), len(found[name]))
        memory[:kept] = found[name][:kept]
        rows = [row for row in changed if row < len(memory)]
        memory[rows] = fresh[name].cpu()[rows]
        fitted[name] = memory
    place = {key: index for index, key in enumerate(_keys(before))}
    pairs = [(new, place[key]) for new, key in enumerate(_keys(_answers(examples))) if key in place]
    for name in getattr(part, "per_labeled", ()):
        memory = fresh[name].cpu().clone()
        memory[[new for new, _ in pairs]] = found[name][[old for _, old in pairs]]
        fitted[name] = memory
    wrong = [name for name in {**fresh, **fitted} if _shape(fresh.get(name)) != _shape(fitted.get(name))]
    if wrong:
        raise Unusable(f"the checkpoint does not fit this network or trainer: {', '.join(sorted(wrong)[:3])}")
    return fitted


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else None
