"""The architecture of a denoiser's encoder, read from the shapes of its tensors.

Both layouts name the same parts: a first convolution, levels of a few residual layers each (with a transformer of some
depth after each layer, or none), a downsampler between levels, a middle. Only the number of heads is not in the shapes:
SD 1.x, whose transformers project with convolutions, has 8; all later models have heads of 64 channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from torch import Tensor

from tether.errors import TetherError
from tether.formats.families import FamilyName

__all__ = [
    "EncoderShape",
    "default_settings",
    "differing_settings",
    "encoder_of_diffusers",
    "encoder_of_original",
    "shape_to_store",
]

MAX_LEVELS = 8
MAX_LAYERS = 8
SDXL_TEXT_WIDTH = 2048


@dataclass(frozen=True)
class EncoderShape:
    """The encoder and middle of a denoiser, or of a ControlNet for it.

    Attributes:
        in_channels: channels of the latents (9 for inpainting).
        channels: channels of each level.
        layers: residual layers per level.
        depths: depth of the transformers of each level; 0 without transformers.
        middle_depth: depth of the middle's transformer; 0 if it is one residual layer (small controls for SDXL).
        text_width: width of the text states.
        linear: whether transformers project with linear layers, and heads have 64 channels.
        added_width: width of what SDXL adds to the time embedding; None for other families.
        pooled_text: whether pooled text states are added to the time embedding (the shipped base).
    """

    in_channels: int
    channels: tuple[int, ...]
    layers: int
    depths: tuple[int, ...]
    middle_depth: int
    text_width: int
    linear: bool
    added_width: int | None
    pooled_text: bool = False

    @property
    def family(self) -> FamilyName:
        """The family of Stable Diffusion with such an encoder."""
        if self.added_width is not None:
            return "sdxl"
        return "sd2" if self.linear else "sd1"

    def config(self) -> dict[str, Any]:
        """The settings that diffusers' `UNet2DConditionModel` and `ControlNetModel` share.

        Raises:
            TetherError: if diffusers has no settings for this architecture.
        """
        depths = list(self.depths[:-1]) + [self.depths[-1] or self.middle_depth]
        depths = [depth or 1 for depth in depths]
        if self.middle_depth and depths[-1] != self.middle_depth:
            raise TetherError(
                f"transformers of depth {depths[-1]} on the last level and {self.middle_depth} in the middle are not "
                "supported"
            )
        settings: dict[str, Any] = {
            "in_channels": self.in_channels,
            "block_out_channels": list(self.channels),
            "layers_per_block": self.layers,
            "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in self.depths],
            "cross_attention_dim": self.text_width,
            "attention_head_dim": [max(1, c // 64) for c in self.channels] if self.linear else 8,
            "transformer_layers_per_block": depths if max(depths) > 1 else 1,
            "use_linear_projection": self.linear,
        }
        if not self.middle_depth:
            settings["mid_block_type"] = "UNetMidBlock2D"
        if self.added_width is not None:
            settings |= {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": self.added_width,
            }
        elif self.pooled_text:
            settings["addition_embed_type"] = "text"
        return settings

    def unet_config(self, out_channels: int) -> dict[str, Any]:
        """The settings of the denoiser with this encoder, whose decoder mirrors it; otherwise as `config`."""
        settings = self.config()
        decoder = [
            "UpBlock2D" if kind == "DownBlock2D" else "CrossAttnUpBlock2D"
            for kind in reversed(settings["down_block_types"])
        ]
        return settings | {"out_channels": out_channels, "up_block_types": decoder}


def shape_to_store(tensors: Mapping[str, Tensor], what: str) -> EncoderShape:
    """The shape of an encoder that is written in the original layout.

    Args:
        tensors: a denoiser's or a ControlNet's, under diffusers' names.
        what: its name in messages.

    Raises:
        TetherError: if the layout does not have such an encoder.
    """
    try:
        shape = encoder_of_diffusers(tensors)
        shape.config()
    except TetherError as error:
        raise TetherError(f"{what} cannot be stored in the original layout: {error}") from None
    return shape


def default_settings(model: type) -> dict[str, Any]:
    """The settings that a diffusers model is built from, with their defaults."""
    parameters = signature(model.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not Parameter.empty}


def differing_settings(config: Mapping[str, Any], implied: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """The settings that are not those that a reader of the original layout assumes.

    Args:
        config: of the network, every setting spelled out.
        implied: what a reader assumes.
        levels: of the network: one value is the same as a list with that value for each.
    """

    def spread(value: Any) -> Any:
        return list(value) if isinstance(value, (list, tuple)) else [value] * levels

    given = {name: config[name] for name in implied if name in config}
    return {name: value for name, value in given.items() if spread(value) != spread(implied[name])}


def encoder_of_original(tensors: Mapping[str, Tensor], prefix: str) -> EncoderShape:
    """Reads the shape from `input_blocks.*` and `middle_block.*` below `prefix`.

    Raises:
        TetherError: if no Stable Diffusion has such blocks.
    """
    levels: list[list[tuple[int, int]]] = [[]]
    for k in range(1, MAX_LEVELS * (MAX_LAYERS + 1)):
        block = f"{prefix}input_blocks.{k}."
        if f"{block}0.op.weight" in tensors:
            levels.append([])
        elif f"{block}0.out_layers.3.weight" in tensors:
            out = tensors[f"{block}0.out_layers.3.weight"].shape[0]
            levels[-1].append((out, _depth(tensors, f"{block}1.")))
        else:
            break
    return _shape(
        tensors,
        levels,
        first=f"{prefix}input_blocks.0.0.weight",
        middle=f"{prefix}middle_block.1.",
        added=f"{prefix}label_emb.0.0.weight",
        pooled=f"{prefix}encoder_pooling.1.q_proj.weight",
    )


def encoder_of_diffusers(tensors: Mapping[str, Tensor]) -> EncoderShape:
    """Reads the shape from `down_blocks.*` and `mid_block.*`.

    Raises:
        TetherError: if no Stable Diffusion has such blocks.
    """
    levels: list[list[tuple[int, int]]] = []
    for k in range(MAX_LEVELS):
        level: list[tuple[int, int]] = []
        for j in range(MAX_LAYERS):
            last = tensors.get(f"down_blocks.{k}.resnets.{j}.conv2.weight")
            if last is None:
                break
            level.append((last.shape[0], _depth(tensors, f"down_blocks.{k}.attentions.{j}.")))
        if not level:
            break
        levels.append(level)
    return _shape(
        tensors,
        levels,
        first="conv_in.weight",
        middle="mid_block.attentions.0.",
        added="add_embedding.linear_1.weight",
        pooled="add_embedding.pool.q_proj.weight",
    )


def _depth(tensors: Mapping[str, Tensor], transformer: str) -> int:
    """The number of blocks of the transformer below this prefix."""
    depth = 0
    while f"{transformer}transformer_blocks.{depth}.norm1.weight" in tensors:
        depth += 1
    return depth


def _shape(
    tensors: Mapping[str, Tensor], levels: list[list[tuple[int, int]]], first: str, middle: str, added: str, pooled: str
) -> EncoderShape:
    regular = all(level and len(set(level)) == 1 and len(level) == len(levels[0]) for level in levels)
    text = next(
        (t for name, t in tensors.items() if re.search(re.escape(middle) + r".*attn2\.to_k\.weight$", name)), None
    )
    projection = tensors.get(f"{middle}proj_in.weight")
    # Small controls for SDXL have no transformer anywhere, and so no tensor as wide as the text states.
    small = added in tensors and not any(depth for level in levels for _, depth in level) and projection is None
    whole = text is not None and projection is not None
    if not levels or not regular or first not in tensors or not (whole or small):
        raise TetherError("its blocks do not match Stable Diffusion 1.x, 2.x or XL")
    return EncoderShape(
        in_channels=tensors[first].shape[1],
        channels=tuple(level[0][0] for level in levels),
        layers=len(levels[0]),
        depths=tuple(level[0][1] for level in levels),
        middle_depth=_depth(tensors, middle),
        text_width=SDXL_TEXT_WIDTH if text is None else text.shape[-1],
        linear=projection is None or projection.ndim == 2,
        added_width=tensors[added].shape[1] if added in tensors else None,
        pooled_text=pooled in tensors,
    )
