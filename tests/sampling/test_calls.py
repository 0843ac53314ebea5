"""Calls as people write them, and as they bring them from diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.base import Base, ControlNet
from tether.control import Injection
from tether.errors import TetherError
from tether.sampling.calls import read_call

WHITE, BLACK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8))
VALUES: dict[str, Any] = {
    "prompt": "a",
    "conditions": (),
    "negative_prompt": "",
    "seed": 0,
    "count": 1,
    "steps": 20,
    "guidance_scale": 5.0,
    "scheduler": "dpmpp-2m",
    "size": None,
    "fit": "crop",
    "init": None,
    "mask": None,
    "denoising_strength": 0.6,
    "injections": None,
    "output": "pil",
}


def read(controls: int = 1, others: dict[str, Any] | None = None, **values: Any) -> list[Any]:
    return read_call(VALUES | values, others or {}, controls)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"num_inference_steps": 7}, {"steps": 7}),
        ({"num_images_per_prompt": 2}, {"count": 2}),
        ({"height": 64, "width": 32}, {"size": (32, 64)}),
        ({"strength": 0.5}, {"denoising_strength": 0.5}),
        ({"generator": torch.Generator().manual_seed(3)}, {"seed": 3}),
    ],
)
def test_diffusers_names_say_the_same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert read(others=theirs)[0].request == read(**ours)[0].request


def test_the_condition_and_how_it_acts_under_diffusers_names() -> None:
    others = {
        "image": WHITE,
        "controlnet_conditioning_scale": 0.5,
        "control_guidance_start": 0.1,
        "control_guidance_end": 0.8,
        "output_type": "latent",
    }
    (call,) = read(others=others)
    assert call.conditions == [[WHITE]]
    assert call.latents
    (injection,) = call.injections
    assert (injection.strength, injection.window) == (0.5, (0.1, 0.8))
    (call,) = read(2, {"controlnet_conditioning_scale": [0.5, 1.0]}, conditions=[WHITE, BLACK])
    assert [one.strength for one in call.injections] == [0.5, 1.0]


def test_a_condition_and_an_injection_need_no_list() -> None:
    (call,) = read(conditions=np.zeros((8, 8)), injections=Injection(0.5))
    assert len(call.conditions) == len(call.injections) == 1
    assert read(injections=[0.5])[0].injections[0].strength == 0.5


def test_one_control_may_have_a_map_an_image() -> None:
    for conditions in ([[WHITE, BLACK]], [WHITE, BLACK], torch.zeros(2, 3, 8, 8)):
        (call,) = read(conditions=conditions, count=2)
        assert [len(one) for one in call.conditions] == [2]


def test_prompts_are_drawn_one_after_the_other() -> None:
    calls = read(
        prompt=["a", "b"], negative_prompt=["c", None], count=2, seed=5, conditions=[[WHITE, BLACK, WHITE, BLACK]]
    )
    assert [(call.request.prompt, call.request.negative_prompt) for call in calls] == [("a", "c"), ("b", "")]
    assert [call.request.seeds for call in calls] == [[5, 6], [7, 8]]
    assert [call.conditions for call in calls] == [[[WHITE, BLACK]], [[WHITE, BLACK]]]


def test_what_is_none_is_the_default() -> None:
    given = dict.fromkeys(("negative_prompt", "guidance_scale", "scheduler", "steps", "count"))
    assert read(**given)[0].request == read()[0].request
    assert read(size=64)[0].request.size == read(size="64x64")[0].request.size == (64, 64)


@pytest.mark.parametrize(
    ("values", "others", "message"),
    [
        ({}, {"num_inference_step": 3}, "unknown argument 'num_inference_step': did you mean num_inference_steps?"),
        ({}, {"callback_on_step_end": print}, "unknown argument 'callback_on_step_end'"),
        ({"steps": 5}, {"num_inference_steps": 3}, "num_inference_steps and steps are the same: give one of them"),
        ({}, {"height": 64}, "give width and height, or size"),
        ({"injections": [Injection()]}, {"controlnet_conditioning_scale": 1.0}, "are the same: give one of them"),
        ({}, {"controlnet_conditioning_scale": [1.0, 2.0]}, "has 2 values for 1 controls"),
        ({"seed": None}, {}, "seed is None: expected a whole number, or one an image"),
        ({"seed": [0.5]}, {}, "expected a whole number for each image"),
        ({"seed": torch.Generator()}, {"generator": torch.Generator()}, "generator and seed are the same"),
        ({"count": 0}, {}, "count is 0: expected a whole number from 1 to 1000"),
        ({"count": 10**9}, {}, "count is 1000000000"),
        ({"size": "64by64"}, {}, "size is '64by64': expected"),
        ({"prompt": []}, {}, "0 prompts with 1 negative prompts"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c", "d", "e"]}, {}, "2 prompts with 3 negative prompts"),
        ({"conditions": [[WHITE, BLACK]], "count": 3}, {}, "2 conditions for 3 images: give one, or one an image"),
        ({"output": "np"}, {}, "output is 'np': expected pil or latents"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(values: dict[str, Any], others: dict[str, Any], message: str) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        read(1, others, **values)
    assert "\n" not in str(caught.value)


def test_an_image_without_a_control_is_refused() -> None:
    with pytest.raises(TetherError, match="image without a control: give init"):
        read(0, {"image": WHITE})


def test_a_generator_that_was_used_is_refused() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(1, generator=generator)
    with pytest.raises(TetherError, match="seed is a generator that was used"):
        read(seed=generator)


def control_of(base: Base, channels: int) -> ControlNet:
    torch.manual_seed(0)
    control = ControlNet.from_unet(base.unet, condition_channels=channels)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return control


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_control_of_other_channels_draws(tiny_base: Base, channels: int) -> None:
    pipe = tether.Pipeline(tiny_base, control_of(tiny_base, channels))
    maps = np.random.default_rng(0).integers(0, 255, (64, 64, channels), dtype=np.uint8)
    drawn = [pipe("a", one, steps=1, output="latents") for one in (maps, np.zeros_like(maps))]
    assert not torch.equal(*drawn)  # type: ignore[arg-type]


def test_each_image_of_a_batch_follows_its_own_map(tiny_base: Base) -> None:
    pipe = tether.Pipeline(tiny_base, control_of(tiny_base, 3))
    options: dict[str, Any] = {"steps": 2, "output": "latents", "injections": Injection(30.0)}
    both = pipe("a", [[WHITE, BLACK]], seed=[4, 4], **options)
    for latents, condition in zip(both, (WHITE, BLACK), strict=True):
        torch.testing.assert_close(latents, pipe("a", [condition], seed=4, **options)[0], atol=1e-3, rtol=1e-3)
    assert (both[0] - both[1]).abs().max() > 0.01  # type: ignore[operator]


def test_a_pipeline_opens_paths_and_refuses_what_is_no_control(tiny_folder: Any, tiny_base: Base) -> None:
    assert tether.Pipeline(str(tiny_folder)).base.name == tiny_base.name  # type: ignore[arg-type]
    with pytest.raises(TetherError, match="a control is a Linear: open it with"):
        tether.Pipeline(tiny_base, [torch.nn.Linear(1, 1)])  # type: ignore[list-item]
    with pytest.raises(TetherError, match="base is a NoneType: open it with"):
        tether.Pipeline(None)  # type: ignore[arg-type]
