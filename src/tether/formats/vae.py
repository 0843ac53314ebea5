"""The autoencoder's tensors in both layouts.

    original                                    diffusers
    encoder.down.I.block.J                      encoder.down_blocks.I.resnets.J
    encoder.down.I.downsample.conv              encoder.down_blocks.I.downsamplers.0.conv
    decoder.up.(N-1-I).block.J, .upsample.conv  decoder.up_blocks.I.resnets.J, .upsamplers.0.conv
    *.mid.block_1, .attn_1, .block_2            *.mid_block.resnets.0, .attentions.0, .resnets.1
    *.norm_out                                  *.conv_norm_out
    nin_shortcut, norm, q, k, v, proj_out       conv_shortcut, group_norm, to_q, to_k, to_v, to_out.0

The attention of the original layout projects with 1x1 convolutions, that of diffusers with linear layers. Early
diffusers files name the four layers query, key, value and proj_attn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tether.errors import TetherError
from tether.formats.names import Pair

__all__ = ["modern_names", "vae_config", "vae_pairs"]

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
EARLY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def vae_config(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Settings of diffusers' `AutoencoderKL` for tensors of the original layout, except the scaling factor.

    Raises:
        TetherError: if they are not an autoencoder of Stable Diffusion.
    """
    channels: list[int] = []
    while (last := tensors.get(f"{prefix}encoder.down.{len(channels)}.block.0.conv1.weight")) is not None:
        channels.append(last.shape[0])
    layers = 0
    while f"{prefix}encoder.down.0.block.{layers}.conv1.weight" in tensors:
        layers += 1
    first, moments = tensors.get(f"{prefix}encoder.conv_in.weight"), tensors.get(f"{prefix}quant_conv.weight")
    if not channels or first is None or moments is None:
        raise TetherError("its autoencoder does not match Stable Diffusion 1.x, 2.x or XL")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": first.shape[1],
        "out_channels": first.shape[1],
        "latent_channels": moments.shape[0] // 2,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "norm_num_groups": 32,
        "act_fn": "silu",
        "sample_size": 512,
    }


def vae_pairs(levels: int, names: Iterable[str]) -> list[Pair]:
    """The pairs for an autoencoder.

    Args:
        levels: the number of levels of its encoder.
        names: diffusers' names of its tensors.
    """
    pairs = []
    for name in names:
        original = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        original = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", original)
        original = re.sub(
            r"up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)",
            lambda match: (
                f"up.{levels - 1 - int(match[1])}." + (f"block.{match[3]}" if match[2] == "resnets" else "upsample")
            ),
            original,
        )
        original = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", original)
        original = original.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        attention = re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)", original)
        if attention:
            original = f"{attention[1]}mid.attn_1.{ATTENTION[attention[2]]}.{attention[3]}"
        square = attention is not None and attention[2] != "group_norm" and attention[3] == "weight"
        pairs.append(Pair(original, (name,), "square" if square else "same"))
    return pairs


def modern_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a diffusers autoencoder of any version under today's names."""
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)", name)
        found[f"{match[1]}{EARLY[match[2]]}.{match[3]}" if match else name] = tensor
    return found
