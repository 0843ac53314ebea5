"""The denoiser of a base: the network that predicts, and the points where controls can add to it.

    prediction = predict(z_t, t, c_t, signal)

`Denoiser` is the interface, and `UNetDenoiser` implements it with diffusers' `UNet2DConditionModel`. Samplers, training
and engines use the interface only, so that a base with another network needs one class here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tether.base.noise import NoiseProcess
from tether.control.architecture import skip_channels
from tether.control.conditioning import Conditioning
from tether.control.signal import Signal
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.base.deep import SplitDenoiser

__all__ = ["Denoiser", "DenoiserSpec", "InjectionPoint", "UNetDenoiser"]


@dataclass(frozen=True)
class InjectionPoint:
    """A place in a denoiser where a control can add a tensor.

    Attributes:
        name: its name in a `Signal`.
        channels: channels of the feature map there.
        scale: side of the latents divided by the side of the feature map.
    """

    name: str
    channels: int
    scale: int


@dataclass(frozen=True)
class DenoiserSpec:
    """What samplers, training and controls need to know of a denoiser.

    Attributes:
        latent_channels: channels of z_t, and of the prediction.
        input_channels: channels of its input: those of z_t; for inpainting models also mask and masked image.
        latent_factor: image pixels per latent pixel along one side.
        text_width: D of the text states.
        points: its injection points, in the order in which they are computed.
        noise: its noise process.
        pooled_width: P of the pooled text states that it takes; None if it takes none.
        uses_sizes: whether it takes SDXL's "time_ids" (arXiv:2307.01952): original size, crop, target size.
        distilled_guidance: whether it takes the guidance scale as an input, as models distilled for few steps do: the
            extra "guidance_scale" `(B,)` of the conditioning. Such a model is run without the unconditional side.
    """

    latent_channels: int
    input_channels: int
    latent_factor: int
    text_width: int
    points: tuple[InjectionPoint, ...]
    noise: NoiseProcess
    pooled_width: int | None = None
    uses_sizes: bool = False
    distilled_guidance: bool = False

    @property
    def inpaints(self) -> bool:
        """Whether it takes z_t, a mask and the masked image's latents."""
        return self.input_channels == 2 * self.latent_channels + 1


class Denoiser(ABC):
    """ε(z_t, t, c_t; θ), or whatever its noise process has it predict, with a signal added at its injection points.

    Attributes:
        spec: see `DenoiserSpec`.
        network: the module that computes the prediction.
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
            signal: of one control, or the sum of several. With None, the prediction is exactly the base's.

        Raises:
            TetherError: if the signal was made for another denoiser.
        """


class UNetDenoiser(Denoiser):
    """diffusers' conditional U-Net (figure 3 of arXiv:2302.05543).

    Its injection points are "skip.i" for skip connection i and "middle" for the output of the middle block, which
    ControlNets use, and "block.i" for the output of encoder block i, which T2I-Adapters use (arXiv:2302.08453).

    Args:
        unet: the network; it is not copied.
        noise: its noise process.
        latent_factor: image pixels per latent pixel along one side.
    """

    def __init__(self, unet: UNet2DConditionModel, noise: NoiseProcess, latent_factor: int = 8) -> None:
        self.network: UNet2DConditionModel = unet
        config, points = unet.config, _points(unet)
        uses_sizes = config["addition_embed_type"] == "text_time"
        sizes = 6 * (config["addition_time_embed_dim"] or 0)
        self.spec = DenoiserSpec(
            latent_channels=config["out_channels"],
            input_channels=config["in_channels"],
            latent_factor=latent_factor,
            text_width=config["encoder_hid_dim"] or config["cross_attention_dim"],
            points=points,
            noise=noise,
            pooled_width=config["projection_class_embeddings_input_dim"] - sizes if uses_sizes else None,
            uses_sizes=uses_sizes,
            distilled_guidance=bool(config["time_cond_proj_dim"]),
        )
        self._channels = {point.name: point.channels for point in points}
        self._skips = [name for name in self._channels if name.startswith("skip.")]
        self._blocks = [name for name in self._channels if name.startswith("block.")]

    def predict(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        signal: Signal | None = None,
    ) -> Tensor:
        extras = dict(conditioning.extras)
        inputs: dict[str, Any] = {"class_labels": extras.pop("class_labels", None)}
        scale, width = extras.pop("guidance_scale", None), self.network.config["time_cond_proj_dim"]
        if scale is not None and width:
            inputs["timestep_cond"] = guidance_embedding(scale, width).to(self.network.dtype)
        if conditioning.pooled is not None:
            extras["text_embeds"] = conditioning.pooled
        inputs["added_cond_kwargs"] = extras or None
        if signal:
            inputs |= self._residuals(latents, signal)
        # Autocast casts for linear layers, but not for the layer norm of pooled text (`addition_embed_type`).
        tokens = conditioning.tokens.to(self.network.dtype)
        return self.network(latents, timestep, encoder_hidden_states=tokens, return_dict=False, **inputs)[0]

    def split(self, skips: int) -> SplitDenoiser:
        """The denoiser in two parts, at skip connection `skips`; see `tether.base.deep`."""
        from tether.base.deep import SplitDenoiser

        return SplitDenoiser(self, skips)

    def _residuals(self, latents: Tensor, signal: Signal) -> dict[str, Any]:
        """The signal as arguments of diffusers' U-Net."""
        for name, tensor in signal.items():
            if self._channels.get(name) != tensor.shape[1]:
                raise TetherError(
                    f"the signal fits another denoiser: it has {tensor.shape[1]} channels at {name}, expected "
                    f"{self._channels.get(name, 'no signal there')}; use the control with the base it was made for"
                )
        if not torch.is_autocast_enabled(latents.device.type):
            signal = signal.to(self.network.dtype)
        # diffusers takes all skips and the middle, or none of them: points without a tensor get zeros.
        zero = next(iter(signal.values())).new_zeros(1, 1, 1, 1)
        found: dict[str, Any] = {}
        if any(name in signal for name in (*self._skips, "middle")):
            found["down_block_additional_residuals"] = tuple(signal.get(name, zero) for name in self._skips)
            found["mid_block_additional_residual"] = signal.get("middle", zero)
        if any(name in signal for name in self._blocks):
            found["down_intrablock_additional_residuals"] = [signal.get(name, zero) for name in self._blocks]
        return found


def guidance_embedding(scale: Tensor, width: int) -> Tensor:
    """The sinusoids `(B, width)` of 1000 (s - 1) for guidance scales s `(B,)`: arXiv:2310.04378, as in diffusers."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=scale.device) * (-math.log(10000) / (half - 1)))
    angles = 1000 * (scale.float() - 1)[:, None] * rates
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


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
