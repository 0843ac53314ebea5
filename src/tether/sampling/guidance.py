"""Classifier-free guidance (arXiv:2207.12598), and its rescaling (arXiv:2305.08891)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from tether.control.conditioning import Conditioning

__all__ = ["Guidance", "classifier_free_guidance", "rescaled"]


@dataclass(frozen=True)
class Guidance:
    """The text of a run and the scale of classifier-free guidance.

    Attributes:
        conditional: the encoded prompts, of batch B.
        unconditional: the encoded negative prompts, of batch B; None for no guidance.
        scale: s.
        rescale: φ, see `rescaled`.
    """

    conditional: Conditioning
    unconditional: Conditioning | None = None
    scale: float = 1.0
    rescale: float = 0.0

    def stacked(self) -> Conditioning:
        """[unconditional, conditional], of batch 2B; the conditional alone, of batch B, without guidance."""
        if self.unconditional is None:
            return self.conditional
        return Conditioning.guided(self.unconditional, self.conditional)

    @staticmethod
    def joined(parts: Sequence[Guidance]) -> Guidance:
        """The guidance of a batch whose images have prompts of their own; scale and rescaling are the first one's."""
        conditional = Conditioning.joined([part.conditional for part in parts])
        unconditional = [part.unconditional for part in parts if part.unconditional is not None]
        both = Conditioning.joined(unconditional) if unconditional else None
        return replace(parts[0], conditional=conditional, unconditional=both)


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


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """φ ε std(ε_c) / std(ε) + (1 - φ) ε, arXiv:2305.08891, equations 15 and 16: guidance without overexposure.

    Args:
        guided: ε, `(B, C, h, w)`, from `classifier_free_guidance`.
        conditional: ε_c of this shape.
        share: φ in [0, 1].
    """
    dims = tuple(range(1, guided.ndim))
    factor = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return share * factor * guided + (1 - share) * guided
