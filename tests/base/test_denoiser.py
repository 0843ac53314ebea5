"""A denoiser with a signal is diffusers' U-Net with residuals; without one it is the U-Net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from tether.base import UNetDenoiser, noise_process
from tether.control import Conditioning, Signal
from tether.errors import TetherError

from ..tiny import FAMILIES, NOISE_SCHEDULE, make_inputs, make_unet

EACH = pytest.mark.parametrize("family", FAMILIES)


def denoiser_of(unet: UNet2DConditionModel, latent_factor: int = 8) -> UNetDenoiser:
    return UNetDenoiser(unet, noise_process(NOISE_SCHEDULE), latent_factor)


def arguments(conditioning: Conditioning) -> dict[str, Any]:
    """Conditioning as diffusers takes it."""
    added = {name: tensor for name, tensor in conditioning.extras.items() if name != "class_labels"}
    if conditioning.pooled is not None:
        added["text_embeds"] = conditioning.pooled
    return {
        "encoder_hidden_states": conditioning.tokens,
        "class_labels": conditioning.extras.get("class_labels"),
        "added_cond_kwargs": added or None,
    }


def random_signal(denoiser: UNetDenoiser, latents: Tensor, prefix: tuple[str, ...]) -> Signal:
    random, (height, width) = torch.Generator().manual_seed(5), latents.shape[-2:]
    points = [point for point in denoiser.spec.points if point.name.startswith(prefix)]
    return Signal(
        {
            p.name: torch.randn(len(latents), p.channels, height // p.scale, width // p.scale, generator=random)
            for p in points
        }
    )


@EACH
@torch.no_grad()
def test_without_a_signal_it_is_the_base_bit_for_bit(family: str) -> None:
    unet = make_unet(family)
    inputs = make_inputs(unet)
    expected = unet(inputs["latents"], inputs["timestep"], **arguments(inputs["conditioning"])).sample
    assert torch.equal(denoiser_of(unet).predict(**inputs), expected)
    assert torch.equal(denoiser_of(unet).predict(**inputs, signal=Signal({})), expected)


@EACH
@torch.no_grad()
def test_skips_and_middle_are_added_as_diffusers_adds_a_controlnets(family: str) -> None:
    unet = make_unet(family)
    inputs, denoiser = make_inputs(unet), denoiser_of(unet)
    signal = random_signal(denoiser, inputs["latents"], ("skip.", "middle"))
    *skips, middle = signal.values()
    expected = unet(
        inputs["latents"],
        inputs["timestep"],
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
        **arguments(inputs["conditioning"]),
    ).sample
    assert torch.equal(denoiser.predict(**inputs, signal=signal), expected)


@EACH
@torch.no_grad()
def test_blocks_are_added_as_diffusers_adds_an_adapters(family: str) -> None:
    unet = make_unet(family)
    inputs, denoiser = make_inputs(unet), denoiser_of(unet)
    signal = random_signal(denoiser, inputs["latents"], ("block.",))
    expected = unet(
        inputs["latents"],
        inputs["timestep"],
        down_intrablock_additional_residuals=list(signal.values()),
        **arguments(inputs["conditioning"]),
    ).sample
    assert torch.equal(denoiser.predict(**inputs, signal=signal), expected)
    assert len(signal) == len(unet.config["block_out_channels"])


@torch.no_grad()
def test_points_that_a_signal_leaves_out_get_nothing() -> None:
    unet = make_unet()
    inputs, denoiser = make_inputs(unet), denoiser_of(unet)
    whole = random_signal(denoiser, inputs["latents"], ("skip.", "middle"))
    part = Signal({name: whole[name] for name in ("skip.1", "middle")})
    zeros = Signal({name: t if name in part else torch.zeros_like(t) for name, t in whole.items()})
    assert torch.equal(denoiser.predict(**inputs, signal=part), denoiser.predict(**inputs, signal=zeros))


@EACH
@torch.no_grad()
def test_the_points_are_those_of_diffusers_controlnet(family: str) -> None:
    if family == "projected text":
        pytest.skip("diffusers' ControlNet of such a U-Net does not run")
    unet = make_unet(family)
    inputs = make_inputs(unet)
    control = ControlNetModel.from_unet(unet, conditioning_channels=3)
    skips, middle = control(
        inputs["latents"],
        inputs["timestep"],
        controlnet_cond=torch.zeros(2, 3, 128, 64),
        return_dict=False,
        **arguments(inputs["conditioning"]),
    )
    points = [p for p in denoiser_of(unet).spec.points if not p.name.startswith("block.")]
    assert [p.name for p in points] == [*(f"skip.{k}" for k in range(len(skips))), "middle"]
    assert [(p.channels, 16 // p.scale, 8 // p.scale) for p in points] == [
        tuple(tensor.shape[1:]) for tensor in (*skips, middle)
    ]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("sd1", (4, 4, 12, None, False, False, False)),
        ("sdxl", (4, 4, 12, 10, True, False, False)),
        ("inpainting", (4, 9, 12, None, False, False, True)),
        ("projected text", (4, 4, 20, None, False, False, False)),
    ],
)
def test_the_spec_says_what_the_network_takes(family: str, expected: tuple[Any, ...]) -> None:
    spec = denoiser_of(make_unet(family), latent_factor=4).spec
    found = (spec.latent_channels, spec.input_channels, spec.text_width, spec.pooled_width)
    assert (*found, spec.uses_sizes, spec.distilled_guidance, spec.inpaints) == expected
    assert spec.latent_factor == 4


def test_a_denoiser_that_takes_its_guidance_is_known() -> None:
    assert denoiser_of(make_unet(time_cond_proj_dim=8)).spec.distilled_guidance


@pytest.mark.parametrize(
    ("point", "message"),
    [("skip.1", "it has 7 channels at skip.1, expected 32"), ("skip.99", "at skip.99, expected no signal there")],
)
def test_a_signal_for_another_denoiser_is_refused(point: str, message: str) -> None:
    unet = make_unet()
    with pytest.raises(TetherError, match=message):
        denoiser_of(unet).predict(**make_inputs(unet), signal=Signal({point: torch.zeros(2, 7, 16, 8)}))


@torch.no_grad()
def test_a_float32_signal_keeps_a_network_in_bfloat16_in_bfloat16() -> None:
    unet = make_unet().to(torch.bfloat16)
    inputs, denoiser = make_inputs(unet), denoiser_of(unet)
    inputs["latents"] = inputs["latents"].bfloat16()
    part = Signal({"skip.1": random_signal(denoiser, inputs["latents"], ("skip.1",))["skip.1"]})
    assert denoiser.predict(**inputs, signal=part).dtype == torch.bfloat16
