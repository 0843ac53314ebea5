"""The whole U-Net as what is trained: so the one trainer fine-tunes a base, without a lock and without a condition.

prediction = ε(z_t, t, c_t; θ'),    θ' = θ before training
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tether.base.denoiser import UNetDenoiser
from tether.control import load_control
from tether.control.conditioning import Conditioning
from tether.control.control import Control, Steerable, register
from tether.control.signal import Signal
from tether.conversion import convert
from tether.files.writing import replacing

__all__ = ["WholeUNet", "write_base"]


@register("whole-unet")
class WholeUNet(Control):
    """A copy of the base's U-Net that takes its place. Conditions are not looked at.

    Args:
        unet: the copy, or its config.
    """

    per_step = False

    def __init__(self, unet: nn.Module | Mapping[str, Any]) -> None:
        super().__init__()
        self.unet: Any = unet if isinstance(unet, nn.Module) else UNet2DConditionModel.from_config(dict(unet))
        self.config = {"unet": dict(self.unet.config)}

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        """A copy of the base's, in training mode, in float32."""
        return cls(deepcopy(base.denoiser.network).float().requires_grad_(True)).train()

    def encode(self, condition: Tensor) -> Tensor:
        return condition.new_zeros(len(condition), 1)

    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        return Signal({})

    def wrap(self, denoiser: Any) -> UNetDenoiser:
        return UNetDenoiser(self.unet, denoiser.spec.noise, denoiser.spec.latent_factor)


def write_base(base: str, tuned: Path, folder: Path) -> Path:
    """Writes a fine-tuned base as a diffusers folder, unless it is there.

    Args:
        base: what was fine-tuned.
        tuned: the folder of its `WholeUNet`.
        folder: where to write it.
    """
    if not folder.is_dir():
        with replacing(folder, force=True) as part:
            convert(base, part, to="diffusers")
            control = load_control(tuned, dtype=torch.float32)
            assert isinstance(control, WholeUNet)
            control.unet.save_pretrained(part / "unet")
    return folder
