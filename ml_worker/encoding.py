"""What an encoder makes of a pool, written down as it comes, so that a run that was killed goes on where it was."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_worker import encoders
from ml_worker.images import Selection
from ml_worker.pool import Floats

Progress = Callable[[float, str], None]
# Embeds a pool by a fitted encoder into a folder, as `embed_here` does.
Embed = Callable[[Any, Selection, Path, Progress], Floats]

# Images embedded between two reports: at most half a minute of a published model on a processor.
BLOCK = 512
# Share of the progress that is learning; the rest is embedding.
LEARNT = 0.6


class NotFinite(ValueError):
    """Embeddings hold NaN or infinity, to which nothing is near; the message says of how many images."""


def check_finite(embeddings: Floats) -> None:
    """Raises NotFinite unless every number of embeddings (N, D) is finite. Reads them a block at a time."""
    starts = range(0, len(embeddings), BLOCK)
    bad = sum(int((~np.isfinite(embeddings[start : start + BLOCK]).all(axis=1)).sum()) for start in starts)
    if bad:
        raise NotFinite(
            f"the encoder gave numbers that are not finite for {bad:,} of {len(embeddings):,} images; fetch its model"
            " again, compute in 32 bits, or choose another encoder"
        )


def encode(
    encoder: Any,
    pool: Selection,
    indexed: NDArray[np.bool_],
    *,
    folder: Path,
    made_for: dict[str, Any],
    progress: Progress,
    embed: Embed | None = None,
) -> Floats:
    """Embeddings of a pool by an encoder that learns from its indexed rows: float32 (N, D), mapped from the folder.

    encoder: not yet fitted. made_for: settings and images as JSON; what the folder holds of a run for others is thrown
    away. Afterwards `folder / "encoder"` holds the encoder. progress(share 0..1, sentence) is called at least once a
    block, and ends the run by raising. embed: in place of `embed_here`. No step reads the whole pool at once. Raises
    NotFinite at the first block that is not.
    """
    _keep_only(folder, made_for)
    fitted = _fitted(encoder, pool.only(indexed), folder, with_time_left(progress, 0.0, LEARNT))
    return (embed or embed_here)(fitted, pool, folder, with_time_left(progress, LEARNT, 1.0))


def _keep_only(folder: Path, made_for: dict[str, Any]) -> None:
    """Empty the folder unless it was made for these settings and images."""
    written, wanted = folder / "made_for.json", json.dumps(made_for, sort_keys=True)
    if written.exists() and written.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written.write_text(wanted)


def _fitted(encoder: Any, images: Selection, folder: Path, progress: Progress) -> Any:
    """The encoder, fitted: by the run before, where it got that far and its model is the same still, or now."""
    learnt, mark, embeddings = folder / "encoder", folder / "fingerprint", folder / "embeddings.f32"
    if mark.exists():
        try:
            encoders.check_same(learnt, mark.read_text())
            return type(encoder).load(learnt)
        except encoders.Mismatch:  # half of the embeddings by one model, half by another: never
            mark.unlink()
    embeddings.unlink(missing_ok=True)
    shutil.rmtree(learnt, ignore_errors=True)
    takes = inspect.signature(encoder.fit).parameters
    options = {"progress": progress, "folder": folder}
    encoder.fit(images, **{name: value for name, value in options.items() if name in takes})
    encoder.save(learnt)
    mark.write_text(encoders.fingerprint(learnt))
    return encoder


def embed_here(encoder: Any, pool: Selection, folder: Path, progress: Progress) -> Floats:
    """Embeddings float32 (N, D) by a fitted encoder, mapped from `folder / "embeddings.f32"`; goes on where it was."""
    path, width = folder / "embeddings.f32", encoder.embed(pool[:1]).shape[1]
    there = path.stat().st_size // (4 * width) if path.exists() else 0
    with path.open("r+b" if path.exists() else "w+b") as file:
        # Whole blocks only, so that a run that goes on multiplies the same matrices as one that was never stopped.
        first = there - there % BLOCK
        file.seek(first * 4 * width)
        file.truncate()
        for start in range(first, len(pool), BLOCK):
            block = np.ascontiguousarray(encoder.embed(pool[start : start + BLOCK]), np.float32)
            check_finite(block)  # now, not in some hours
            file.write(block.tobytes())
            file.flush()
            os.fsync(file.fileno())
            done = start + len(block)
            progress(done / len(pool), f"embedded {done:,} of {len(pool):,} images")
    return np.memmap(path, np.float32, "r", shape=(len(pool), width))


def with_time_left(progress: Progress, low: float, high: float) -> Progress:
    """The same, for a step that is the shares from low to high of the whole, with the time it still takes."""
    began: tuple[float, float] | None = None  # a run that goes on does not begin at 0

    def said(share: float, sentence: str) -> None:
        nonlocal began
        began = began or (time.monotonic(), share)
        gone, gained = time.monotonic() - began[0], share - began[1]
        if gone > 2.0 and gained > 0.0 and share < 1.0:
            sentence += f", {_left(gone * (1.0 - share) / gained)} left"
        progress(low + (high - low) * share, sentence)

    return said


def _left(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
