"""Which parts of a U-Net a ControlNet copies, and its configuration.

The configuration is that of ``diffusers.ControlNetModel``, which has fewer variants of the U-Net than
``UNet2DConditionModel``. A U-Net whose encoder it cannot describe is an error that names the setting, because a
ControlNet of it could not be loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import diffusers
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from tether.control.hint import HintEncoder
from tether.control.zero import ZeroConv2d
from tether.errors import TetherError
from tether.formats.shape import default_settings

__all__ = [
    "ENCODER_PARTS",
    "assemble",
    "build",
    "check_same_parameters",
    "complete",
    "config_of_unet",
    "first_layers",
    "skip_channels",
    "with_parts",
]

ENCODER_PARTS = (
    "conv_in",
    "time_proj",
    "time_embedding",
    "class_embedding",
    "add_time_proj",
    "add_embedding",
    "encoder_hid_proj",
    "down_blocks",
    "mid_block",
)
"""The modules of a U-Net's encoder and middle; they have the same names in a ControlNet."""

_SUPPORTED: dict[str, tuple[str | None, ...]] = {
    "addition_embed_type": (None, "text", "text_time"),
    "encoder_hid_dim_type": (None, "text_proj"),
}
# Settings of a U-Net that do not change what its encoder computes (dropout does, but only in training).
_NOT_OF_THE_ENCODER = {
    "sample_size",
    "out_channels",
    "up_block_types",
    "reverse_transformer_layers_per_block",
    "conv_out_kernel",
    "dropout",
}


def config_of_unet(unet: UNet2DConditionModel, **control_settings: Any) -> dict[str, Any]:
    """The ControlNet configuration for a U-Net.

    Args:
        unet: the denoiser.
        **control_settings: settings that a U-Net does not have: channels of the condition, of the hint encoder, ...

    Raises:
        TetherError: when the U-Net has a setting that a ControlNet configuration cannot express.
    """
    known = default_settings(ControlNetModel)
    for name, default in default_settings(UNet2DConditionModel).items():
        value = unet.config.get(name, default)
        if name not in known and name not in _NOT_OF_THE_ENCODER and value != default:
            raise TetherError(f"cannot control a U-Net with {name}={value!r}: only {default!r} is supported")
    return {name: unet.config[name] for name in known if name in unet.config} | control_settings


def build(config: Mapping[str, Any]) -> ControlNetModel:
    """diffusers' ControlNet for a configuration, randomly initialized, on the current device ("meta" included).

    Raises:
        TetherError: when the configuration does not describe a ControlNet, or one that is not supported.
    """
    known = {name: value for name, value in config.items() if name in default_settings(ControlNetModel)}
    for name, supported in _SUPPORTED.items():
        if known.get(name) not in supported:
            raise TetherError(f"cannot build a ControlNet with {name}={known[name]!r}: it must be one of {supported}")
    try:
        return ControlNetModel(**known)
    except (ValueError, TypeError, IndexError) as error:
        raise TetherError(f"this configuration does not describe a ControlNet: {str(error).splitlines()[0]}") from error


def assemble(encoder: Any, config: Mapping[str, Any]) -> dict[str, nn.Module | None]:
    """The modules of a ControlNet by name: the encoder's, taken over, and a new hint encoder and zero convolutions.

    Args:
        encoder: a module that has the `ENCODER_PARTS`.
        config: of the ControlNet, see `complete`.
    """
    parts: dict[str, nn.Module | None] = {part: getattr(encoder, part, None) for part in ENCODER_PARTS}
    channels = skip_channels(encoder)
    return parts | {
        "controlnet_cond_embedding": HintEncoder(
            config["conditioning_channels"],
            channels[0],
            config.get("hint", "released"),
            config["conditioning_embedding_out_channels"],
        ),
        "controlnet_down_blocks": nn.ModuleList(ZeroConv2d(c) for c in channels),
        "controlnet_mid_block": ZeroConv2d(channels[-1]),
    }


def complete(model: ControlNetModel, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with every setting spelled out, from `model`, as a plain dict that diffusers accepts."""
    settings = {name: model.config[name] for name in default_settings(ControlNetModel)}
    # Lists, as in JSON, so that a config is the same before it is written and after it is read.
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    if config.get("hint", "released") != "released":
        settings["hint"] = config["hint"]
    return {"_class_name": "ControlNetModel", "_diffusers_version": diffusers.__version__} | settings


def check_same_parameters(unet: nn.Module, described: nn.Module) -> None:
    """Checks that the U-Net's encoder has the parameters that its configuration describes.

    Raises:
        TetherError: naming a parameter that differs.
    """
    for part in ENCODER_PARTS:
        ours, theirs = getattr(unet, part, None), getattr(described, part, None)
        shapes = [
            {} if module is None else {key: tuple(value.shape) for key, value in module.state_dict().items()}
            for module in (ours, theirs)
        ]
        if shapes[0] != shapes[1]:
            key = next(iter(dict(set(shapes[0].items()) ^ set(shapes[1].items()))))
            raise TetherError(
                f"cannot control this U-Net: its configuration does not describe {part}.{key}; "
                "fuse or remove adapters (LoRA) first"
            )


def skip_channels(encoder: Any) -> tuple[int, ...]:
    """Channels of a U-Net's or ControlNet's skip connections: after conv_in, each layer, each downsampler."""
    channels = [encoder.conv_in.out_channels]
    for block in encoder.down_blocks:
        channels += [layer.out_channels for layer in (*block.resnets, *(block.downsamplers or ()))]
    return tuple(channels)


def with_parts(module: Any, parts: Mapping[str, nn.Module | None]) -> Any:
    """A module that is `module` with other parts by some names; it shares everything else with it.

    Hooks of accelerate, which move a module's weights when it is called, stay with the module: they hold its `forward`.
    """
    part = copy(module)
    for name in ("forward", "_old_forward", "_hf_hook"):
        vars(part).pop(name, None)
    part._modules = {**module._modules, **parts}
    return part


def first_layers(blocks: Any, skips: int) -> nn.ModuleList:
    """An encoder's blocks up to the layer that gives skip connection `skips - 1`, of which conv_in gives the first."""
    found, left = [], skips - 1
    for block in blocks:
        if left < 1:
            break
        taken, downs = min(left, len(block.resnets)), block.downsamplers
        parts = {name: getattr(block, name)[:taken] for name in ("resnets", "attentions") if hasattr(block, name)}
        left -= taken
        found.append(with_parts(block, {**parts, "downsamplers": downs if left and downs else None}))
        left -= len(downs or ())
    return nn.ModuleList(found)
