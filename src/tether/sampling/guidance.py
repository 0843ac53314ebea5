"""Classifier-free guidance (arXiv:2207.12598)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tether.control.conditioning import Conditioning

__all__ = ["Guidance", "classifier_free_guidance"]


@dataclass(frozen=True)
class Guidance:
    """The text of a run and the scale of classifier-free guidance.

    Attributes:
        conditional: the encoded prompts, of batch B.
        unconditional: the encoded negative prompts, of batch B; None for no guidance.
        scale: s.
    """

    conditional: Conditioning
    unconditional: Conditioning | None = None
    scale: float = 1.0

    def stacked(self) -> Conditioning:
        """[unconditional, conditional], of batch 2B; the conditional alone, of batch B, without guidance."""
        if self.unconditional is None:
            return self.conditional
        return Conditioning.guided(self.unconditional, self.conditional)


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
