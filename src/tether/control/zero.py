"""Layers that start at exactly nothing (paper, section 3.1).

A zero layer is an affine map whose weight and bias both begin at zero:

    y = Z(x; θz) = w x + b,    w = 0,  b = 0

so that whatever it connects is, before training, not connected: y = 0. It learns all the same, because

    ∂y/∂w = x ≠ 0,    ∂y/∂b = 1 ≠ 0,    ∂y/∂x = w = 0

At the first step the loss reaches w and b but not x; the first update makes w ≠ 0, and from the second step
on the gradient also flows into what comes before. No noise enters the locked model on the way.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ZeroConv2d", "ZeroLinear"]


class ZeroConv2d(nn.Conv2d):
    """Convolution with weight and bias exactly zero; (B, in, H, W) -> (B, out, H, W).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; as many as come in when left out.
        kernel_size: odd side of the kernel, 1 in the paper; the padding keeps H and W.
        device, dtype: where and in what type the parameters are created.

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
        """Set weight and bias to zero. ``nn.Conv2d`` calls this when it is built."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class ZeroLinear(nn.Linear):
    """Linear layer with weight and bias exactly zero; (B, ..., in) -> (B, ..., out).

    The zero convolution of section 3.1 for blocks whose tensors carry their channels last.

    Args:
        in_features: channels of the input.
        out_features: channels of the output; as many as come in when left out.
        device, dtype: where and in what type the parameters are created.
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
        """Set weight and bias to zero. ``nn.Linear`` calls this when it is built."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
