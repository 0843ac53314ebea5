"""A ControlNet without the lock: the U-Net is trained with its copy.

    ε = F(z_t, t, c_t; θ') + the copy's signal,      θ' begins as θ

What the lock is for: θ' also draws where no condition is given, and how far its pictures there are from θ's is what
the base has forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self

from diffusers import UNet2DConditionModel
from torch import Tensor

from tether.base.denoiser import Denoiser, UNetDenoiser
from tether.control.conditioning import Conditioning
from tether.control.control import Control, Steerable, register
from tether.control.controlnet import ControlNet
from tether.control.signal import Signal
from tether.studies.earlier.concatenated import settings_of

__all__ = ["UnlockedControlNet"]


@register("controlnet-unlocked")
class UnlockedControlNet(Control):
    """A ControlNet and the U-Net that it steers, both trained.

    Args:
        unet: settings of the U-Net, as in its `config.json`.
        controlnet: settings of the ControlNet, as in its `config.json`.
    """

    def __init__(self, unet: Mapping[str, Any], controlnet: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel.from_config(dict(unet))
        self.controlnet = ControlNet.from_config(controlnet)
        self.config = {"unet": settings_of(self.unet), "controlnet": dict(self.controlnet.config)}

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        locked, copy = base.denoiser.network, ControlNet.from_base(base, **settings)
        control = cls(settings_of(locked), copy.config)
        control.unet, control.controlnet = deepcopy(locked).to(dtype=copy.dtype), copy
        return control.requires_grad_(True).train()

    @property
    def points(self) -> Mapping[str, int]:
        return self.controlnet.points

    def encode(self, condition: Tensor) -> Tensor:
        return self.controlnet.encode(condition)

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        return self.controlnet.signal(latents, timestep, conditioning, hint)

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        return UNetDenoiser(self.unet, denoiser.spec.noise, denoiser.spec.latent_factor)
