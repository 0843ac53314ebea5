"""The floating-point type that a run computes in, and its attention kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tether.base.precision import has_bf16

__all__ = ["attention_kernel", "autocast", "resolve_precision"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The type to compute in; None for float32. "auto" is bf16 if the device has instructions for it."""
    if precision != "auto":
        return _DTYPES.get(precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if has_bf16() else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """PyTorch's autocast to a type; nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def attention_kernel(name: str) -> AbstractContextManager[object]:
    """Inside, `torch.nn.functional.scaled_dot_product_attention` uses this kernel, in every thread of the process.

    Args:
        name: "auto", PyTorch's choice, or "math", which writes the attention out: on the shipped base's short
            sequences a step on a CPU takes a fifth less time with it.
    """
    return sdpa_kernel(SDPBackend.MATH) if name == "math" else nullcontext()
