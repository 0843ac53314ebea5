"""What a control adds to a denoiser: one tensor for each injection point.

    feature_p <- feature_p + w_p r_p        for every injection point p that the signal has

For a ControlNet the points are the skip connections and the middle of a U-Net, and r_p are the outputs of its zero
convolutions (figure 3 of arXiv:2302.05543). w_p is 1 unless an `Injection` gives another weight. Signals of several
controls are added point by point (section 3.4, "Composing multiple ControlNets").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from tether.errors import TetherError

__all__ = ["Signal"]


class Signal(Mapping[str, Tensor]):
    """Tensors `(B, C_p, H_p, W_p)` (or `(B, T_p, C_p)` for transformers) by the name of their injection point.

    Immutable. The order is the encoder's, the middle last.

    Args:
        tensors: name of an injection point -> tensor.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, point: str) -> Tensor:
        return self._tensors[point]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        return self is other  # comparing tensors gives tensors

    def __hash__(self) -> int:
        return id(self)

    @property
    def batch(self) -> int:
        """B, the same for every tensor; 0 for an empty signal."""
        return next((len(tensor) for tensor in self.values()), 0)

    @property
    def heights(self) -> tuple[int, ...]:
        """H_p of each tensor."""
        return tuple(tensor.shape[-2] for tensor in self.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> Signal:
        """`function` of each tensor."""
        return Signal({point: function(tensor) for point, tensor in self.items()})

    def to(self, dtype: torch.dtype) -> Signal:
        """The same signal in another dtype; tensors that have it already are not copied."""
        return self.map(lambda tensor: tensor.to(dtype))

    def scaled(self, weights: float | Sequence[float]) -> Signal:
        """Each tensor times its weight, or all times one weight. A weight of 1 costs nothing.

        Raises:
            TetherError: when there are not as many weights as tensors.
        """
        each = [float(weights)] * len(self) if isinstance(weights, (int, float)) else list(weights)
        if len(each) != len(self):
            raise TetherError(f"got {len(each)} weights for {len(self)} injection points: give one weight for each")
        pairs = zip(self.items(), each, strict=True)
        return Signal({point: tensor if weight == 1 else tensor * weight for (point, tensor), weight in pairs})

    def first_skips(self, count: int | None) -> Signal:
        """The signal at the first `count` skip connections alone; all of it for None."""
        if count is None:
            return self
        return Signal({name: self[name] for name in (f"skip.{k}" for k in range(count)) if name in self})

    def pooled(self) -> Signal:
        """The mean of each tensor over space, at its size, expanded without a copy."""
        return self.map(lambda tensor: tensor.mean((2, 3), keepdim=True).expand_as(tensor))

    def after_zeros(self) -> Signal:
        """Twice the batch, the first half zero: control on the second half of [unconditional, conditional]."""
        return self.map(lambda tensor: torch.cat([torch.zeros_like(tensor), tensor]))

    def first_half_scaled(self, weight: float) -> Signal:
        """The first half of the batch times a weight: the unconditional half of [unconditional, conditional]."""

        def scale(tensor: Tensor) -> Tensor:
            first, second = tensor.chunk(2)
            return torch.cat([first * weight, second])

        return self.map(scale)

    def __add__(self, other: Signal) -> Signal:
        """The sum, point by point; a point that only one of the two has is taken from that one.

        Raises:
            TetherError: when the tensors of a point have different shapes.
        """
        total = dict(self._tensors)
        for point, tensor in other.items():
            if point in total and total[point].shape[1:] != tensor.shape[1:]:
                raise TetherError(
                    f"these controls do not add up: at {point} one has {tuple(total[point].shape[1:])}, the other "
                    f"{tuple(tensor.shape[1:])}; use controls made for the same base model"
                )
            total[point] = total[point] + tensor if point in total else tensor
        return Signal(total)
