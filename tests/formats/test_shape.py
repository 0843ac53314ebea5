"""The architecture of an encoder is read from the shapes of its tensors, in both layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from tether.errors import TetherError
from tether.formats.shape import encoder_of_diffusers, encoder_of_original

from ..reference.layouts import EXPECTED_UNET, SMALL, TRUE, Denoiser
from ..tiny import make_unet


def empty(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("family", TRUE)
def test_the_published_denoisers_have_the_published_configs(family: str) -> None:
    shape = encoder_of_original(empty(TRUE[family].denoiser.unet()), "")
    assert shape.family == family
    config = shape.config()
    expected = {name: value for name, value in EXPECTED_UNET[family].items() if name != "up_block_types"}
    assert {name: config[name] for name in expected} == expected


@pytest.mark.parametrize("family", SMALL)
def test_both_layouts_of_a_denoiser_have_the_same_shape(family: str) -> None:
    original = encoder_of_original(empty(SMALL[family].denoiser.unet()), "")
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(original.depths)]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(original.config() | {"up_block_types": up})
    assert encoder_of_diffusers(unet.state_dict()) == original  # type: ignore[union-attr]


def test_a_denoiser_for_inpainting_and_one_that_pools_its_text_are_known() -> None:
    assert encoder_of_diffusers(make_unet("inpainting").state_dict()).in_channels == 9
    pooling = make_unet("bundled", addition_embed_type="text", addition_embed_type_num_heads=2)
    assert encoder_of_diffusers(pooling.state_dict()).config()["addition_embed_type"] == "text"


@pytest.mark.parametrize(
    "missing", ["input_blocks.0.0.weight", "middle_block.1.proj_in.weight", "input_blocks.1.0.out_layers.3.weight"]
)
def test_a_denoiser_without_one_of_its_blocks_is_refused(missing: str) -> None:
    shapes = SMALL["sd1"].denoiser.unet()
    del shapes[missing]
    with pytest.raises(TetherError, match=r"do not match Stable Diffusion 1\.x, 2\.x or XL"):
        encoder_of_original(empty(shapes), "")


def test_depths_that_diffusers_cannot_describe_are_refused() -> None:
    denoiser = Denoiser(width=64, mult=(1, 2), layers=1, depth=(1, 2), middle_depth=3, context=64, linear=True)
    shape = encoder_of_original(empty(denoiser.unet()), "")
    with pytest.raises(TetherError, match="of depth 2 on the last level and 3 in the middle are not supported"):
        shape.config()
