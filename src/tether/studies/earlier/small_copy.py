"""ControlNet-XS (arXiv:2312.06573): a small copy that sees the locked U-Net's features at every block.

    s_k = copy_k([s_{k-1}; x_{k-1}], t)            x_{k-1}: the U-Net's features before its block k
    x_k = block_k(x_{k-1}) + Z(s_k)                in the encoder and the middle
    x   <- x + Z(s_k)                              in the decoder, where skip k is taken up

Information flows both ways without delay, so the copy need not be one of the U-Net: it is a few percent of its size,
with fresh weights. Here its blocks are residual blocks without attention, as the features that it sees have read the
prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tether.control.control import Steerable, register
from tether.control.zero import ZeroConv2d
from tether.studies.earlier.inside import InsideControl, Situation

__all__ = ["SmallCopy"]

GROUPS = 8
"""Of group normalization; widths are multiples of it."""


@register("controlnet-xs")
class SmallCopy(InsideControl):
    """The small copy.

    Args:
        latent_channels: channels of z_t.
        channels: of the U-Net's skip connections, and of its middle at the end.
        scales: how many times smaller than the latents each of them is.
        decoder: channels that come from below at each residual block of the decoder.
        share: width of the copy by that of the U-Net.
    """

    def __init__(
        self,
        latent_channels: int,
        channels: Sequence[int],
        scales: Sequence[int],
        decoder: Sequence[int],
        share: float = 0.25,
    ) -> None:
        widths = [max(GROUPS, round(width * share / GROUPS) * GROUPS) for width in channels]
        super().__init__(widths[0])
        self.config: Mapping[str, Any] = {
            "latent_channels": latent_channels,
            "channels": list(channels),
            "scales": list(scales),
            "decoder": list(decoder),
            "share": share,
        }
        time = 4 * widths[0]
        self.time = nn.Sequential(Timesteps(channels[0], True, 0), TimestepEmbedding(channels[0], time))
        self.conv_in = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for k in range(1, len(widths)):
            wide = widths[k - 1] + channels[k - 1]
            if scales[k] > scales[k - 1]:
                self.blocks.append(nn.Conv2d(wide, widths[k], 3, stride=2, padding=1))
            else:
                block = ResnetBlock2D(
                    in_channels=wide, out_channels=widths[k], temb_channels=time, groups=GROUPS, groups_out=GROUPS
                )
                self.blocks.append(block)
        self.zeros = nn.ModuleList(ZeroConv2d(a, b) for a, b in zip(widths, channels, strict=True))
        skips = reversed(widths[:-1])
        self.decoder_zeros = nn.ModuleList(ZeroConv2d(a, b) for a, b in zip(skips, decoder, strict=True))

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        spec, locked = base.denoiser.spec, base.denoiser.network
        points = [point for point in spec.points if not point.name.startswith("block.")]
        channels = [point.channels for point in points]
        inputs = [resnet.in_channels for block in locked.up_blocks for resnet in block.resnets]
        decoder = [wide - skip for wide, skip in zip(inputs, reversed(channels[:-1]), strict=True)]
        scales = [point.scale for point in points]
        return cls(spec.latent_channels, channels, scales, decoder, **settings).to(locked.device).train()

    def hook(self, network: Any, now: Situation) -> Sequence[RemovableHandle]:
        if now.hint is None:
            return []
        run = _Run(self, now)
        places = [network.conv_in, *_encoder(network), network.mid_block]
        handles = [place.register_forward_hook(run.encoder(k)) for k, place in enumerate(places)]
        resnets = [resnet for block in network.up_blocks for resnet in block.resnets]
        return [*handles, *(one.register_forward_pre_hook(run.decoder(k)) for k, one in enumerate(resnets))]


class _Run:
    """The copy during one prediction."""

    def __init__(self, copy: SmallCopy, now: Situation) -> None:
        assert now.hint is not None
        self.copy, self.dtype = copy, now.latents.dtype
        timesteps = torch.as_tensor(now.timesteps, device=now.latents.device).expand(len(now.latents))
        frequencies, embed = copy.time
        self.time = embed(frequencies(timesteps).to(copy.dtype))
        self.features = [copy.conv_in(now.latents.to(copy.dtype)) + now.hint]
        self.before: Tensor | None = None

    def encoder(self, k: int) -> Any:
        """The forward hook of the U-Net's place k."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            if k > 0:
                assert self.before is not None
                seen = torch.cat([self.features[-1], self.before.to(self.features[-1].dtype)], dim=1)
                block = self.copy.blocks[k - 1]
                self.features.append(block(seen, self.time) if isinstance(block, ResnetBlock2D) else block(seen))
            x = x + self.copy.zeros[k](self.features[k]).to(x.dtype)
            self.before = x
            return (x, *output[1:]) if isinstance(output, tuple) else x

        return hook

    def decoder(self, k: int) -> Any:
        """The forward pre-hook of the decoder's residual block k, whose input is [from below; skip]."""

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            added = self.copy.decoder_zeros[k](self.features[-2 - k])
            below, skip = inputs[0].split([added.shape[1], inputs[0].shape[1] - added.shape[1]], dim=1)
            return (torch.cat([below + added.to(below.dtype), skip], dim=1), *inputs[1:])

        return hook


def _encoder(network: Any) -> list[nn.Module]:
    """The modules whose outputs are skip connections, after the first convolution."""
    found: list[nn.Module] = []
    for block in network.down_blocks:
        attentions = getattr(block, "attentions", None)
        found += list(attentions if attentions is not None else block.resnets)
        found += list(block.downsamplers or [])
    return found
