"""Encoders: images in, embeddings out. One file each; the file's name is the encoder's name.

An encoder is a class `Encoder(seed=..., **parameters)` with `fit(images)`, `embed(images) -> float32 (N, D)`,
`save(folder)` and the class method `load(folder)`; images are uint8 (N, px, px, 3). One that takes long also takes
`fit(images, progress=..., folder=...)`: who to tell, and where to keep what a later run can go on from. One that wants
its squares at a size of its own has `image_px`.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any


class Mismatch(ValueError):
    """Embeddings of two encoders would be mixed; the message says which and what to do."""


def load(name: str) -> Any:
    """The Encoder class in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    return import_module(f"{__name__}.{name}").Encoder


def fingerprint(folder: Path) -> str:
    """Sixteen hexadecimal digits for the encoder saved in a folder: settings, transform and weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def check_same(folder: Path, wanted: str) -> None:
    """Raises Mismatch unless the encoder saved in a folder has this fingerprint."""
    found = fingerprint(folder)
    if found != wanted:
        raise Mismatch(
            f"the embeddings in {folder.name} were made by encoder {found}, these by {wanted}; distances between them"
            " mean nothing: embed the project again"
        )
