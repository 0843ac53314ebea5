"""The denoiser's and the ControlNet's tensors: every name has its pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel

from tether.formats.names import to_diffusers
from tether.formats.shape import encoder_of_original
from tether.formats.unet import control_pairs, unet_pairs

from ..reference.layouts import SMALL
from ..tiny import make_unet


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("what", ["unet", "control"])
def test_every_tensor_has_one_name_in_each_layout(family: str, what: str) -> None:
    denoiser = SMALL[family].denoiser
    shapes = denoiser.unet() if what == "unet" else denoiser.control()
    original: dict[str, Any] = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    shape = encoder_of_original(original, "")
    with torch.device("meta"):
        up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(shape.depths)]
        unet = make_unet("bundled").from_config(shape.config() | {"up_block_types": up})
        network = unet if what == "unet" else ControlNetModel.from_unet(unet, load_weights_from_unet=False)  # type: ignore
    pairs = (unet_pairs if what == "unet" else control_pairs)(shape, network.state_dict())  # type: ignore
    assert {name for pair in pairs for name in pair.diffusers} == network.state_dict().keys()  # type: ignore
    found, used = to_diffusers(pairs, original)
    assert used == original.keys()
    assert found.keys() == network.state_dict().keys()  # type: ignore


def test_names_that_are_not_the_networks_have_no_pair() -> None:
    shape = encoder_of_original(
        {name: torch.empty(size, device="meta") for name, size in SMALL["sd1"].denoiser.unet().items()}, ""
    )
    assert unet_pairs(shape, ["lora.weight", "down_blocks.7.resnets.0.conv1.weight"]) == []
