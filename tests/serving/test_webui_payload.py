"""Payloads of the web UI's API: what is refused before anything is made of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tether.serving import Limits
from tether.serving.errors import Refused
from tether.serving.webui.payload import Options, Wanted, wanted


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
