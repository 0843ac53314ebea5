"""Requests drawn as one batch: each image is the one that its request gives alone, within one level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tether.sampling import Cancelled, ControlRequest, Drawn, Request, Session
from tether.sampling.together import alike


@pytest.fixture
def control(control_folder: Path) -> str:
    return str(control_folder)


def lines(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 2, (64, 64), np.uint8) * 255).convert("RGB")


def furthest(one: list[Drawn], other: list[Drawn]) -> int:
    pairs = zip(one, other, strict=True)
    return max(int(np.abs(np.asarray(a.image, int) - np.asarray(b.image, int)).max()) for a, b in pairs)


@pytest.mark.parametrize("values", [{}, {"guidance_scale": 1.0}, {"scheduler": "euler-a"}, {"guidance_rescale": 0.5}])
def test_each_image_is_that_of_its_request_alone(tiny_folder: Path, control: str, values: dict[str, Any]) -> None:
    session = Session()

    def request(prompt: str, seed: int, count: int, maps: Any, **other: Any) -> Request:
        entry = ControlRequest(ref=control, condition=maps, strength=0.8)
        common = {"base": str(tiny_folder), "steps": 3, "controls": [entry]} | values | other
        return session.prepare(Request(prompt=prompt, seed=seed, count=count, **common))

    requests = [
        request("a cube", 3, 1, lines(0)),
        request("two balls", 9, 2, lines(1), negative_prompt="blue"),
        request("a (big:1.3) cat", 4, 2, [lines(2), lines(3)]),
    ]
    together = session.draw_together(requests)
    assert together is not None
    for request_, drawn in zip(requests, together, strict=True):
        alone = session.draw(request_)
        assert furthest(drawn, alone) <= 1
        assert [one.metadata for one in drawn] == [one.metadata for one in alone]
        assert [one.seed for one in drawn] == [one.seed for one in alone]
    assert furthest(together[0], together[1][:1]) > 1  # they are not all the same image


def test_prompts_of_different_lengths_are_not_stacked(tiny_folder: Path) -> None:
    session = Session()
    prompts = ["a cube", "a very long prompt of many words " * 4]
    requests = [session.prepare(Request(prompt=one, base=str(tiny_folder), steps=1)) for one in prompts]
    assert session.draw_together(requests) is None


def test_a_batch_is_cancelled_between_steps(tiny_folder: Path) -> None:
    session = Session()
    requests = [session.prepare(Request(prompt=one, base=str(tiny_folder), steps=9)) for one in "ab"]
    heard: list[int] = []
    with pytest.raises(Cancelled):
        session.draw_together(requests, on_step=lambda step: heard.append(step.index), cancel=lambda: len(heard) == 2)
    assert heard == [0, 1]


ENTRY = ControlRequest(ref="x", condition=lines(0))


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "other", "negative_prompt": "y", "seed": 7, "count": 3},
        {"controls": [ControlRequest(ref="x", condition=lines(1), source="file")]},
        {"controls": [ControlRequest(ref="x", photo=lines(1), kind="canny", options={"low": 9})]},
    ],
)
def test_own_fields_keep_requests_alike(values: dict[str, Any]) -> None:
    common = {"prompt": "x", "controls": [ENTRY]}
    assert alike(Request(**common)) == alike(Request(**common | values)) != ""


@pytest.mark.parametrize(
    "values",
    [{"steps": 19}, {"base": "b"}, {"size": (64, 64)}, {"scheduler": "ddim"}, {"guidance_scale": 2.0}, {"controls": []}]
    + [{"clip_skip": 1}, {"dtype": "bfloat16"}, {"loras": ["a"]}, {"vae": "v"}, {"controls": [ENTRY, ENTRY]}]
    + [{"controls": [ENTRY.model_copy(update=change)]} for change in ({"ref": "y"}, {"strength": 0.5}, {"sides": 0.5})],
)
def test_all_other_fields_make_requests_different(values: dict[str, Any]) -> None:
    common = {"prompt": "x", "controls": [ENTRY]}
    assert alike(Request(**common)) != alike(Request(**common | values)) != ""


def test_what_has_to_be_drawn_alone_is_like_nothing() -> None:
    image = lines(0)
    masked = ENTRY.model_copy(update={"mask": image.convert("L")})
    alone = [
        {"init": image},
        {"init": image, "mask": image},
        {"low_memory": True},
        {"rules": 1},
        {"controls": [masked]},
        {"controls": [ENTRY.model_copy(update={"tolerance": 0.1})]},
    ]
    assert [alike(Request(prompt="x", **values)) for values in alone] == [""] * 6
