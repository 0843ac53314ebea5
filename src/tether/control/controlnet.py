"""ControlNet: the trainable copy of a denoiser's encoder and middle (arXiv:2302.05543, section 3.2, figure 3).

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
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tether.control.architecture import (
    ENCODER_PARTS,
    assemble,
    build,
    check_same_parameters,
    complete,
    config_of_unet,
    first_layers,
    with_parts,
)
from tether.control.conditioning import Conditioning
from tether.control.control import Control, Steerable, register
from tether.control.files import control_of
from tether.control.hint import HintEncoder, HintVariant
from tether.control.load import load_control
from tether.control.signal import Signal
from tether.control.store import write_folder
from tether.control.zero import ZeroConv2d
from tether.errors import TetherError
from tether.files.materialize import materialize, without_values
from tether.formats.families import short_name
from tether.kinds import find_kind

__all__ = ["ControlNet"]


@register("controlnet")
class ControlNet(Control):
    """The trainable copy F(·; θc) with its hint encoder and zero convolutions.

    Make one with `from_unet` or `from_base` (to train), or open one with `load`.

    Args:
        parts: its modules by name, see `tether.control.architecture.assemble`.
        config: a dict that ``diffusers.ControlNetModel.from_config`` accepts. The "paper" hint encoder, which
            diffusers does not know, adds a key "hint" to it.
    """

    conv_in: nn.Conv2d
    time_proj: nn.Module
    time_embedding: nn.Module
    class_embedding: nn.Module | None
    add_time_proj: nn.Module
    add_embedding: nn.Module
    encoder_hid_proj: nn.Module | None
    down_blocks: nn.ModuleList
    mid_block: nn.Module  # None of a shallow copy
    controlnet_cond_embedding: HintEncoder
    controlnet_down_blocks: nn.ModuleList
    controlnet_mid_block: ZeroConv2d

    def __init__(self, parts: Mapping[str, nn.Module | None], config: Mapping[str, Any]) -> None:
        super().__init__()
        for name, module in parts.items():
            setattr(self, name, module)
        self.config = dict(config)

    @classmethod
    def from_unet(
        cls,
        unet: Any,
        condition_channels: int = 3,
        hint: HintVariant = "released",
        hint_channels: Sequence[int] | None = None,
        global_pool_conditions: bool = False,
    ) -> Self:
        """A new ControlNet for a U-Net: trainable deep copies, zero convolutions, a new hint encoder.

        Args:
            unet: diffusers' ``UNet2DConditionModel`` (SD 1.x, 2.x, SDXL, ...). It is neither changed nor shared.
            condition_channels: channels of the condition image.
            hint: the variant of the hint encoder, see `tether.control.hint`.
            hint_channels: its channels; by default (16, 32, 96, 256), or (16, 32, 64, 128) for "paper".
            global_pool_conditions: average the signal over space, for conditions that say what, not where.

        Returns:
            A ControlNet of the U-Net's dtype on the U-Net's device, in training mode, all of it trainable.

        Raises:
            TetherError: when diffusers' ControlNet configuration cannot describe this U-Net.
        """
        with without_values():
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

        copies = SimpleNamespace(**{part: deepcopy(getattr(unet, part, None)) for part in ENCODER_PARTS})
        settings = complete(described, config)
        control = cls(assemble(copies, settings), settings).to(device=unet.device, dtype=unet.dtype)
        return control.requires_grad_(True).train()

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        """`from_unet` of the base's denoiser.

        Raises:
            TetherError: as `from_unet`.
        """
        return cls.from_unet(base.denoiser.network, **settings)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A randomly initialized ControlNet of the architecture that `config` describes; works on "meta" too.

        Args:
            config: `ControlNet.config`, or the config.json of a diffusers ControlNet.

        Raises:
            TetherError: when it does not describe a ControlNet, or one that is not supported.
        """
        model = build(config)
        settings = complete(model, config)
        return cls(assemble(model, settings), settings)

    @classmethod
    def load(
        cls,
        ref: str | Path,
        *,
        base: Steerable | None = None,
        kind: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> Self:
        """Opens a ControlNet for inference; arguments as `tether.load_control`.

        Folders and files may be in diffusers' layout, or files in the original layout: whole, pruned, without prefix,
        or a difference to the base. Weights of the right dtype stay mapped from their file.

        Raises:
            TetherError: as `tether.load_control`, or when it is a control of another family.
        """
        control = load_control(ref, base=base, kind=kind, dtype=dtype, device=device, revision=revision)
        if not isinstance(control, cls):
            raise TetherError(f"{ref}: expected a {cls.__name__}, found a control of family {control.family!r}")
        return control

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        base: Steerable | None = None,
        kind: str | None = None,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        unet = None if base is None else base.denoiser.network.state_dict()
        part = control_of(path, base_unet=unet, kind=kind, name=name)
        control = cls(part.modules, part.settings)
        materialize(control, part.tensors, dtype, part.what)
        control.kind, control.sides = part.kind, part.sides
        return control

    def save(self, path: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that ``diffusers.ControlNetModel.from_pretrained`` opens, as a whole or not at all.

        Args:
            path: the folder; a control that is there is replaced, a folder with anything else in it is not.
            dtype: what the weights are cast to; by default they stay as they are.

        Raises:
            TetherError: when it cannot be written, a weight is NaN or infinite, or a folder is there that holds
                anything but a control, or is the working directory or above it.
        """
        write_folder(Path(path), self.state_dict(), self.saved_config(), kind=self.kind, sides=self.sides, dtype=dtype)

    def saved_config(self) -> dict[str, Any]:
        return {**self.config, "_class_name": "ControlNetModel"}

    @property
    def condition_channels(self) -> int:
        return self.config["conditioning_channels"]

    @property
    def points(self) -> dict[str, int]:
        zeros = [cast(nn.Conv2d, zero) for zero in self.controlnet_down_blocks]
        skips = {f"skip.{k}": zero.out_channels for k, zero in enumerate(zeros)}
        return skips | {"middle": self.controlnet_mid_block.out_channels}

    @property
    def text_width(self) -> int:
        """D of the text states it reads."""
        return self.config["encoder_hid_dim"] or self.config["cross_attention_dim"]

    def check_fits(self, base: Steerable) -> None:
        """Checks that this control was made for a denoiser of the base's architecture.

        Raises:
            TetherError: naming both: "control canny has 768-wide text states (SD 1.x), base sd21 has 1024 (SD 2.x)".
        """
        spec = base.denoiser.spec
        points = {point.name: point.channels for point in spec.points if point.name.startswith(("skip.", "middle"))}
        # A denoiser for inpainting takes more channels than its latents have; a control reads the latents alone.
        for words, ours, theirs in (
            ("-wide text states", self.text_width, spec.text_width),
            ("-channel latents", self.conv_in.in_channels, spec.latent_channels),
            ("-wide pooled text states", self._pooled_width, spec.pooled_width),
            (" injection points", len(self.points), len(points)),
        ):
            if ours != theirs:
                ours, theirs = ours or 0, theirs or 0
                names = [short_name(width) if "text states" in words else None for width in (ours, theirs)]
                made = [f" ({name})" if name else "" for name in names]
                raise TetherError(
                    f"control {self.name} has {ours}{words}{made[0]}, base {base.name} has {theirs}{made[1]}: "
                    "use a control that was made for this kind of base"
                )
        super().check_fits(base)

    @property
    def _pooled_width(self) -> int | None:
        if self.config["addition_embed_type"] != "text_time":
            return None
        return self.config["projection_class_embeddings_input_dim"] - 6 * self.config["addition_time_embed_dim"]

    @property
    def device(self) -> torch.device:
        return self.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    @property
    def pools_globally(self) -> bool:
        """Whether the signal is averaged over space."""
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

    def encode(self, condition: Tensor, condition_range: tuple[float, float] | None = None) -> Tensor:
        """Z(E(c_i); θz1): condition `(B, C, H, W)` -> hint `(B, C0, H/8, W/8)`; once an image, not once a step.

        Args:
            condition: values in `condition_range`.
            condition_range: by default that of the control's kind: [0, 1], or [-1, 1] for inpainting.

        Raises:
            TetherError: as `HintEncoder`.
        """
        if condition_range is None:
            condition_range = find_kind(self.kind).value_range
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
        signal = self._before_pooling(latents, timestep, conditioning, hint)
        return signal.pooled() if self.pools_globally else signal

    def forward(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        hint: Tensor,
        *,
        pooled: bool = True,
    ) -> Signal:
        make = self.signal if pooled else self._before_pooling
        return make(latents, timestep, conditioning, hint)

    def _before_pooling(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        latents, text_states, hint = (x.to(self.dtype) for x in (latents, conditioning.tokens, hint))
        self._check(latents, text_states, hint)
        embedding, text_states = self._embed(latents, timestep, text_states, conditioning)

        x = self.conv_in(latents) + hint
        skips = [x]
        for block in self.down_blocks:
            x, outputs = block(hidden_states=x, temb=embedding, **_text_for(block, text_states))
            skips += outputs
        # Before the zero convolutions: the order of gradients is the order of their sum, which rounds.
        middle = None
        if self.mid_block is not None:
            middle = self.mid_block(x, embedding, **_text_for(self.mid_block, text_states))
        zeros = zip(self.controlnet_down_blocks, skips, strict=True)
        signal = {f"skip.{k}": zero(skip) for k, (zero, skip) in enumerate(zeros)}
        return Signal(signal if middle is None else signal | {"middle": self.controlnet_mid_block(middle)})

    def shallow(self, skips: int) -> Self:
        zeros = self.controlnet_down_blocks[:skips]
        parts = {"down_blocks": first_layers(self.down_blocks, skips), "controlnet_down_blocks": zeros}
        return with_parts(self, {**parts, "mid_block": None, "controlnet_mid_block": None})

    def _embed(
        self, latents: Tensor, timestep: int | float | Tensor, text_states: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """The embedding of t (and of class, pooled text and sizes, for U-Nets that have them); the text states."""
        # `shape`, not `len`, here and below: a traced graph serves other batches too.
        t = torch.as_tensor(timestep, device=latents.device).reshape(-1).expand(latents.shape[0])
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
            times = self.add_time_proj(time_ids.flatten()).reshape(text_embeds.shape[0], -1)
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
        if text_states.shape[-1] != self.text_width:
            raise TetherError(
                f"text states have width {text_states.shape[-1]}, this ControlNet was made for {self.text_width}: "
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
