"""What a network is to learn, in a folder: for processes that cannot be handed it."""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ml_worker.augment import Policy
from ml_worker.batches import Examples
from ml_worker.images import Images, Selection
from ml_worker.loop import Recipe

_ARRAYS = ("labeled", "targets", "weights", "label_versions", "unlabeled", "audit", "audit_targets", "prior")
_CHUNK = 8192  # images copied at once


def write(folder: Path, examples: Examples, recipe: Recipe, policy: Policy) -> None:
    """Everything but the images, which are named if they are in a file already and copied here if not.

    What an earlier training told through this folder is removed; its checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("error-*.json"), folder / "trained.pt"]:
        stale.unlink(missing_ok=True)
    images, arrays = examples.images, {name: getattr(examples, name) for name in _ARRAYS}
    if isinstance(images, Selection):
        images, arrays["rows"] = images.images, images.rows
    np.savez(folder / "answers.npz", **arrays)
    task = {
        "recipe": asdict(recipe),
        "policy": policy.to_json(),
        "n_classes": examples.n_classes,
        "images": _place(images, folder),
    }
    (folder / "task.json").write_text(json.dumps(task))


def read(folder: Path) -> tuple[Examples, Recipe, Policy]:
    """What `write` was given; the images memory-mapped."""
    task = json.loads((folder / "task.json").read_text())
    with np.load(folder / "answers.npz") as file:
        answers = dict(file)
    place = task["images"]
    images: Any = np.memmap(place["path"], np.uint8, "r", offset=place["offset"], shape=tuple(place["shape"]))
    if "rows" in answers:
        images = Selection(images, answers["rows"])
    examples = Examples(images, **{name: answers[name] for name in _ARRAYS}, n_classes=task["n_classes"])
    return examples, Recipe(**task["recipe"]), Policy.from_json(task["policy"])


def _place(images: Images, folder: Path) -> dict[str, Any]:
    """The file in which these images, uint8 (N, px, px, 3), lie one after another."""
    # A part of a mapped array still names the whole file, with the offset of the whole.
    whole = isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) and images.flags.c_contiguous
    if whole and images.filename is not None:  # type: ignore[attr-defined]
        return {"path": str(images.filename), "offset": images.offset, "shape": images.shape}  # type: ignore[attr-defined]
    copy = np.memmap(folder / "images.u8", np.uint8, "w+", shape=images.shape)
    for start in range(0, len(images), _CHUNK):
        copy[start : start + _CHUNK] = images[start : start + _CHUNK]
    copy.flush()
    return {"path": str(folder / "images.u8"), "offset": 0, "shape": images.shape}
