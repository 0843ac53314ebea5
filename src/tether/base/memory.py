"""Less memory for the same picture, at the price of time.

What is large differs from machine to machine. Attention is computed in slices where the device has no kernel that
avoids the whole matrix of T x T weights (CPU and CUDA have one, and slices would cost memory there). The autoencoder
works tile by tile, which bounds the largest activations of all. On an accelerator, text encoders, denoiser and
autoencoder wait in the machine's own memory and are moved over only while they work (accelerate's hooks).
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
"""Side of the autoencoder's tiles in pixels; pictures up to this size are the same with and without tiles."""

FLASH_DEVICES = ("cpu", "cuda")
"""Devices whose scaled_dot_product_attention never holds the whole attention matrix."""


def reduce_memory(base: Base, device: torch.device | str | None = None) -> Base:
    """Makes a base draw in less memory; changed in place and returned.

    Args:
        base: in the machine's memory; its parts are not moved to `device` before they are needed.
        device: where it computes; its own device when left out.
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
    """Computes every attention of a denoiser or a control head by head."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.set_attention_slice(1)


class OneAtATime(ModelHook):
    """Moves a network to the device when it is called, and the others of its group away from it before."""

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
