"""Backpropagation through a locked denoiser without keeping what only its weights' gradients would need.

A convolution y = w * x has two gradients: ∂L/∂x, which needs w, and ∂L/∂w, which needs x. PyTorch keeps x for both,
locked or not. Through a locked decoder only ∂L/∂x flows, so x need not be kept: it is a third of the activations of
a residual block. (For linear layers PyTorch sees this by itself.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.overrides import TorchFunctionMode

__all__ = ["locked_convolutions"]


class _LockedConv2d(torch.autograd.Function):
    """conv2d whose backward pass gives the gradient of its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.options, ctx.shape, ctx.dtype = options, x.shape, x.dtype
        return conv2d(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        gradient = gradients[0]
        stride, padding, dilation, groups = (*ctx.options, *(1, 0, 1, 1)[len(ctx.options) :])
        pairs = [[n, n] if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
        x = gradient.new_empty(1).expand(ctx.shape)  # only its shape is read
        weight = weight.to(gradient.dtype)
        wanted = [True, False, False]
        of_x = torch.ops.aten.convolution_backward(gradient, x, weight, None, *pairs, False, [0], groups, wanted)[0]
        return of_x.to(ctx.dtype), None, None, None


class locked_convolutions(TorchFunctionMode):
    """Inside, a 2d convolution whose parameters take no gradient keeps no input for the backward pass."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is conv2d and not kwargs and len(args) >= 3 and torch.is_grad_enabled():
            x, weight, bias, *options = args
            locked = not weight.requires_grad and (bias is None or not bias.requires_grad)
            plain = not any(isinstance(option, str) for option in options)
            if locked and plain and x.requires_grad:
                return _LockedConv2d.apply(x, weight, bias, tuple(options))
        return func(*args, **kwargs)
