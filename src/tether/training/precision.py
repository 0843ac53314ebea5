"""The type that a run computes in."""

from __future__ import annotations

import torch

__all__ = ["resolve_precision"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to compute in: None for float32. "auto" is bf16 where the device has instructions for it."""
    if precision != "auto":
        return _DTYPES.get(precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if fast.get("avx512_bf16") or fast.get("amx_bf16") else None
