"""Heads: a few answers in, logits for the whole pool out. One file each; the file's name is the head's name.

A head is a class `Head(n_classes, **parameters)` with `fit(pool, rows int64 (L,), targets int64 (L,), weights
float32 (L,))` and `logits(pool) -> float32 (N, C)`. It is given the Pool, not bare features, so that the
neighbour graph is built once per embedding, not per refit.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """The Head class in the file of this name. Raises ModuleNotFoundError for an unknown name."""
    return import_module(f"{__name__}.{name}").Head
