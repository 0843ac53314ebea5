"""What a denoiser and its controls receive besides latents and timestep: the encoded prompts.

Classifier-free guidance (arXiv:2207.12598) runs the denoiser on [unconditional, conditional]. `guided` stacks the two
once per run, so that no step concatenates text again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Conditioning"]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts of a batch.

    Attributes:
        tokens: text states of each token, `(B, T, D)`.
        pooled: one state for each whole prompt, `(B, P)`; for base models that use it (SDXL).
        extras: further tensors of batch B that the denoiser takes by name: SDXL's "time_ids" `(B, 6)`,
            "class_labels" `(B,)`.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, index: int, count: int = 1) -> Conditioning:
        """Prompt `index`, repeated `count` times without a copy."""
        return self._map(lambda tensor: tensor[index : index + 1].expand(count, *tensor.shape[1:]))

    def zeros(self) -> Conditioning:
        """The same with tokens and pooled states of zero: SDXL's unconditional branch for an empty prompt."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, tokens=torch.zeros_like(self.tokens), pooled=pooled)

    def with_extras(self, **extras: Tensor) -> Conditioning:
        """The same with further tensors by name."""
        return replace(self, extras={**self.extras, **extras})

    @staticmethod
    def guided(unconditional: Conditioning, conditional: Conditioning) -> Conditioning:
        """The batch [unconditional, conditional] of classifier-free guidance, of twice the size.

        Raises:
            TetherError: when only one of the two has pooled states, or they have different extras.
        """
        if (unconditional.pooled is None) != (conditional.pooled is None):
            raise TetherError("guidance needs pooled states on both CFG branches, or on neither")
        if unconditional.extras.keys() != conditional.extras.keys():
            raise TetherError("guidance needs the same extras on both CFG branches")
        return Conditioning.joined([unconditional, conditional])

    @staticmethod
    def joined(parts: Sequence[Conditioning]) -> Conditioning:
        """One batch of several, which have the same length, pooled states and extras."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras}
        return Conditioning(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None, extras)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Tokens and pooled states on a device and in a dtype; extras on the device, in their own dtype."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        extras = {name: tensor.to(device) for name, tensor in self.extras.items()}
        return Conditioning(self.tokens.to(device, dtype), pooled, extras)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        pooled = None if self.pooled is None else function(self.pooled)
        return Conditioning(function(self.tokens), pooled, {name: function(t) for name, t in self.extras.items()})
