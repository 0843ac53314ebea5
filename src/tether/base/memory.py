"""Generates the same image in less memory, at the cost of time.

Attention is computed in slices on devices without a kernel that avoids the whole T x T matrix of attention weights (CPU
and CUDA have one, and slices would cost memory there). The autoencoder works in tiles, which bounds the largest
activations. On an accelerator, text encoders, denoiser and autoencoder stay in main memory, and are moved to the device
only while they run (accelerate's hooks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.models.attention_processor import Attention
from torch import nn

from tether.base.base import Base

__all__ = ["reduce_memory", "slice_attention"]

TILE = 512
"""Side of the autoencoder's tiles in pixels. Images up to this size are the same with and without tiles."""

FLASH_DEVICES = ("cpu", "cuda")
"""Devices whose scaled_dot_product_attention never stores the whole attention matrix."""


def reduce_memory(base: Base, device: torch.device | str | None = None) -> Base:
    """Makes a base use less memory; it is changed in place and returned.

    Args:
        base: in main memory; its parts are moved to `device` only when they are needed.
        device: where it computes; its own device by default.
    """
    device = torch.device(device or base.device)
    base.vae.enable_tiling()
    base.vae.tile_sample_min_size, base.vae.tile_latent_min_size = TILE, TILE // base.latent_factor
    base.vae.enable_slicing()
    if device.type not in FLASH_DEVICES:
        slice_attention(base.unet)
    if device != base.device:
        _take_turns(base, device)
    return base


def slice_attention(module: nn.Module) -> None:
    """Computes every attention of a denoiser or a control one head at a time."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.set_attention_slice(1)


class OneAtATime(ModelHook):
    """Before a network runs, moves the others of its group off the device, and it onto the device."""

    def __init__(self, group: Sequence[nn.Module], device: torch.device) -> None:
        self.group, self.device = group, device

    def pre_forward(self, module: nn.Module, *args: Any, **options: Any) -> tuple[Any, Any]:
        for other in self.group:
            if other is not module:
                other.to("cpu")
        module.to(self.device)
        return send_to_device(args, self.device), send_to_device(options, self.device)


def _take_turns(base: Base, device: torch.device) -> None:
    base.execution_device = device
    parts = base.modules()
    for part in parts:
        add_hook_to_module(part, OneAtATime(parts, device))
