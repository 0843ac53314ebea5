"""Prompt agreement: claims are read, hold on pictures that show them, and do not on others."""

from __future__ import annotations

import numpy as np
import pytest

from tether.datasets.synthetic.scenes import caption, render, sample_scene
from tether.datasets.synthetic.scenes.source import HELD_OUT_SCENES
from tether.evaluation.prompts import PROMPT, Claim, agreement, claims, exchanged


def test_the_claims_of_a_prompt() -> None:
    prompt = "a shiny red cube left of a matte blue sphere on a grey floor, white background, 3d scene"
    assert claims(prompt) == [
        Claim("red", "cube"),
        Claim("blue", "sphere"),
        Claim("grey", "floor"),
        Claim("white", "background"),
    ]
    assert claims("a Red apple, 3d emoji") == [Claim("red", "")]
    assert claims("a house, covered in redness") == []


def test_exchanged_colors_are_none_that_the_prompt_names() -> None:
    prompt = "a red cube and a blue cube on a grey floor, red background"
    before, after = ({one.color for one in claims(text)} for text in (prompt, exchanged(prompt)))
    assert not before & after
    assert [one.what for one in claims(exchanged(prompt))] == [one.what for one in claims(prompt)]


def plain(top: tuple[int, int, int], middle: tuple[int, int, int]) -> np.ndarray:
    pixels = np.full((64, 64, 3), top, np.uint8)
    pixels[20:50, 20:50] = middle
    return pixels


def test_a_background_is_at_the_upper_edge_and_other_colors_are_somewhere() -> None:
    pixels = plain((72, 118, 214), (214, 42, 42))
    assert agreement(pixels, "a red apple, blue background") == {"claims": 2, "held": 2}
    assert agreement(pixels, "a green apple, red background") == {"claims": 2, "held": 0}
    assert agreement(pixels, "an apple") == {"claims": 0, "held": 0}


def test_on_held_out_scenes_true_claims_hold_and_false_ones_do_not() -> None:
    counts = {"true": np.zeros(2), "false": np.zeros(2)}
    for seed in HELD_OUT_SCENES[200:225]:
        spec = sample_scene(seed)
        scene = render(spec, 128, samples=1)
        prompt = caption(spec)
        for name, words in (("true", prompt), ("false", exchanged(prompt))):
            numbers = agreement(scene.image, words, lambda image, scene=scene: scene.classes)
            counts[name] += (numbers["held"], numbers["claims"])
    assert counts["true"][0] / counts["true"][1] > 0.93
    assert counts["false"][0] / counts["false"][1] < 0.06


def test_a_shape_of_the_right_color_must_be_there() -> None:
    pixels = plain((255, 255, 255), (214, 42, 42))
    classes = np.zeros((64, 64), np.int64)
    classes[20:50, 20:50] = 3  # cube
    assert agreement(pixels, "a red cube", lambda image: classes)["held"] == 1
    assert agreement(pixels, "a red cone", lambda image: classes)["held"] == 0
    assert agreement(pixels, "a blue cube", lambda image: classes)["held"] == 0


def test_without_any_claim_there_is_no_score() -> None:
    empty = {"claims": np.zeros((2, 1)), "held": np.zeros((2, 1))}
    assert np.isnan(PROMPT.pool(empty))
    assert PROMPT.pool({"claims": np.array([[3.0], [0.0]]), "held": np.array([[2.0], [0.0]])}) == pytest.approx(2 / 3)
