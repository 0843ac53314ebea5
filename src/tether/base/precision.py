"""What a CPU computes fast in."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["has_bf16", "slow_type"]

_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def has_bf16() -> bool:
    """Whether the CPU has instructions for products of bfloat16."""
    found = _capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def slow_type(dtype: torch.dtype | None, device: torch.device) -> str | None:
    """A line for people when numbers of 16 bits are emulated: on an x86-64 CPU without AVX-512, at about an eighth of
    float32's speed; None otherwise."""
    found = _capabilities()
    if device.type != "cpu" or dtype not in _NAMES or found.get("architecture") != "x86_64" or found.get("avx512_f"):
        return None
    name = _NAMES[dtype]
    return f"this processor emulates {name}, several times slower than float32: use float32 if the memory suffices"


def _capabilities() -> dict[str, Any]:
    """What PyTorch knows of the CPU; nothing in versions that do not say."""
    return getattr(torch.cpu, "get_capabilities", dict)()
