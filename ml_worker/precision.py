"""Fewer bits where the processor is made for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

CHOICES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def _cpu_flags() -> frozenset[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def precision(device: torch.device, amp: str) -> torch.dtype | None:
    """What convolutions are computed in on a device; None: float32. amp: "auto", "off", "bf16" or "fp16".

    "auto" is bf16 where the hardware multiplies it, fp16 on older GPUs, and float32 on CPUs without such units, where
    bf16 is emulated and slower. Raises ValueError for another word.
    """
    if amp in CHOICES:
        return CHOICES[amp]
    if amp != "auto":
        raise ValueError(f"amp is {amp!r}; wanted auto, {', '.join(CHOICES)}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """A context in which a network computes in dtype, as `precision` gave it."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
