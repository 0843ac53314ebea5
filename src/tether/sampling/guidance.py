"""Classifier-free guidance (Ho and Salimans 2022)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["classifier_free_guidance"]


def classifier_free_guidance(prediction: Tensor, scale: float) -> Tensor:
    """ε = ε_uc + s (ε_c - ε_uc).

    Args:
        prediction: `(2B, C, h, w)`: the B unconditional predictions, then the B conditional ones.
        scale: s; 1 is the conditional prediction alone.

    Returns:
        `(B, C, h, w)`.
    """
    unconditional, conditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)
