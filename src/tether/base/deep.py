"""A U-Net whose deep part is computed at some steps alone (DeepCache, arXiv:2312.00858), beside controls.

    whole step      prediction, d = ε_θ(z_t, t, c_t; r)            d: what comes up from below to skip connection m - 1
    shallow step    prediction = ε_θ'(z_t, t, c_t; r_0..m-1, d)    θ': the layers above, about 2m of them

Features change little from step to step where the network is deep, so that d serves a few steps. What a control adds to
the m first skip connections is that of the step itself; what it added below is part of d. Whoever calls this must
therefore take a whole step when a control comes, goes, or changes its strength (`tether.sampling.reuse`).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tether.base.denoiser import UNetDenoiser
from tether.control.architecture import first_layers, skip_channels, with_parts
from tether.control.conditioning import Conditioning
from tether.control.signal import Signal
from tether.errors import TetherError

__all__ = ["Split", "SplitDenoiser", "Splits", "check_skips"]


class Split(Protocol):
    """A denoiser in two parts, as `SplitDenoiser` is; d is the deep features."""

    def predict_whole(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None, /
    ) -> tuple[Tensor, Tensor]: ...

    def predict_shallow(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None, deep: Tensor, /
    ) -> Tensor: ...


@runtime_checkable
class Splits(Protocol):
    """A denoiser that can be split."""

    def split(self, skips: int, /) -> Split: ...


def check_skips(denoiser: UNetDenoiser, skips: int) -> None:
    """Raises a TetherError when a denoiser has nothing below its first `skips` skip connections."""
    most = len(skip_channels(denoiser.network)) - 1
    if not 1 <= skips <= most:
        raise TetherError(f"deep_skips is {skips}; this base has from 1 to {most} skip connections above its deepest")


class SplitDenoiser:
    """A denoiser in two parts, which share all weights with it.

    Args:
        denoiser: of a U-Net.
        skips: m, the number of skip connections of the shallow part; it takes the memory of d alone.

    Raises:
        TetherError: as `check_skips`.
    """

    def __init__(self, denoiser: UNetDenoiser, skips: int) -> None:
        check_skips(denoiser, skips)
        self.whole, self.skips = denoiser, skips
        unet: Any = denoiser.network
        self._layer, last = _last_layers(unet.up_blocks, skips)
        self._skip_width = skip_channels(unet)[skips - 1]
        self._kept = _Kept()
        parts = {"down_blocks": first_layers(unet.down_blocks, skips), "mid_block": self._kept, "up_blocks": last}
        self.shallow = UNetDenoiser(with_parts(unet, parts), denoiser.spec.noise, denoiser.spec.latent_factor)

    def predict_whole(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None
    ) -> tuple[Tensor, Tensor]:
        """The prediction, to the bit that of the denoiser, and d; arguments as of `Denoiser.predict`."""
        found: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # The layer is given [from below, skip connection]; a copy, so that the rest is not kept alive.
            found.append(inputs[0][:, : inputs[0].shape[1] - self._skip_width].clone())

        handle = self._layer.register_forward_pre_hook(keep)
        try:
            prediction = self.whole.predict(latents, timestep, conditioning, signal)
        finally:
            handle.remove()
        return prediction, found[0]

    def predict_shallow(
        self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, signal: Signal | None, deep: Tensor
    ) -> Tensor:
        """The prediction by the shallow part.

        Args:
            latents, timestep, conditioning: as of `Denoiser.predict`, of the batch that `deep` has.
            signal: of this step, at the first m skip connections.
            deep: d of an earlier step.
        """
        self._kept.features = deep
        try:
            return self.shallow.predict(latents, timestep, conditioning, signal)
        finally:
            self._kept.features = None


class _Kept(nn.Module):
    """Stands where a U-Net has its middle, and gives what was kept."""

    features: Tensor | None = None

    def forward(self, *inputs: Any) -> Tensor:
        assert self.features is not None
        return self.features


def _last_layers(blocks: Any, count: int) -> tuple[nn.Module, nn.ModuleList]:
    """The first of the decoder's last `count` layers, and these as blocks."""
    last: list[nn.Module] = []
    for block in reversed(blocks):
        taken = min(count, len(block.resnets))
        parts = {name: getattr(block, name)[-taken:] for name in ("resnets", "attentions") if hasattr(block, name)}
        last.insert(0, with_parts(block, parts))
        count -= taken
        if count == 0:
            break
    return last[0].resnets[0], nn.ModuleList(last)  # type: ignore[index, return-value]
