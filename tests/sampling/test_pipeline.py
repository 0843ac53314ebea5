"""What the pipeline promises. Parity with diffusers' pipelines: tests/reference/test_diffusers_parity.py."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import tether
from tether.base import Base, ControlNet
from tether.errors import TetherError
from tether.images import fit, to_pixels, to_rgb
from tether.sampling import SCHEDULERS, ControlRequest, Request, make_scheduler
from tether.sampling.request import RULES

from ..tiny import make_unet

PROMPT = "a red cube"


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


def test_without_control_equals_the_plain_pipeline_of_diffusers(tiny_base: Base, tiny_folder: Path) -> None:
    reference = StableDiffusionPipeline.from_pretrained(
        tiny_folder, scheduler=make_scheduler("euler", tiny_base.noise_schedule)
    )
    reference.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = reference(PROMPT, latents=noise, num_inference_steps=5, guidance_scale=4.0, output_type="latent").images
    ours = tether.Pipeline(tiny_base)(
        PROMPT, seed=5, steps=5, guidance_scale=4.0, scheduler="euler", spacing="leading", output="latents"
    )
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_a_control_of_strength_zero_gives_the_base_image_to_the_byte(tiny_base: Base, condition: Image.Image) -> None:
    silent = tether.Pipeline(tiny_base, [trained_control(tiny_base, 3)])(
        PROMPT, [condition], seed=1, steps=4, injections=[tether.Injection(strength=0.0)]
    )
    plain = tether.Pipeline(tiny_base)(PROMPT, seed=1, steps=4)
    assert silent[0].tobytes() == plain[0].tobytes()


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_the_same_seed_gives_the_same_bytes_and_the_image_drawn_alone_to_one_level(
    tiny_base: Base, condition: Image.Image, name: str
) -> None:
    pipe = tether.Pipeline(tiny_base, [trained_control(tiny_base, 4)])
    options: dict[str, Any] = {"conditions": [condition], "steps": 5, "scheduler": name}
    batch = pipe(PROMPT, seed=3, count=3, **options)
    assert [p.tobytes() for p in pipe(PROMPT, seed=3, count=3, **options)] == [p.tobytes() for p in batch]
    alone = pipe(PROMPT, seed=5, **options)[0]
    assert np.abs(np.asarray(alone, int) - np.asarray(batch[2], int)).max() <= 1
    assert batch[0].tobytes() != batch[1].tobytes()


def test_each_image_may_have_a_seed_of_its_own(tiny_base: Base) -> None:
    pipe = tether.Pipeline(tiny_base)
    one, other = pipe(PROMPT, seed=[9, 4], steps=2, output="latents")
    for latents, seed in ((one, 9), (other, 4)):
        alone = pipe(PROMPT, seed=np.int64(seed), steps=2, output="latents")  # type: ignore[arg-type]
        torch.testing.assert_close(latents, alone[0], atol=1e-4, rtol=1e-4)


def test_inpainting_keeps_what_the_mask_leaves_black(tiny_base: Base, photo: Image.Image) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    known = tiny_base.encode_images(to_pixels(photo))
    latents = tether.Pipeline(tiny_base)(
        PROMPT, seed=2, steps=6, init=photo, mask=mask, denoising_strength=1.0, scheduler="ddim", output="latents"
    )
    assert torch.equal(latents[..., :4], known[..., :4])
    assert (latents[..., 4:] - known[..., 4:]).abs().mean() > 0.05


@pytest.mark.parametrize("made", ["base", "inpainting base", "inpainting control"])
def test_what_the_mask_keeps_is_kept_to_the_byte(tiny_base: Base, photo: Image.Image, made: str) -> None:
    if made == "inpainting base":
        tiny_base.unet = make_unet("inpainting", cross_attention_dim=32)
    controls = [trained_control(tiny_base, 5)] if made == "inpainting control" else []
    for control in controls:
        control.kind = "inpaint"
    mask = Image.new("L", (64, 64))
    mask.paste(255, (30, 20, 61, 64))
    pipe = tether.Pipeline(tiny_base, controls)
    options: dict[str, Any] = {"init": photo, "mask": mask, "steps": 2, "seed": [4, 5], "size": (64, 64)}
    conditions = [photo] * len(controls)
    decoded = pipe.decode(pipe(PROMPT, conditions, output="latents", **options))  # type: ignore[arg-type]
    for drawn, plain in zip(pipe(PROMPT, conditions, **options), decoded, strict=True):
        kept = np.asarray(mask) == 0
        assert np.array_equal(np.asarray(drawn)[kept], np.asarray(photo)[kept])
        assert np.array_equal(np.asarray(drawn)[~kept], np.asarray(plain)[~kept])
        assert (np.asarray(plain)[kept] != np.asarray(photo)[kept]).mean() > 0.1  # what pasting is for


def test_init_of_another_shape_is_kept_as_it_is_fitted_and_lies_on_white(tiny_base: Base, photo: Image.Image) -> None:
    init = photo.resize((96, 64)).convert("RGBA")
    init.paste((9, 9, 9, 0), (0, 0, 40, 64))
    drawn = tether.Pipeline(tiny_base)(PROMPT, init=init, mask=Image.new("L", (96, 64)), steps=2, fit="crop")
    expected = fit(to_rgb(init), 64, 64, "crop")
    assert expected.getpixel((5, 5)) == (255, 255, 255)
    assert drawn[0].tobytes() == expected.tobytes()


def test_what_has_no_effect_is_said_once_a_control(tiny_base: Base, condition: Image.Image, photo: Image.Image) -> None:
    lines: list[str] = []
    pipe = tether.Pipeline(tiny_base, [trained_control(tiny_base, 4)] * 2, notify=lines.append)
    injections = [tether.Injection(strength=0), tether.Injection(window=(0, 0.04))]
    nothing = Image.new("L", (64, 64))
    pipe(PROMPT, [condition] * 2, injections=injections, steps=4, init=photo, mask=nothing, guidance_scale=0)
    assert lines == [
        "control (number 1) has no effect: its strength is 0",
        "control (number 2) has no effect: none of the 2 steps lies in its window 0-0.04",
        "mask is black everywhere: nothing of init is generated anew",
        "the prompt has no effect: guidance_scale is 0; for no guidance it is 1",
    ]
    del lines[:]
    pipe(PROMPT, [condition] * 2, steps=2)
    assert lines == []
    with pytest.warns(UserWarning, match="control has no effect: its strength is 0") as caught:
        tether.Pipeline(tiny_base, pipe.controls[:1])(PROMPT, [condition], injections=injections[:1], steps=1)
    assert [one.filename for one in caught if "no effect" in str(one.message)] == [__file__]


def test_a_condition_that_is_black_everywhere_is_said(tiny_base: Base) -> None:
    lines: list[str] = []
    control = trained_control(tiny_base, 4)
    control.name = "canny"
    strokes = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    strokes.paste((0, 0, 0, 255), (10, 10, 50, 12))
    tether.Pipeline(tiny_base, [control], notify=lines.append)(PROMPT, [strokes], steps=1)
    assert lines == ["the condition of control canny says nothing: it is black everywhere"]


def test_a_single_control_whose_lines_leave_the_picture_open_is_said_before_the_first_step(tiny_base: Base) -> None:
    lines: list[str] = []
    control = trained_control(tiny_base, 4)
    control.kind = "canny"
    stroke = Image.new("RGB", (64, 64))
    stroke.paste((255, 255, 255), (10, 10, 34, 11))
    seen: list[int] = []
    pipe = tether.Pipeline(tiny_base, [control], notify=lines.append)
    pipe("", [stroke], steps=2, on_step=lambda step: seen.append(len(lines)))
    assert seen[0] == 1
    assert "may leave the picture open" in lines[0]
    both = tether.Pipeline(tiny_base, [control, trained_control(tiny_base, 4)], notify=lines.append)
    both("", [stroke, stroke], steps=1)  # the other one may settle it
    pipe("", [stroke], steps=2, init=stroke)
    assert len(lines) == 1


def test_guidance_below_one_is_between_the_two_predictions(tiny_base: Base) -> None:
    """One step of DDIM to t = 0 is linear in the prediction."""
    pipe = tether.Pipeline(tiny_base)
    options: dict[str, Any] = {"negative_prompt": "dark", "steps": 1, "scheduler": "ddim", "output": "latents"}
    at = {s: pipe(PROMPT, guidance_scale=s, **options) for s in (0.0, 0.25, 1.0)}
    unconditional = pipe("dark", guidance_scale=1.0, **options)
    apart = (at[0.0] - at[1.0]).abs().max()  # type: ignore[operator]
    assert (at[0.0] - unconditional).abs().max() < 0.01 * apart  # type: ignore[operator]
    assert (at[0.25] - 0.75 * unconditional - 0.25 * at[1.0]).abs().max() < 0.01 * apart  # type: ignore[operator]


def test_the_condition_is_encoded_once_and_not_once_a_step(tiny_base: Base, condition: Image.Image) -> None:
    control = trained_control(tiny_base, 5)
    calls = []
    control.controlnet_cond_embedding.register_forward_hook(lambda *_: calls.append(1))
    tether.Pipeline(tiny_base, [control])(PROMPT, [condition], steps=7)
    assert len(calls) == 1


def test_a_control_for_inpainting_sees_minus_one_where_the_mask_is_white(
    tiny_base: Base, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, seen = trained_control(tiny_base, 5), []
    control.kind = "inpaint"
    encode = control.encode
    monkeypatch.setattr(control, "encode", lambda pixels, *span: seen.append(pixels) or encode(pixels, *span))
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    tether.Pipeline(tiny_base, [control])(PROMPT, [photo], init=photo, mask=mask, steps=2)
    (pixels,) = seen
    assert pixels[..., 32:].eq(-1).all()
    torch.testing.assert_close(pixels[..., :32], (to_pixels(photo)[..., :32] + 1) / 2)


def test_a_callback_hears_of_every_step(tiny_base: Base) -> None:
    heard = []
    tether.Pipeline(tiny_base)(PROMPT, steps=6, on_step=lambda step: heard.append((step.index, step.total)))
    assert heard == [(k, 6) for k in range(6)]


def test_a_request_draws_what_its_arguments_draw(tiny_base: Base, condition: Image.Image) -> None:
    pipe = tether.Pipeline(tiny_base, [trained_control(tiny_base, 5)])
    entry = ControlRequest(ref="any", condition=condition, strength=0.5, window=(0, 0.6))
    (by_request,) = pipe.run(Request(prompt=PROMPT, steps=3, controls=[entry]))
    (called,) = pipe(PROMPT, [condition], steps=3, injections=[tether.Injection(0.5, window=(0, 0.6))])
    assert isinstance(called, Image.Image)
    assert by_request.tobytes() == called.tobytes()


def test_requests_of_older_rules_compare_windows_to_the_last_bit(tiny_base: Base, condition: Image.Image) -> None:
    pipe = tether.Pipeline(tiny_base, [trained_control(tiny_base, 5)])

    def drawn(end: float, **rules: int) -> bytes:
        entry = ControlRequest(ref="any", condition=condition, window=(0, end))
        return pipe.run(Request(prompt=PROMPT, steps=3, controls=[entry], **rules))[0].tobytes()

    assert drawn(0.333333) == drawn(1 / 3) == drawn(1 / 3, rules=2)
    assert drawn(0.333333, rules=2) == drawn(0.3) != drawn(1 / 3)


def test_what_a_control_recommends_is_the_default_of_the_balanced_weighting(
    tiny_base: Base, condition: Image.Image
) -> None:
    control = trained_control(tiny_base, 5)
    pipe = tether.Pipeline(tiny_base, [control])

    def drawn(rules: int = RULES, **how: Any) -> bytes:
        entry = ControlRequest(ref="any", condition=condition, **how)
        return pipe.run(Request(prompt=PROMPT, steps=3, controls=[entry], rules=rules))[0].tobytes()

    both, share, soft = drawn(), drawn(sides=0.3), drawn(weighting="soft")
    control.sides = 0.3
    assert drawn() == share != both
    assert drawn(sides="both") == drawn(rules=3) == both
    assert drawn(weighting="soft") == soft


def test_a_photo_that_is_not_annotated_is_refused(tiny_base: Base, photo: Image.Image) -> None:
    request = Request(prompt=PROMPT, controls=[ControlRequest(ref="canny", photo=photo)])
    with pytest.raises(TetherError, match="control canny has a photo, not a condition: prepare the request first"):
        tether.Pipeline(tiny_base, [trained_control(tiny_base, 5)]).run(request)


def test_older_names_of_arguments_are_taken(tiny_base: Base, photo: Image.Image) -> None:
    pipe = tether.Pipeline(tiny_base)
    wide = photo.resize((96, 64))
    options: dict[str, Any] = {"init": wide, "steps": 4, "output": "latents"}
    ours = pipe(PROMPT, denoising_strength=0.5, fit="pad", **options)
    assert torch.equal(pipe(PROMPT, strength=0.5, fit_rule="pad", **options), ours)  # type: ignore[arg-type]
    with pytest.raises(TetherError, match="unknown argument 'strenght': did you mean strength"):
        pipe(PROMPT, strenght=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"seed": []}, "seed has 0 values"),
        ({"size": (60, 64)}, "multiples of 8"),
        ({"scheduler": "heun"}, "dpmpp-2m"),
        ({"scheduler": "lcm", "steps": 51}, "1 to 50 steps"),
        ({"scheduler": "ddim", "steps": 1, "spacing": "leading"}, "cannot spread 1 steps"),
        ({"clip_skip": 2}, "clip_skip"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"mask": Image.new("L", (64, 64))}, "init"),
        ({"init": Image.new("RGB", (64, 64)), "denoising_strength": 0.01}, "nothing to draw"),
        ({"conditions": [Image.new("RGB", (64, 64))]}, "0 controls need as many conditions, not 1"),
        ({"injections": [tether.Injection()]}, "0 controls need as many injections, not 1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tiny_base: Base, options: dict, message: str) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        tether.Pipeline(tiny_base)(PROMPT, **options)
    assert "\n" not in str(caught.value)


def test_nan_is_refused_and_not_drawn(tiny_base: Base) -> None:
    base = copy.copy(tiny_base)
    base.vae = copy.deepcopy(tiny_base.vae)
    torch.nn.init.constant_(base.vae.decoder.conv_out.bias, float("nan"))
    with pytest.raises(TetherError, match="decoding produced NaN or Inf: use float32"):
        tether.Pipeline(base)(PROMPT, steps=1)
