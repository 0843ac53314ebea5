"""Layers whose output is exactly zero before training (arXiv:2302.05543, section 3.1).

A zero layer is an affine map whose weight and bias both start at zero:

    y = Z(x; θz) = w x + b,    w = 0,  b = 0

so before training it adds nothing to what it is connected to: y = 0. It still learns, because

    ∂y/∂w = x ≠ 0,    ∂y/∂b = 1 ≠ 0,    ∂y/∂x = w = 0

At the first step the loss has a gradient for w and b but not for x. The first update makes w ≠ 0, and from the second
step on the gradient also reaches the layers before. No noise enters the locked model at any time.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ZeroConv2d", "ZeroLinear"]


class ZeroConv2d(nn.Conv2d):
    """Convolution with weight and bias exactly zero; `(B, in, H, W)` -> `(B, out, H, W)`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; by default `in_channels`.
        kernel_size: odd side of the kernel, 1 in the paper; padded so that H and W stay the same.
        device, dtype: of the parameters.

    Its parameters are those of ``nn.Conv2d``, so state dicts interchange with it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        kernel_size: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            in_channels if out_channels is None else out_channels,
            kernel_size,
            padding=kernel_size // 2,
            device=device,
            dtype=dtype,
        )

    def reset_parameters(self) -> None:
        """Sets weight and bias to zero. ``nn.Conv2d`` calls this when it is created."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class ZeroLinear(nn.Linear):
    """Linear layer with weight and bias exactly zero; `(B, ..., in)` -> `(B, ..., out)`.

    The zero convolution of section 3.1 for tensors with their channels last.

    Args:
        in_features: channels of the input.
        out_features: channels of the output; by default `in_features`.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, in_features if out_features is None else out_features, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Sets weight and bias to zero. ``nn.Linear`` calls this when it is created."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
