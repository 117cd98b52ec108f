"""Weak views of every item of a pool, embedded once and kept: looks of which a head may ask that it says the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml_worker.augment import Policy, weak
from ml_worker.batches import seed_of
from ml_worker.images import Images, Selection
from ml_worker.pool import Floats
from ml_worker.whole_files import whole_file

# Of each item.
VIEWS = 4
# In larger pools heads go by noise: views take four times the time and the disk space of the embeddings.
ITEMS_AT_MOST = 100_000
_BLOCK = 512


def look(
    embed: Callable[[Images], Floats],
    images: Selection | Images,
    policy: Policy,
    *,
    folder: Path | None = None,
    of: str = "",
    progress: Callable[[float, str], None] = lambda share, said: None,
) -> Floats:
    """Embeddings float32 (VIEWS, N, D) of so many weak views of each image, drawn from its place in the pool.

    embed: images uint8 (n, px, px, 3) -> float32 (n, D). images: (N, px, px, 3), read block by block. folder: where
    they are written down as they come; a run that was killed goes on there, if it looks under the same policy and `of`
    (what embeds, and which images) is what it was; the result is mapped from it. Without one it is in memory.
    progress(share, sentence) may raise to cancel.
    """
    width = embed(np.asarray(images[:1])).shape[1]
    shape, what = (VIEWS, len(images), width), [VIEWS, len(images), width, policy.flip, policy.shift, of]
    views, done = _begun(folder, shape, what) if folder else (np.empty(shape, np.float32), 0)
    for start in range(done, len(images), _BLOCK):
        block = np.array(images[start : start + _BLOCK])
        squares = torch.from_numpy(block).permute(0, 3, 1, 2)
        for view in range(VIEWS):
            seen = weak(squares, policy, torch.Generator().manual_seed(seed_of(start, view)))
            levels = (seen * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
            views[view, start : start + len(block)] = embed(levels)
        done = start + len(block)
        if isinstance(views, np.memmap) and folder:
            views.flush()  # only then say that they are there
            with whole_file(folder / "views.json") as file:
                file.write(json.dumps({"what": what, "done": done}).encode())
        progress(done / len(images), f"looked at {done:,} of {len(images):,} images in {VIEWS} views")
    return views


def _begun(folder: Path, shape: tuple[int, ...], what: list[Any]) -> tuple[Floats, int]:
    """The file of the views, and how many items of it a run before has looked at."""
    path, mark, done = folder / "views.f32", folder / "views.json", 0
    if path.exists() and mark.exists():
        told = json.loads(mark.read_text())
        done = told["done"] if told["what"] == what else 0
    folder.mkdir(parents=True, exist_ok=True)
    return np.memmap(path, np.float32, "r+" if done else "w+", shape=shape), done
