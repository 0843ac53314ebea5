"""Latent consistency with controls: LCM's LoRA, and models that take the guidance scale, beside diffusers' own loop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, LCMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import tether
from tether.base import Base, ControlNet
from tether.base.denoiser import guidance_embedding
from tether.base.lora import add_lora

from ..tiny import NOISE_SCHEDULE, randomize

PROMPT, STEPS, SEED, SIZE = "a red cube", 4, 5, (64, 64)
SCHEDULE = {name: value for name, value in NOISE_SCHEDULE.items() if name != "clip_sample"}


def lcm_lora(base: Base, path: Path) -> None:
    """A file as LCM's LoRA is: kohya's names, every projection and convolution of the U-Net, with alphas."""
    random = torch.Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, module in base.unet.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or name in ("conv_in", "conv_out"):
            continue
        out, ins, *kernel = module.weight.shape
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(2, ins, *kernel, generator=random) * 0.1
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 2, *[1] * len(kernel), generator=random) * 0.1
        tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)


def reference(base: Base, control: ControlNet, condition: Tensor, scale: float | None) -> Tensor:
    """diffusers' networks and scheduler in a loop of its documentation; `scale` is what a distilled model takes."""
    theirs: Any = ControlNetModel.from_config(dict(control.config))
    theirs.load_state_dict(control.state_dict())
    scheduler: Any = LCMScheduler(**SCHEDULE)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(SEED)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = base.encode_prompts([PROMPT]).tokens
    embedded = None
    if scale is not None:
        width = base.unet.config["time_cond_proj_dim"]
        embedded = StableDiffusionPipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), width)  # type: ignore[arg-type]
    for t in scheduler.timesteps:
        down, middle = theirs(latents, t, text, condition, return_dict=False)
        prediction = base.unet(
            latents,
            t,
            text,
            timestep_cond=embedded,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        latents = scheduler.step(prediction, t, latents, generator=generator, return_dict=False)[0]
    return latents


def drawn(base: Base, control: ControlNet, condition: Image.Image, **more: Any) -> Tensor:
    pipe = tether.Pipeline(base, [control])
    found = pipe(PROMPT, [condition], scheduler="lcm", steps=STEPS, seed=SEED, size=SIZE, output="latents", **more)
    assert isinstance(found, Tensor)
    return found


@pytest.fixture
def condition() -> Image.Image:
    image = Image.new("RGB", SIZE)
    image.paste((255, 255, 255), (16, 16, 48, 20))
    return image


@torch.no_grad()
def test_four_steps_with_lcms_lora_and_a_control_are_those_of_diffusers_scheduler(
    tiny_base: Base, condition: Image.Image, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lcm_lora(tiny_base, tmp_path / "lcm.safetensors")
    control = ControlNet.from_base(tiny_base).eval()
    randomize(control.controlnet_down_blocks)
    plain = drawn(tiny_base, control, condition, guidance_scale=1.0)
    with caplog.at_level(logging.WARNING):
        add_lora(tiny_base, tmp_path / "lcm.safetensors")
    assert not caplog.records  # every tensor has its place
    found = drawn(tiny_base, control, condition, guidance_scale=1.0)
    expected = reference(tiny_base, control, tether.images.to_condition(condition), None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).norm() > 0.1 * plain.norm()


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_distilled_base_is_given_the_guidance_scale_and_run_on_one_side(
    tiny_base: Base, condition: Image.Image, scale: float
) -> None:
    control = ControlNet.from_base(tiny_base).eval()
    randomize(control.controlnet_down_blocks)
    config = {**tiny_base.unet.config, "time_cond_proj_dim": 17}
    made: Any = type(tiny_base.unet).from_config(config)
    unet = made.eval().requires_grad_(False)
    tiny_base.unet = unet
    batches: list[int] = []
    unet.register_forward_hook(lambda _, given, out: batches.append(len(out[0])))
    with pytest.warns(UserWarning, match="negative_prompt has no effect"):
        found = drawn(tiny_base, control, condition, guidance_scale=scale, negative_prompt="dark")
    assert batches == [1] * STEPS
    expected = reference(tiny_base, control, tether.images.to_condition(condition), scale)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, drawn(tiny_base, control, condition, guidance_scale=3.0))


def test_the_embedding_of_the_scale_is_diffusers() -> None:
    scales = torch.tensor([1.0, 1.5, 8.0])
    for width in (16, 17, 256):
        theirs = StableDiffusionPipeline.get_guidance_scale_embedding(None, scales - 1, width)  # type: ignore[arg-type]
        torch.testing.assert_close(guidance_embedding(scales, width), theirs, rtol=1e-4, atol=2e-3)
