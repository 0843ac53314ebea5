"""The one family of errors that Tether raises for a person to read."""

from __future__ import annotations

__all__ = ["TetherError", "is_out_of_memory"]

_OUT_OF_MEMORY = (
    "out of memory",  # of CUDA, MPS and others
    "can't allocate memory",  # of the CPU
    "not enough memory",  # of the CPU on Windows
    "status_alloc_failed",  # of cuBLAS and cuDNN
    "invalid buffer size",  # of MPS, for one tensor
)
"""Words of PyTorch's errors."""


class TetherError(Exception):
    """One line: what was wrong, what was expected, what to do. The command line prints it and exits 2."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was used up: of the CPU or of a device, of Python or of PyTorch."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)
