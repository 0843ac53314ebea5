"""What a ControlNet says to the locked denoiser: one tensor a skip connection and one for the middle.

    skip_i <- skip_i + w_i r_i        middle <- middle + w_n r_n

r are the outputs of the zero convolutions (paper, figure 3); w is 1 unless an `Injection` says otherwise.
Residuals of several ControlNets are simply added (section 3.4, "Composing multiple ControlNets").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Residuals"]


@dataclass(frozen=True, eq=False)
class Residuals:
    """The residuals of one ControlNet, or the sum of several.

    Attributes:
        down: one (B, C_i, H_i, W_i) for each skip connection, in the encoder's order; the first has the
            latent's size.
        middle: (B, C, H_n, W_n), for the middle block.
    """

    down: tuple[Tensor, ...]
    middle: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        """All of them in order, the middle last: 13 for Stable Diffusion."""
        yield from self.down
        yield self.middle

    def __len__(self) -> int:
        return len(self.down) + 1

    @property
    def heights(self) -> tuple[int, ...]:
        """H_i of each, the middle last."""
        return tuple(residual.shape[-2] for residual in self)

    def map(self, function: Callable[[Tensor], Tensor]) -> Residuals:
        """`function` of each residual."""
        return Residuals(tuple(function(residual) for residual in self.down), function(self.middle))

    def to(self, dtype: torch.dtype) -> Residuals:
        """The same in another type; no copy where it is that type already."""
        return self.map(lambda residual: residual.to(dtype))

    def scaled(self, weights: float | Sequence[float]) -> Residuals:
        """Each residual times its weight, or all times one weight. A weight of 1 costs nothing.

        Raises:
            TetherError: when there are not as many weights as residuals.
        """
        each = [float(weights)] * len(self) if isinstance(weights, (int, float)) else list(weights)
        if len(each) != len(self):
            raise TetherError(f"{len(each)} weights for {len(self)} residuals (the skip connections and the middle)")
        *down, middle = (r if weight == 1 else r * weight for r, weight in zip(self, each, strict=True))
        return Residuals(tuple(down), middle)

    def after_zeros(self) -> Residuals:
        """Twice the batch, the first half zero: control on the second of [unconditional, conditional]."""
        return self.map(lambda residual: torch.cat([torch.zeros_like(residual), residual]))

    def first_half_scaled(self, weight: float) -> Residuals:
        """The first half of the batch times a weight: the unconditional of [unconditional, conditional]."""

        def scale(residual: Tensor) -> Tensor:
            first, second = residual.chunk(2)
            return torch.cat([first * weight, second])

        return self.map(scale)

    def __add__(self, other: Residuals) -> Residuals:
        """Residual by residual.

        Raises:
            TetherError: when the two were made for different denoisers or sizes.
        """
        if [r.shape[1:] for r in self] != [r.shape[1:] for r in other]:
            raise TetherError("these controls do not add up: they were made for different base models or sizes")
        *down, middle = (a + b for a, b in zip(self, other, strict=True))
        return Residuals(tuple(down), middle)
