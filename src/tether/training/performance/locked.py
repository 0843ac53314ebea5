"""Convolutions and linear layers that keep only what the backward pass needs.

A convolution y = w * x, as a linear layer y = x wᵀ, has two gradients: ∂L/∂x, which needs w, and ∂L/∂w, which needs x.

*Locked layers.* PyTorch's convolution keeps x for both, locked or not. Through a locked decoder only ∂L/∂x flows, so x
is not needed: it is a third of the activations of a residual block. (For linear layers PyTorch does this by itself.)

*Trained layers in mixed precision.* Autocast copies w to the type of the computation, and all layers' copies are kept
until the backward pass: half as much again as the weights. Here w itself is kept, which exists anyway, and cast a
second time in the backward pass. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear
from torch.overrides import TorchFunctionMode

__all__ = ["locked_convolutions", "uncopied_weights"]


class _Conv2d(torch.autograd.Function):
    """conv2d; a trained weight is used in the type of `x`, and only then is `x` kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]) -> Tensor:
        trained = weight.requires_grad
        ctx.save_for_backward(weight, x if trained else None)
        ctx.options, ctx.shape, ctx.dtype = options, x.shape, x.dtype
        ctx.bias = None if bias is None or not bias.requires_grad else bias.dtype
        if trained:
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return conv2d(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        gradient = gradients[0]
        stride, padding, dilation, groups = (*ctx.options, *(1, 0, 1, 1)[len(ctx.options) :])
        pairs = [[n, n] if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
        if x is None:
            x = gradient.new_empty(1).expand(ctx.shape)  # only its shape is read
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias is not None]
        sizes = [weight.shape[0]] if wanted[2] else None
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient, x, weight.to(gradient.dtype), sizes, *pairs, False, [0], groups, wanted
        )
        return (
            of_x.to(ctx.dtype) if wanted[0] else None,
            of_weight.to(weight.dtype) if wanted[1] else None,
            of_bias.to(ctx.bias) if wanted[2] else None,
            None,
        )


class _Linear(torch.autograd.Function):
    """linear in the type of `x`, for a trained weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.bias = None if bias is None or not bias.requires_grad else bias.dtype
        return linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        gradient = gradients[0]
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = gradient @ weight.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        of_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return (
            of_x,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if ctx.bias is None else rows.sum(0).to(ctx.bias),
        )


class locked_convolutions(TorchFunctionMode):
    """Inside, a 2d convolution whose parameters take no gradient keeps no input for the backward pass."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is conv2d and not kwargs and len(args) >= 3 and torch.is_grad_enabled():
            x, weight, bias, *options = args
            locked = not weight.requires_grad and (bias is None or not bias.requires_grad)
            if locked and _plain(options) and x.requires_grad:
                return _Conv2d.apply(x, weight, bias, tuple(options))
        return func(*args, **kwargs)


class uncopied_weights(TorchFunctionMode):
    """Inside, under autocast, trained convolutions and linear layers keep no copies of their weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (conv2d, linear) and not kwargs and len(args) >= 3 and torch.is_grad_enabled():
            x, weight, bias, *options = args
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
            # A weight that is not a leaf is a view of a tensor that FSDP manages.
            if weight.requires_grad and weight.is_leaf and weight.dtype != dtype and _plain(options):
                x = x.to(dtype)
                with torch.autocast(kind, enabled=False):
                    if func is linear:
                        return _Linear.apply(x, weight, bias)
                    return _Conv2d.apply(x, weight, bias, tuple(options))
        return func(*args, **kwargs)


def _plain(options: list[Any]) -> bool:
    """Whether a convolution's options are numbers; "same" and "valid" are left to PyTorch."""
    return not any(isinstance(option, str) for option in options)
