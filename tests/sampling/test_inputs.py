"""Images in every form that people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tether.errors import TetherError
from tether.sampling.inputs import as_image, as_maps, map_pixels

LEVELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
FORMS: dict[str, Any] = {
    "PIL": Image.fromarray(LEVELS),
    "bytes": LEVELS,
    "floats": LEVELS.astype(np.float64) / 255,
    "long integers": LEVELS.astype(np.int64),
    "tensor": torch.from_numpy(LEVELS).permute(2, 0, 1),
    "half tensor": torch.from_numpy(LEVELS).permute(2, 0, 1).half() / 255,
    "batch of one": torch.from_numpy(LEVELS).permute(2, 0, 1)[None].float() / 255,
    "list of one": [LEVELS],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_levels(form: str) -> None:
    assert np.array_equal(np.asarray(as_image(FORMS[form], "init")), LEVELS)


def test_a_path_is_opened(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "x.png")
    for path in (tmp_path / "x.png", str(tmp_path / "x.png")):
        assert np.array_equal(np.asarray(as_image(path, "init")), LEVELS)


def test_truth_values_and_zeros_and_ones_are_black_and_white() -> None:
    edges = np.eye(4, dtype=bool)
    for form in (edges, edges.astype(np.uint8), edges.astype(float), torch.from_numpy(edges)):
        image = as_image(form, "mask")
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), edges * 255)


def test_a_batch_is_a_map_an_image() -> None:
    batch = torch.stack([torch.zeros(3, 4, 6), torch.ones(3, 4, 6)])
    for form in (batch, batch.permute(0, 2, 3, 1).numpy(), list(batch)):
        black, white = as_maps(form, "condition")
        assert (np.asarray(black).max(), np.asarray(white).min()) == (0, 255)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "init is a NoneType: expected an image, an array, a tensor or a path"),
        (3, "init is a int"),
        (torch.zeros(3, 4, 6) - 1, r"init has float32 values in \[-1, -1\]: expected bytes or floats in \[0, 1\]"),
        (np.full((4, 6), np.nan), "init has float64 values"),
        (np.full((4, 6, 3), 4000), "init has int64 values in"),
        (np.zeros((3, 40, 60)), r"init has the shape \(3, 40, 60\), channels first"),
        (np.zeros(7), r"init has the shape \(7, 1\)|init has the shape \(7,\)"),
        (np.zeros((0, 4, 3)), "init has the shape"),
        (np.zeros((2, 4, 6, 3)), "init has 2 images: expected one"),
        (np.zeros((4, 6, 5)), "init has 5 channels: expected 1, 3 or 4"),
        ("missing.png", "there is no file missing.png"),
    ],
)
def test_what_is_not_an_image_is_refused_in_one_line(value: Any, message: str) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        as_image(value, "init")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_a_map_has_the_channels_of_its_control(channels: int) -> None:
    levels = np.random.default_rng(0).integers(2, 250, (8, 8, channels), dtype=np.uint8)
    (condition,) = as_maps(levels, "condition")
    pixels = map_pixels(condition, None, channels, (8, 8), "crop")
    assert torch.equal((pixels[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(levels))
    assert map_pixels(condition, None, channels, (16, 24), "pad").shape == (1, channels, 24, 16)


def test_a_gray_map_serves_three_channels_and_a_color_map_one() -> None:
    gray = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    three = map_pixels(gray, None, 3, (8, 8), "crop")
    assert torch.equal(three, map_pixels(gray, None, 1, (8, 8), "crop").expand(1, 3, 8, 8))


def test_a_map_of_other_channels_is_refused() -> None:
    with pytest.raises(TetherError, match=r"conditions of 6 channels, not 3: give an array \(H, W, 6\)"):
        map_pixels(Image.new("RGB", (8, 8)), None, 6, (8, 8), "crop")
