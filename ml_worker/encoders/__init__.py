"""Encoders: images in, embeddings out. One file each; the file's name is the encoder's name.

An encoder is a class `Encoder(seed=..., **parameters)` with `fit(images)`, `embed(images) -> float32 (N, D)`,
`save(folder)` and the class method `load(folder)`; images are uint8 (N, px, px, 3).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """The Encoder class in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    return import_module(f"{__name__}.{name}").Encoder
