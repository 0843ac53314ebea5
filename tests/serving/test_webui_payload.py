"""Payloads of the web UI's API: what is refused before anything is made of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from PIL import Image

from tether.serving import Limits
from tether.serving.errors import Refused
from tether.serving.webui.payload import Options, Wanted, wanted

from .conftest import as_base64


def read(payload: dict[str, Any], *, limits: Limits | None = None, from_image: bool = False) -> Wanted:
    return wanted(payload, Options(), limits or Limits(), from_image=from_image)


def refused(payload: dict[str, Any], *, limits: Limits | None = None, from_image: bool = False) -> Refused:
    with pytest.raises(Refused) as caught:
        read(payload, limits=limits, from_image=from_image)
    return caught.value


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_long_text_is_refused_before_it_is_searched(name: str) -> None:
    started = time.perf_counter()
    error = refused({name: "<lora:a:" + "1" * 1_000_000})
    assert (error.status, error.field) == (422, name)
    assert time.perf_counter() - started < 10


def test_a_prompt_of_many_digits_is_read_in_no_time() -> None:
    started = time.perf_counter()
    read({"prompt": "<lora:a:" + "1" * 50_000}, limits=Limits(prompt=100_000))
    assert time.perf_counter() - started < 10  # in proportion to the square of its length it takes minutes


def test_a_size_above_the_limit_is_refused_before_images_are_fitted_to_it() -> None:
    values = {"width": 4096, "height": 4096, "init_images": ["no image"]}
    error = refused({"prompt": "x"} | values, limits=Limits(pixels=512 * 512), from_image=True)
    assert (error.status, error.field) == (422, "width")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"batch_size": 2.9}, "batch_size"),
        ({"n_iter": 1.5}, "n_iter"),
        ({"seed": 3.7}, "seed"),
        ({"seed": -0.5}, "seed"),
        ({"width": 64.5}, "width"),
        ({"clip_skip": 1.5}, "clip_skip.CLIP_stop_at_last_layers"),
    ],
)
def test_a_part_of_a_whole_is_refused(values: dict[str, Any], field: str) -> None:
    error = refused({"prompt": "x"} | values)
    assert (error.status, error.field) == (422, field)


def test_a_whole_number_may_be_written_as_a_float() -> None:
    values = read({"batch_size": 2.0, "seed": 2**63 + 1, "width": 64.0}).values
    assert (values["count"], values["seed"], values["size"]) == (2, 2**63 + 1, [64, 512])


@pytest.mark.parametrize("mode", ["9" * 5000, "\u0669" * 5000, "-1", "3"])
def test_a_mode_that_is_no_number_of_one_is_refused(mode: str) -> None:
    unit = {"model": "edges", "resize_mode": mode}
    error = refused({"prompt": "x", "alwayson_scripts": {"controlnet": {"args": [unit]}}})
    assert (error.status, error.field) == (422, "alwayson_scripts.controlnet.args.0.resize_mode")


@pytest.mark.parametrize("rounded", [True, False])
def test_the_values_of_a_mask_that_clients_write_out_are_taken(rounded: bool) -> None:
    black = as_base64(Image.new("RGB", (64, 64)))
    values = {"mask_round": rounded, "inpainting_fill": 1, "inpaint_full_res": False}
    assert "mask" in read({"init_images": [black], "mask": black} | values, from_image=True).values
