"""The condition beside the latents, and the whole U-Net fine-tuned (LDM, arXiv:2112.10752).

    ε = F'([z_t; f(c_i)], t, c_t; θ'),      θ' begins as θ, the weights of the new input channels as 0

f is ControlNet's hint encoder, so that all ways see the condition alike. Nothing is locked: θ' replaces θ, also where
no condition is given.

In the comparison it stands in for PITI (arXiv:2205.12952), which fine-tunes a whole model too, but otherwise: there an
encoder turns the condition into tokens that take the text's place, and there are two stages and an adversarial loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self

from diffusers import UNet2DConditionModel

from tether.control.control import Steerable, register
from tether.studies.earlier.inside import InsideControl, first_channels

__all__ = ["Concatenated", "settings_of"]


@register("concatenated")
class Concatenated(InsideControl):
    """A trained copy of the whole U-Net with channels for the condition.

    Args:
        unet: settings of the U-Net, as in its `config.json`.
    """

    def __init__(self, unet: Mapping[str, Any]) -> None:
        network: Any = UNet2DConditionModel.from_config(dict(unet))
        super().__init__(first_channels(network))
        self.unet = network
        self.config = {"unet": settings_of(network)}

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        locked = base.denoiser.network
        control = cls(locked.config)
        control.unet = deepcopy(locked).to(dtype=control.dtype)
        return control.requires_grad_(True).train()

    def network(self, locked: Any) -> Any:
        return self.unet


def settings_of(network: Any) -> dict[str, Any]:
    """The settings of a diffusers network, for JSON."""
    return {
        name: value for name, value in network.config.items() if name not in ("_name_or_path", "_use_default_values")
    }
