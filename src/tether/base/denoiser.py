"""The denoiser of a base: what predicts, where controls can act on it, and the noise process it was trained on.

    prediction = predict(z_t, t, c_t, signal)

`Denoiser` is the interface; `UNetDenoiser` is it for diffusers' `UNet2DConditionModel`. Samplers, training and engines
use the interface and never a U-Net.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tether.base.noise import NoiseProcess
from tether.control.architecture import skip_channels
from tether.control.conditioning import Conditioning
from tether.control.signal import Signal
from tether.errors import TetherError

__all__ = ["Denoiser", "DenoiserSpec", "InjectionPoint", "UNetDenoiser"]


@dataclass(frozen=True)
class InjectionPoint:
    """Where a control can add a tensor.

    Attributes:
        name: its name in a `Signal`.
        channels: channels of the feature there.
        scale: side of the latents divided by the side of the feature: 1 at the latents' size, 8 at an eighth of it.
    """

    name: str
    channels: int
    scale: int


@dataclass(frozen=True)
class DenoiserSpec:
    """What everything else needs to know of a denoiser.

    Attributes:
        latent_channels: channels of z_t, and of the prediction.
        input_channels: channels of its input: those of z_t, and for inpainting models mask and masked image too.
        latent_factor: image pixels per latent pixel along one side.
        text_width: D of the text states.
        points: its injection points, in the encoder's order.
        noise: its noise process.
    """

    latent_channels: int
    input_channels: int
    latent_factor: int
    text_width: int
    points: tuple[InjectionPoint, ...]
    noise: NoiseProcess


class Denoiser(ABC):
    """ε(z_t, t, c_t; θ) with a signal added at its injection points.

    Attributes:
        spec: see `DenoiserSpec`.
        network: the module that computes it.
    """

    spec: DenoiserSpec
    network: nn.Module

    @abstractmethod
    def predict(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None = None,
    ) -> Tensor:
        """The prediction, `(B, latent_channels, h, w)`.

        Args:
            latents: z_t, `(B, input_channels, h, w)`.
            timestep: t; a number, a scalar tensor or `(B,)`.
            conditioning: c_t, of batch B.
            signal: of one control, or the sum of several; None predicts exactly as the base alone.

        Raises:
            TetherError: when the signal was made for another denoiser.
        """


class UNetDenoiser(Denoiser):
    """diffusers' conditional U-Net (figure 3 of arXiv:2302.05543).

    Injection points: "skip.i" for skip connection i, "middle" for the output of the middle block (the points of a
    ControlNet), and "block.i" for the output of encoder block i (those of a T2I-Adapter).

    Args:
        unet: the network; used, not copied.
        noise: its noise process.
        latent_factor: of the base's autoencoder.
    """

    def __init__(self, unet: UNet2DConditionModel, noise: NoiseProcess, latent_factor: int = 8) -> None:
        self.network: UNet2DConditionModel = unet
        self.noise, self.latent_factor = noise, latent_factor

    @cached_property
    def spec(self) -> DenoiserSpec:  # type: ignore[override]
        config = self.network.config
        return DenoiserSpec(
            latent_channels=config["out_channels"],
            input_channels=config["in_channels"],
            latent_factor=self.latent_factor,
            text_width=config["encoder_hid_dim"] or config["cross_attention_dim"],
            points=_points(self.network),
            noise=self.noise,
        )

    @cached_property
    def _channels(self) -> dict[str, int]:
        return {point.name: point.channels for point in self.spec.points}

    def predict(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None = None,
    ) -> Tensor:
        extras = dict(conditioning.extras)
        inputs: dict[str, Any] = {"class_labels": extras.pop("class_labels", None)}
        if conditioning.pooled is not None:
            extras["text_embeds"] = conditioning.pooled
        inputs["added_cond_kwargs"] = extras or None
        if signal:
            inputs |= self._residuals(latents, signal)
        # Autocast casts for linear layers, but not for the layer norm of pooled text (`addition_embed_type`).
        tokens = conditioning.tokens.to(self.network.dtype)
        return self.network(latents, timestep, encoder_hidden_states=tokens, return_dict=False, **inputs)[0]

    def _residuals(self, latents: Tensor, signal: Signal) -> dict[str, Any]:
        """The signal as diffusers' U-Net takes it."""
        wrong = [name for name, tensor in signal.items() if self._channels.get(name) != tensor.shape[1]]
        if wrong:
            raise TetherError(
                f"this signal fits another denoiser ({wrong[0]} has {signal[wrong[0]].shape[1]} channels, expected "
                f"{self._channels.get(wrong[0], 'no such point')}): use the control with the base model it was made for"
            )
        if not torch.is_autocast_enabled(latents.device.type):
            signal = signal.to(self.network.dtype)
        found: dict[str, Any] = {}
        skips = [point for point in self.spec.points if point.name.startswith("skip.")]
        blocks = [point for point in self.spec.points if point.name.startswith("block.")]
        if any(name == "middle" or name.startswith("skip.") for name in signal):
            # diffusers takes these all or none; a point without a tensor gets a zero, which adds nothing.
            found["down_block_additional_residuals"] = tuple(signal.get(p.name, _zero(latents)) for p in skips)
            found["mid_block_additional_residual"] = signal.get("middle", _zero(latents))
        if any(name.startswith("block.") for name in signal):
            found["down_intrablock_additional_residuals"] = [signal.get(p.name, _zero(latents)) for p in blocks]
        return found


def _zero(like: Tensor) -> Tensor:
    return like.new_zeros(1, 1, 1, 1)


def _points(unet: Any) -> tuple[InjectionPoint, ...]:
    """The injection points of a U-Net: skip connections, then the middle, then encoder blocks."""
    scales, blocks, scale = [1], [], 1
    for block in unet.down_blocks:
        before = scale
        scales += [scale] * len(block.resnets)
        if block.downsamplers:
            scale *= 2
            scales.append(scale)
        # diffusers adds an adapter's tensor before the downsampler of a block with attention, else after it.
        attends = getattr(block, "has_cross_attention", False)
        blocks.append((block.resnets[-1].out_channels, before if attends else scale))
    channels = skip_channels(unet)
    points = [InjectionPoint(f"skip.{k}", c, s) for k, (c, s) in enumerate(zip(channels, scales, strict=True))]
    points.append(InjectionPoint("middle", channels[-1], scale))
    return (*points, *(InjectionPoint(f"block.{k}", c, s) for k, (c, s) in enumerate(blocks)))
