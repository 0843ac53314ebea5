"""Memory layout of tensors, and reuse of freed memory.

*Layout.* GPUs compute convolutions fastest in channels-last layout. On a CPU the fused AdamW copies every parameter
that is not contiguous, there and back.

*Freed memory is kept for the next step.* Every step allocates and frees gigabytes of the same sizes. The C library
returns large blocks to the system as soon as they are free, and requests them again: the system then has to clear and
map each page again, a million pages of 4 KiB in a step of Stable Diffusion.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["layout", "retained_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # parameters of glibc's mallopt(3)
_MIB = 2**20


def layout(device: torch.device, optimizer: str = "adamw") -> torch.memory_format:
    """The best layout of tensors `(B, C, H, W)` on a device: Muon steps kernels as matrices, views of channels last."""
    return torch.contiguous_format if device.type == "cpu" and optimizer != "muon" else torch.channels_last


@contextmanager
def retained_memory(device: torch.device) -> Iterator[None]:
    """Inside, freed CPU memory stays with this process; at the end it is returned to the system.

    Does nothing for other devices, which have PyTorch's own allocator, or if the C library is not glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, 65536)  # its default
        libc.mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # what its thresholds grow to when large blocks are freed
        libc.mallopt(_TRIM_THRESHOLD, 64 * _MIB)
        libc.malloc_trim(0)
