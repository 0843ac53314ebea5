"""How the signals of several controls become one.

    sum       r = Σ_k r_k                                        arXiv:2302.05543, section 3.4
    limited   r = Σ_k r_k · min(1, max_k |r_k| / |Σ_k r_k|)      at each place, |·| over its channels

Controls that agree add up to more than any of them was trained to give, and the picture loses its contrast. "limited"
keeps the direction of the sum, and at each place the length of the longest of them: a map that is given twice acts as
once, and controls that act in different places are not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from tether.control.signal import Signal

__all__ = ["Combine", "combined"]

Combine = Literal["sum", "limited"]


def combined(signals: Sequence[Signal], combine: Combine = "sum") -> Signal:
    """The signals of one step as one.

    Args:
        signals: at least one, of one batch.
        combine: "sum" or "limited".

    Raises:
        TetherError: when they have different shapes.
    """
    from tether.control.signal import Signal  # loads PyTorch, which checking a request does not need

    total = reduce(add, signals)
    if combine == "sum" or len(signals) == 1:
        return total
    return Signal(
        {point: _limited(tensor, [one[point] for one in signals if point in one]) for point, tensor in total.items()}
    )


def _limited(total: Tensor, each: Sequence[Tensor]) -> Tensor:
    """A sum `(B, C, H, W)` or `(B, T, C)`, at each place no longer than the longest of its parts there."""
    import torch

    if len(each) == 1:
        return total
    channels = 1 if total.ndim == 4 else -1
    longest = reduce(torch.maximum, [_length(one, channels) for one in each])
    factor = longest / _length(total, channels).clamp_min(torch.finfo(torch.float32).tiny)
    return total * factor.clamp_max(1).to(total.dtype)


def _length(tensor: Tensor, channels: int) -> Tensor:
    """In float32, in which squares of float16 do not overflow."""
    import torch

    return torch.linalg.vector_norm(tensor.float(), dim=channels, keepdim=True)
