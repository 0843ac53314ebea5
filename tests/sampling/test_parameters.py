"""The settings as text, in the form that A1111's web UI writes and reads."""

from __future__ import annotations

from typing import Any

from PIL import Image

from tether.sampling import ControlRequest, Request
from tether.sampling.parameters import parameters_text


def test_the_text_has_the_form_of_the_web_ui() -> None:
    control = ControlRequest(ref="runs/canny", condition=Image.new("L", (8, 8)), strength=0.5, window=(0, 0.6))
    values: dict[str, Any] = {"steps": 12, "seed": 7, "count": 2, "size": (64, 96), "base": "a/b.safetensors"}
    request = Request(
        prompt="a cat, red", negative_prompt="dark", sigmas="karras", clip_skip=1, controls=[control], **values
    )
    assert parameters_text(request, 1) == (
        "a cat, red\nNegative prompt: dark\n"
        "Steps: 12, Sampler: DPM++ 2M, CFG scale: 5, Seed: 8, Schedule type: Karras, Size: 64x96, Model: b, "
        'Clip skip: 2, ControlNet 0: "Module: none, Model: canny, Weight: 0.5, Resize Mode: Crop and Resize, '
        'Guidance Start: 0, Guidance End: 0.6"'
    )


def test_a_schedule_is_written_as_its_mean_and_its_span() -> None:
    strength = "0.2@0.1-0.3,0.6@0.3-0.7"  # (0.2 x 0.2 + 0.4 x 0.6) / 0.6
    for window, span in (((0, 1), "0.1, Guidance End: 0.7"), ((0.2, 0.5), "0.2, Guidance End: 0.5")):
        control = ControlRequest(ref="canny", condition=Image.new("L", (8, 8)), strength=strength, window=window)
        text = parameters_text(Request(prompt="", controls=[control]), 0)
        assert "Weight: 0.466667," in text
        assert f"Guidance Start: {span}" in text


def test_what_is_not_used_is_left_out() -> None:
    request = Request(prompt="", scheduler="ddim", eta=0.5, init=Image.new("RGB", (8, 8)))
    text = "\nSteps: 20, Sampler: DDIM, CFG scale: 5, Seed: 0, Model: tether, Denoising strength: 0.6, Eta: 0.5"
    assert parameters_text(request, 0) == text
