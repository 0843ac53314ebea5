"""Options that have nothing to act on are refused; the others make a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tether.cli.options import GenerateOptions
from tether.cli.requests import prompts_of, request_of
from tether.errors import TetherError
from tether.sampling import Request


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (16, 16), "white").save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoising_strength": 0.5}, "--denoising-strength has nothing to act on: it needs --init"),
        ({"mask": Path("m.png")}, "--mask has nothing to act on: it needs --init"),
        ({"weighting": "cfg-rw"}, "--weighting has nothing to act on"),
        ({"sides": "both"}, "--sides has nothing to act on"),
        ({"fit": "pad"}, "--fit has nothing to act on"),
        ({"invert": True, "control": ["canny=x.png"]}, "--invert has nothing to act on: it needs --condition"),
        ({"negative_prompt": "b", "guidance_scale": 1.0}, "--negative-prompt has nothing to act on"),
        ({"guidance_rescale": 0.7, "guidance_scale": 1.0}, "--guidance-rescale has nothing to act on"),
        ({"control_tolerance": 0.2}, "--control-tolerance has nothing to act on"),
        ({"deep_skips": 2}, "--deep-skips has nothing to act on: it needs --deep-every above 1, or --fast"),
        ({"deep_window": "0-0.5", "deep_every": 1}, "--deep-window has nothing to act on"),
        ({"deep_window": "a", "deep_every": 2}, "--deep-window a: write START-END"),
        ({"fast": True, "deep_every": 1}, "--fast has nothing to act on: it needs --deep-every above 1"),
        ({"older_guidance": 3.0, "guidance_scale": 7.0}, "--guidance is the older name of --guidance-scale: give one"),
        ({"older_negative": "a", "negative_prompt": "a"}, "--negative is the older name of --negative-prompt"),
        (
            {"control": ["canny=x.png,mask_resize=bilinear"]},
            "mask_resize of canny has nothing to act on: it needs mask",
        ),
        ({"seed": "1,2", "count": 3}, "--seed already names every image"),
        ({"control": ["canny=none.png"]}, "there is no file none"),
        ({"control": ["cany=none.png"]}, "there is no control 'cany': did you mean canny"),
    ],
)
def test_what_cannot_be_right_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TetherError, match=message):
        request_of(GenerateOptions(**options), "x")


def test_a_seed_is_drawn_where_none_is_given(tmp_path: Path) -> None:
    seeds = {request_of(GenerateOptions(out=tmp_path), "x").seed for _ in range(8)}
    assert len(seeds) > 1
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)
    assert request_of(GenerateOptions(out=tmp_path, seed="5"), "x").seed == 5


def test_each_control_has_its_own_settings(image: Path, tmp_path: Path) -> None:
    options = GenerateOptions(
        out=tmp_path,
        control=[f"canny={image}:0.5,weighting=cfg-rw,sides=0.5,low=20,mask={image}"],
        condition=[f"canny={image},invert=true", f"canny={image}"],
        weighting="released",
    )
    photo, inverted, plain = request_of(options, "x").controls
    assert (photo.strength, photo.weighting, photo.sides, photo.options) == (0.5, "cfg-rw", 0.5, {"low": 20})
    assert photo.mask is not None
    assert (inverted.weighting, inverted.invert, plain.invert) == ("released", True, None)


def test_less_work_of_the_options_is_that_of_the_request(image: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "deep_every": 2,
        "deep_skips": 3,
        "deep_window": "0.1-1",
        "merge_tokens": 0.5,
        "control_tolerance": 0.1,
    }
    options = GenerateOptions(out=tmp_path, control=[f"canny={image}", f"canny={image},tolerance=0.3"], **given)
    request = request_of(options, "x")
    assert (request.deep_every, request.deep_skips, request.deep_window) == (2, 3, (0.1, 1.0))
    assert request.merge_tokens == 0.5
    assert [one.tolerance for one in request.controls] == [0.1, 0.3]
    fast = request_of(GenerateOptions(out=tmp_path, fast=True, deep_skips=2, seed="1"), "x")
    assert fast == Request(prompt="x", fast=True, deep_skips=2, seed=1)


def test_an_output_that_is_an_input_is_refused(image: Path) -> None:
    for option in ("out", "preview"):
        with pytest.raises(TetherError, match=f"--{option} .*image.png is an input, which would be lost"):
            request_of(GenerateOptions(**{"init": image, option: image}), "x")  # type: ignore[arg-type]


def test_a_preview_that_is_the_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"--preview .*cat.png is --out, too: give another name"):
        request_of(GenerateOptions(out=tmp_path / "cat.png", preview=tmp_path / "x" / ".." / "cat.png"), "x")


def test_prompts_of_a_file_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat\n\n# not this\n  a dog \n", encoding="utf-8")
    assert prompts_of(GenerateOptions(prompts=path)) == ["a cat", "a dog"]
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(TetherError, match="cannot be read as text"):
        prompts_of(GenerateOptions(prompts=path))
    with pytest.raises(TetherError, match="is a folder: expected a text file of prompts"):
        prompts_of(GenerateOptions(prompts=tmp_path))
    path.write_text("\n")
    with pytest.raises(TetherError, match="has no prompt: expected one a line"):
        prompts_of(GenerateOptions(prompts=path))
