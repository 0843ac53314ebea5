"""ControlNet: the trainable copy of a denoiser's encoder and middle (paper, section 3.2, figure 3).

    x'      = conv_in(z_t; θc) + Z(E(c_i); θz1)                the copy sees noisy latents and condition
    s_1..n  = encoder(x', t, c_t; θc),  m = middle(s_n, t, c_t; θc)
    r_i     = Z(s_i; θz2,i),            r_m = Z(m; θz2,m)      one zero convolution each
    ε       = decoder(middle + r_m, {skip_i + r_i}; θ)         the locked denoiser

| paper          | here                                                                    |
|----------------|-------------------------------------------------------------------------|
| z_t, t         | `latents`, `timestep`                                                   |
| c_t            | `text_states`                                                           |
| c_i, c_f       | `condition`, `hint` = `encode(condition)`                               |
| Z(E(·); θz1)   | `controlnet_cond_embedding` (`HintEncoder`)                             |
| F(·; θc)       | `conv_in`, `down_blocks`, `mid_block` and the embeddings of t and c_t   |
| Z(·; θz2)      | `controlnet_down_blocks` and `controlnet_mid_block`; 13 in all for SD   |
| F(·; θ)        | `tether.base.UNetDenoiser`, which adds the signal to the locked U-Net   |

Parameter names are those of ``diffusers.ControlNetModel``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tether.control.architecture import (
    ENCODER_PARTS,
    build,
    check_same_parameters,
    complete,
    config_of_unet,
    skip_channels,
)
from tether.control.conditioning import Conditioning
from tether.control.control import Control, register
from tether.control.hint import HintEncoder, HintVariant
from tether.control.signal import Signal
from tether.control.zero import ZeroConv2d
from tether.errors import TetherError

__all__ = ["ControlNet"]


@register("controlnet")
class ControlNet(Control):
    """The trainable copy F(·; θc) with its hint encoder and zero convolutions.

    Make one with `from_unet` (to train) or `from_config` (to load weights into); the constructor takes over
    the modules of `encoder`.

    Attributes:
        config: a plain dict that ``diffusers.ControlNetModel.from_config`` accepts. The "paper" hint encoder,
            which diffusers does not know, adds a key "hint" to it.
    """

    conv_in: nn.Conv2d
    time_proj: nn.Module
    time_embedding: nn.Module
    class_embedding: nn.Module | None
    add_time_proj: nn.Module
    add_embedding: nn.Module
    encoder_hid_proj: nn.Module | None
    down_blocks: nn.ModuleList
    mid_block: nn.Module

    def __init__(self, encoder: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        for part in ENCODER_PARTS:
            setattr(self, part, getattr(encoder, part, None))
        self.config = dict(config)
        self.controlnet_cond_embedding = HintEncoder(
            config["conditioning_channels"],
            self.conv_in.out_channels,
            config.get("hint", "released"),
            config["conditioning_embedding_out_channels"],
        )
        channels = skip_channels(self)
        self.controlnet_down_blocks = nn.ModuleList(ZeroConv2d(c) for c in channels)
        self.controlnet_mid_block = ZeroConv2d(channels[-1])

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        condition_channels: int = 3,
        hint: HintVariant = "released",
        hint_channels: Sequence[int] | None = None,
        global_pool_conditions: bool = False,
    ) -> ControlNet:
        """A fresh ControlNet for a UNet: trainable deep copies, zero convolutions, a new hint encoder.

        Args:
            unet: the denoiser (SD 1.x, 2.x, SDXL or any of that family). It is neither changed nor shared.
            condition_channels: channels of the condition image.
            hint: which hint encoder, "released" or "paper".
            hint_channels: its channels; (16, 32, 96, 256) or (16, 32, 64, 128) when left out.
            global_pool_conditions: average the residuals over space, for conditions that say what, not where.

        Returns:
            A ControlNet of the UNet's dtype on the UNet's device, in training mode, all of it trainable.

        Raises:
            TetherError: when diffusers' ControlNet configuration cannot describe this UNet.
        """
        with torch.device("meta"):  # to know the shapes without the numbers
            config = config_of_unet(
                unet,
                conditioning_channels=condition_channels,
                conditioning_embedding_out_channels=HintEncoder(
                    condition_channels, variant=hint, block_out_channels=hint_channels
                ).block_out_channels,
                global_pool_conditions=global_pool_conditions,
                hint=hint,
            )
            described = build(config)
        check_same_parameters(unet, described)

        trainable_copy = nn.Module()
        for part in ENCODER_PARTS:
            setattr(trainable_copy, part, deepcopy(getattr(unet, part, None)))
        control = cls(trainable_copy, complete(described, config)).to(device=unet.device, dtype=unet.dtype)
        return control.requires_grad_(True).train()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ControlNet:
        """A randomly initialised ControlNet of the architecture that `config` describes; works on "meta" too.

        Args:
            config: `ControlNet.config`, or the config.json of a diffusers ControlNet.

        Raises:
            TetherError: when it describes no ControlNet, or one that is not supported.
        """
        model = build(config)
        return cls(model, complete(model, config))

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def pools_globally(self) -> bool:
        """Whether the residuals are averaged over space."""
        return bool(self.config["global_pool_conditions"])

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them: less memory, more time."""
        self._set_gradient_checkpointing(True)

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations again."""
        self._set_gradient_checkpointing(False)

    def _set_gradient_checkpointing(self, enabled: bool) -> None:
        # diffusers' blocks look these two attributes up themselves, layer by layer.
        attributes = {"gradient_checkpointing": enabled, "_gradient_checkpointing_func": _checkpoint}
        for module in (*self.down_blocks.modules(), *self.mid_block.modules()):
            if hasattr(module, "gradient_checkpointing"):
                vars(module).update(attributes)

    def encode(self, condition: Tensor, condition_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
        """Z(E(c_i); θz1): condition (B, C, H, W) in [0, 1] -> hint (B, C0, H/8, W/8).

        Once an image, not once a step. `condition_range` is for controls whose conditions use other values.

        Raises:
            TetherError: as `HintEncoder`.
        """
        if self.config["controlnet_conditioning_channel_order"] == "bgr":
            condition = condition.flip(1)
        return self.controlnet_cond_embedding(condition, condition_range)

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        """The signal of one denoising step, at full strength.

        Args:
            latents: z_t, (B, 4, h, w).
            timestep: t, a number, a scalar tensor or (B,).
            conditioning: c_t; pooled states and extras are needed by the U-Nets that have them.
            hint: c_f of `encode`, (B, C0, h, w), or (1, C0, h, w) for all.

        Returns:
            "skip.i" for each skip connection and "middle"; constant over space with global pooling.

        Raises:
            TetherError: when hint or text states do not fit, or pooled states or extras are missing.
        """
        latents, text_states, hint = (x.to(self.dtype) for x in (latents, conditioning.tokens, hint))
        self._check(latents, text_states, hint)
        embedding, text_states = self._embed(latents, timestep, text_states, conditioning)

        x = self.conv_in(latents) + hint
        skips = [x]
        for block in self.down_blocks:
            x, outputs = block(hidden_states=x, temb=embedding, **_text_for(block, text_states))
            skips += outputs
        middle = self.mid_block(x, embedding, **_text_for(self.mid_block, text_states))

        zeros = zip(self.controlnet_down_blocks, skips, strict=True)
        signal = Signal(
            {f"skip.{k}": zero(skip) for k, (zero, skip) in enumerate(zeros)}
            | {"middle": self.controlnet_mid_block(middle)}
        )
        if self.pools_globally:  # spread out again, without a copy, so that masks and sizes mean what they do
            signal = signal.map(lambda r: r.mean((2, 3), keepdim=True).expand_as(r))
        return signal

    def _embed(
        self, latents: Tensor, timestep: int | float | Tensor, text_states: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """The embedding of t (and of class, pooled text, sizes where the UNet has them); the text states."""
        t = torch.as_tensor(timestep, device=latents.device).reshape(-1).expand(len(latents))
        # The sinusoids are float32 whatever the module is.
        embedding = self.time_embedding(self.time_proj(t).to(self.dtype))
        if self.class_embedding is not None:
            labels = _required(conditioning.extras.get("class_labels"), "class_labels")
            if self.config["class_embed_type"] == "timestep":
                labels = self.time_proj(labels)
            labels = labels.to(self.dtype) if labels.is_floating_point() else labels
            embedding = embedding + self.class_embedding(labels).to(self.dtype)
        if self.config["addition_embed_type"] == "text":
            embedding = embedding + self.add_embedding(text_states)
        elif self.config["addition_embed_type"] == "text_time":
            text_embeds = _required(conditioning.pooled, "pooled text states")
            time_ids = _required(conditioning.extras.get("time_ids"), "time_ids")
            times = self.add_time_proj(time_ids.flatten()).reshape(len(text_embeds), -1)
            embedding = embedding + self.add_embedding(torch.cat([text_embeds, times], dim=-1).to(self.dtype))
        return embedding, text_states if self.encoder_hid_proj is None else self.encoder_hid_proj(text_states)

    def _check(self, latents: Tensor, text_states: Tensor, hint: Tensor) -> None:
        batch, _, height, width = latents.shape
        expected = (batch, self.conv_in.out_channels, height, width)
        if tuple(hint.shape) not in (expected, (1, *expected[1:])):
            factor = self.controlnet_cond_embedding.factor
            raise TetherError(
                f"hint has shape {tuple(hint.shape)}; these latents need {expected}: "
                f"encode a condition of {width * factor}x{height * factor} pixels"
            )
        text_width = self.config["encoder_hid_dim"] or self.config["cross_attention_dim"]
        if text_states.shape[-1] != text_width:
            raise TetherError(
                f"text states have width {text_states.shape[-1]}, this ControlNet was made for {text_width}: "
                "use it with the kind of base model it was trained on"
            )


def _text_for(block: nn.Module, text_states: Tensor) -> dict[str, Tensor]:
    """Only blocks with cross-attention take the text."""
    return {"encoder_hidden_states": text_states} if getattr(block, "has_cross_attention", False) else {}


def _required(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise TetherError(f"this ControlNet needs {name} in its conditioning, as its base model does")
    return tensor


def _checkpoint(module: nn.Module, *inputs: Any) -> Any:
    return cast(Any, checkpoint(module, *inputs, use_reentrant=False))
