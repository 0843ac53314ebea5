"""The pipeline against diffusers' own, and against what it promises."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from PIL import Image

import tether
from tether.base import Base, ControlNet
from tether.errors import TetherError
from tether.images import to_pixels
from tether.sampling import SCHEDULERS, make_scheduler
from tether.sampling.samplers import set_steps

PROMPT, NEGATIVE = "a red cube", "blurry"


@pytest.fixture
def condition() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 2, (64, 64, 1), dtype=np.uint8) * 255
    return Image.fromarray(pixels.repeat(3, axis=2))


@pytest.fixture
def photo() -> Image.Image:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return Image.fromarray(
        np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90)], 2).astype(np.uint8)
    )


def trained_control(base: Base, seed: int) -> ControlNet:
    """A control whose zero convolutions are not zero, as after training."""
    torch.manual_seed(seed)
    control = ControlNet.from_unet(base.unet)
    for module in (
        control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding.conv_out,
    ):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return control


def as_diffusers(control: ControlNet, folder: Path) -> ControlNetModel:
    control.save(folder)
    return ControlNetModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc", "euler"])
@pytest.mark.parametrize("count", [1, 3])
def test_latents_equal_diffusers_with_controls(
    tiny_base: Base, tiny_folder: Path, tmp_path: Path, condition: Image.Image, name: str, count: int
) -> None:
    controls = [trained_control(tiny_base, seed) for seed in range(count)]
    theirs = [as_diffusers(control, tmp_path / str(k)) for k, control in enumerate(controls)]
    strengths, windows = [1.0, 0.5, 0.8][:count], [(0.0, 1.0), (0.2, 1.0), (0.0, 0.6)][:count]
    reference = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_folder,
        controlnet=theirs if count > 1 else theirs[0],
        scheduler=make_scheduler(name, tiny_base.noise_schedule),
    )
    reference.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = reference(
        PROMPT,
        image=[condition] * count if count > 1 else condition,
        negative_prompt=NEGATIVE,
        latents=noise,
        num_inference_steps=10,
        guidance_scale=4.0,
        controlnet_conditioning_scale=strengths if count > 1 else 1.0,
        control_guidance_start=[w[0] for w in windows],
        control_guidance_end=[w[1] for w in windows],
        output_type="latent",
    ).images
    ours = tether.Pipeline(tiny_base, controls)(
        PROMPT,
        [condition] * count,
        seed=5,
        negative_prompt=NEGATIVE,
        steps=10,
        guidance_scale=4.0,
        scheduler=name,
        injections=[tether.Injection(strength=s, window=w) for s, w in zip(strengths, windows, strict=True)],
        output="latents",
    )
    assert (ours - expected).norm() / expected.norm() < 1e-5
    plain = tether.Pipeline(tiny_base)(PROMPT, seed=5, steps=10, guidance_scale=4.0, scheduler=name, output="latents")
    assert (plain - expected).norm() / expected.norm() > 1e-3, "the controls must matter for this test to mean anything"


def test_guess_mode_of_diffusers_is_our_diffusers_weighting(
    tiny_base: Base, tiny_folder: Path, tmp_path: Path, condition: Image.Image
) -> None:
    control = trained_control(tiny_base, 1)
    reference = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_folder,
        controlnet=as_diffusers(control, tmp_path / "c"),
        scheduler=make_scheduler("ddim", tiny_base.noise_schedule),
    )
    reference.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = reference(
        "",
        image=condition,
        latents=noise,
        num_inference_steps=6,
        guidance_scale=3.0,
        guess_mode=True,
        output_type="latent",
    ).images
    ours = tether.Pipeline(tiny_base, [control])(
        "",
        [condition],
        seed=5,
        steps=6,
        guidance_scale=3.0,
        scheduler="ddim",
        injections=[tether.Injection(weighting="diffusers")],
        output="latents",
    )
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_image_to_image_equals_diffusers(
    tiny_base: Base, tiny_folder: Path, tmp_path: Path, condition: Image.Image, photo: Image.Image
) -> None:
    control = trained_control(tiny_base, 2)
    reference = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        tiny_folder,
        controlnet=as_diffusers(control, tmp_path / "c"),
        scheduler=make_scheduler("ddim", tiny_base.noise_schedule),
    )
    reference.set_progress_bar_config(disable=True)
    latents = tiny_base.encode_pictures(to_pixels(photo))
    # Given latents in place of a picture, diffusers takes no sample of the posterior, and draws its noise in our order.
    expected = reference(
        PROMPT,
        image=latents,
        control_image=condition,
        height=64,
        width=64,
        strength=0.6,
        controlnet_conditioning_scale=1.0,
        num_inference_steps=10,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(9),
        output_type="latent",
    ).images
    ours = tether.Pipeline(tiny_base, [control])(
        PROMPT,
        [condition],
        seed=9,
        steps=10,
        guidance_scale=4.0,
        scheduler="ddim",
        init=photo,
        strength=0.6,
        output="latents",
    )
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_without_control_equals_the_plain_pipeline_of_diffusers(tiny_base: Base, tiny_folder: Path) -> None:
    reference = StableDiffusionPipeline.from_pretrained(
        tiny_folder, scheduler=make_scheduler("euler", tiny_base.noise_schedule)
    )
    reference.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = reference(PROMPT, latents=noise, num_inference_steps=5, guidance_scale=4.0, output_type="latent").images
    ours = tether.Pipeline(tiny_base)(PROMPT, seed=5, steps=5, guidance_scale=4.0, scheduler="euler", output="latents")
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_a_control_of_strength_zero_gives_the_base_picture_to_the_byte(tiny_base: Base, condition: Image.Image) -> None:
    silent = tether.Pipeline(tiny_base, [trained_control(tiny_base, 3)])(
        PROMPT, [condition], seed=1, steps=4, injections=[tether.Injection(strength=0.0)]
    )
    plain = tether.Pipeline(tiny_base)(PROMPT, seed=1, steps=4)
    assert silent[0].tobytes() == plain[0].tobytes()


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_the_same_seed_gives_the_same_bytes_and_the_picture_drawn_alone_to_one_level(
    tiny_base: Base, condition: Image.Image, name: str
) -> None:
    pipe = tether.Pipeline(tiny_base, [trained_control(tiny_base, 4)])
    options = {"conditions": [condition], "steps": 5, "scheduler": name}
    batch = pipe(PROMPT, seed=3, count=3, **options)
    assert [p.tobytes() for p in pipe(PROMPT, seed=3, count=3, **options)] == [p.tobytes() for p in batch]
    alone = pipe(PROMPT, seed=5, **options)[0]
    assert np.abs(np.asarray(alone, int) - np.asarray(batch[2], int)).max() <= 1
    assert batch[0].tobytes() != batch[1].tobytes()


def test_inpainting_keeps_what_the_mask_leaves_black(tiny_base: Base, photo: Image.Image) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    pixels = to_pixels(photo)
    known = tiny_base.encode_pictures(pixels)
    latents = tether.Pipeline(tiny_base)(
        PROMPT, seed=2, steps=6, init=photo, mask=mask, strength=1.0, scheduler="ddim", output="latents"
    )
    assert torch.equal(latents[..., :4], known[..., :4])
    assert (latents[..., 4:] - known[..., 4:]).abs().mean() > 0.05


def test_the_condition_is_encoded_once_and_not_once_a_step(tiny_base: Base, condition: Image.Image) -> None:
    control = trained_control(tiny_base, 5)
    calls = []
    control.controlnet_cond_embedding.register_forward_hook(lambda *_: calls.append(1))
    tether.Pipeline(tiny_base, [control])(PROMPT, [condition], steps=7)
    assert len(calls) == 1


def test_a_callback_hears_of_every_step(tiny_base: Base) -> None:
    heard = []
    tether.Pipeline(tiny_base)(PROMPT, steps=6, on_step=lambda step: heard.append((step.index, step.total)))
    assert heard == [(k, 6) for k in range(6)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"size": (60, 64)}, "multiples of 8"),
        ({"scheduler": "heun"}, "dpmpp-2m"),
        ({"scheduler": "lcm", "steps": 51}, "1 to 50 steps"),
        ({"scheduler": "ddim", "steps": 1000}, "cannot spread 1000 steps"),
        ({"steps": 1000}, "cannot spread 1000 steps"),
        ({"steps": 333}, "cannot spread 333 steps"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"guidance_scale": float("nan")}, "guidance"),
        ({"mask": Image.new("L", (64, 64))}, "init"),
        ({"init": Image.new("RGB", (64, 64)), "strength": 0.01}, "nothing to draw"),
        ({"conditions": [Image.new("RGB", (64, 64))]}, "conditions"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tiny_base: Base, options: dict, words: str) -> None:
    with pytest.raises(TetherError, match=words) as caught:
        tether.Pipeline(tiny_base)(PROMPT, **options)
    assert "\n" not in str(caught.value)


def test_numbers_that_overflow_are_told_and_not_drawn(tiny_base: Base) -> None:
    base = copy.copy(tiny_base)
    base.vae = copy.deepcopy(tiny_base.vae)
    torch.nn.init.constant_(base.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(TetherError, match="float32"):
        tether.Pipeline(base)(PROMPT, steps=1)


def test_numpys_numbers_are_numbers(tiny_base: Base, condition: Image.Image) -> None:
    pipeline = tether.Pipeline(tiny_base, [trained_control(tiny_base, 5)])
    plain = pipeline(PROMPT, [condition], seed=3, steps=2, injections=[tether.Injection(strength=0.5)])
    given = tether.Injection(strength=np.float32(0.5))  # type: ignore[arg-type]
    ours = pipeline(PROMPT, [condition], seed=np.int64(3), steps=2, injections=[given])  # type: ignore[arg-type]
    assert ours[0].tobytes() == plain[0].tobytes()


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("ddim", DDIMScheduler),
        ("dpmpp-2m", DPMSolverMultistepScheduler),
        ("unipc", UniPCMultistepScheduler),
        ("euler", EulerDiscreteScheduler),
        ("euler-a", EulerAncestralDiscreteScheduler),
        ("lcm", LCMScheduler),
    ],
)
def test_a_scheduler_walks_as_the_one_that_diffusers_makes_of_the_bases_settings(
    name: str, peer: Any, tiny_base: Base
) -> None:
    both = [make_scheduler(name, tiny_base.noise_schedule), peer.from_config(tiny_base.noise_schedule)]
    walks = []
    for scheduler in both:
        scheduler.set_timesteps(7)
        random, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
        latents = torch.randn(1, 4, 8, 8, generator=random) * scheduler.init_noise_sigma
        options = {"generator": noise} if "generator" in scheduler.step.__code__.co_varnames else {}
        for timestep in scheduler.timesteps:
            prediction = 0.3 * scheduler.scale_model_input(latents, timestep).roll(1, -1)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
        walks.append((scheduler.timesteps, latents))
    assert torch.equal(walks[0][0], walks[1][0])
    assert torch.equal(walks[0][1], walks[1][1])


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "ddim", "euler", "euler-a"])
def test_up_to_a_hundred_steps_all_counts_are_spread(name: str, tiny_base: Base) -> None:
    for steps in range(1, 101):
        scheduler = make_scheduler(name, tiny_base.noise_schedule)
        set_steps(scheduler, name, steps, torch.device("cpu"))
        assert len(scheduler.timesteps.unique()) == steps


def test_ddim_clips_no_latents_whatever_the_schedule_leaves_out() -> None:
    assert make_scheduler("ddim", {"beta_schedule": "scaled_linear"}).config["clip_sample"] is False


def test_a_base_that_is_told_its_guidance_is_refused(tiny_base: Base) -> None:
    """A distilled consistency model: drawing without telling it would go wrong in silence."""
    base = copy.copy(tiny_base)
    base.unet = UNet2DConditionModel.from_config({**tiny_base.unet.config, "time_cond_proj_dim": 16})
    with pytest.raises(TetherError, match="LoRA"):
        tether.Pipeline(base)(PROMPT, steps=1, scheduler="lcm")


def test_a_base_whose_channels_are_neither_latents_nor_those_and_a_mask_is_refused(tiny_base: Base) -> None:
    base = copy.copy(tiny_base)
    base.unet = UNet2DConditionModel.from_config({**tiny_base.unet.config, "in_channels": 8})
    with pytest.raises(TetherError, match="takes 8 channels"):
        tether.Pipeline(base)(PROMPT, steps=1)
