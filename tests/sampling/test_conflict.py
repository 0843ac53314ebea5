"""Two maps that cannot both be followed, on the shipped base: the picture is finite, and keeps its contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tether

EXAMPLES = Path(tether.__file__).parent / "examples"


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """Name -> two pictures `(2, H, W, 3)` of one prompt and two seeds; latents are checked on the way."""
    base = tether.load_base()
    canny = tether.ControlNet.load("canny")
    house, mouse = (
        tether.annotate("canny", Image.open(EXAMPLES / f"{name}.webp").convert("RGB")) for name in ("house", "mouse")
    )
    runs = {
        "one": ([house], "sum"),
        "conflict": ([house, mouse], "sum"),
        "conflict, limited": ([house, mouse], "limited"),
        "four and one": ([house] * 4 + [mouse], "sum"),
        "four and one, limited": ([house] * 4 + [mouse], "limited"),
    }
    found = {}
    for name, (maps, combine) in runs.items():
        pipeline = tether.Pipeline(base, [canny] * len(maps))
        both = [tether.Injection(sides="both")] * len(maps)
        latents = pipeline(
            "a house, 3d emoji", maps, seed=7, count=2, steps=8, combine=combine, injections=both, output="latents"
        )
        assert isinstance(latents, torch.Tensor)
        assert latents.isfinite().all(), name
        found[name] = np.stack([np.asarray(image) for image in pipeline.decode(latents)]).astype(float)
    return found


def contrast(pixels: np.ndarray) -> float:
    return float(pixels.std())


def test_no_picture_is_saturated(drawn: dict[str, np.ndarray]) -> None:
    for name, pixels in drawn.items():
        clipped = (pixels.max(axis=-1) >= 254) & (pixels.min(axis=-1) <= 1)
        assert clipped.mean() < 0.02, name


def test_limited_keeps_the_contrast_that_the_sum_loses(drawn: dict[str, np.ndarray]) -> None:
    one = contrast(drawn["one"])
    for name in ("conflict", "four and one"):
        limited = contrast(drawn[f"{name}, limited"])
        assert limited > contrast(drawn[name])
        assert limited > 0.85 * one


def test_what_four_of_five_agree_on_is_drawn_as_by_one(drawn: dict[str, np.ndarray]) -> None:
    def difference(name: str) -> float:
        return float(np.abs(drawn[name] - drawn["one"]).mean())

    assert difference("four and one, limited") < 0.5 * difference("four and one")
