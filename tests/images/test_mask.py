"""A mask is luminance times alpha; alpha alone if all that is visible has one color."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tether.control import Injection
from tether.images import to_mask

SQUARE = (80, 80, 127, 127)


def painted(ground: tuple[int, ...], ink: tuple[int, ...]) -> Image.Image:
    image = Image.new("RGBA", (128, 128), ground)
    ImageDraw.Draw(image).rectangle(SQUARE, fill=ink)
    return image


def square() -> np.ndarray:
    expected = np.zeros((128, 128), np.uint8)
    expected[80:, 80:] = 255
    return expected


MASKS = {
    "white on black": painted((0, 0, 0, 255), (255, 255, 255, 255)),
    "white on transparent": painted((0, 0, 0, 0), (255, 255, 255, 255)),
    "white on transparent white": painted((255, 255, 255, 0), (255, 255, 255, 255)),
    "black on transparent": painted((0, 0, 0, 0), (0, 0, 0, 255)),
    "red on transparent": painted((0, 0, 0, 0), (255, 0, 0, 255)),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_square_is_the_mask_however_it_was_drawn(name: str) -> None:
    mask = to_mask(MASKS[name])
    assert mask.mode == "L"
    assert np.array_equal(np.asarray(mask), square())


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "LA", "PA", "RGBA", "CMYK"])
def test_the_mode_does_not_matter(mode: str) -> None:
    opaque = mode in ("L", "RGB", "1", "CMYK")
    mask = MASKS["white on black" if opaque else "white on transparent"].convert("RGB" if opaque else "RGBA")
    assert np.array_equal(np.asarray(to_mask(mask.convert(mode))), square())


def test_a_mask_of_one_level_without_transparency_is_that_level() -> None:
    for level in (0, 128, 255):
        for mode in ("L", "RGB", "RGBA"):
            assert to_mask(Image.new("L", (8, 8), level).convert(mode)).getextrema() == (level, level)


def test_soft_alpha_is_kept_and_multiplied_with_luminance() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    black = Image.merge("RGBA", [Image.new("L", (256, 1))] * 3 + [ramp])
    assert np.array_equal(np.asarray(to_mask(black)), np.asarray(ramp))
    both = Image.merge("RGBA", [ramp] * 3 + [ramp])
    expected = (np.arange(256.0) ** 2 / 255 + 0.5).astype(np.uint8)
    assert np.array_equal(np.asarray(to_mask(both))[0], expected)


@pytest.mark.parametrize("method", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_a_stroke_whose_edges_were_made_smooth_is_still_one_color(method: Image.Resampling) -> None:
    stroke = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(stroke).ellipse((10, 10, 50, 50), fill=(200, 90, 30, 255))
    soft = stroke.resize((24, 24), method)
    assert to_mask(soft).tobytes() == soft.getchannel("A").tobytes()


def test_black_that_is_partly_transparent_beside_white_is_not_one_color() -> None:
    image = painted((0, 0, 0, 100), (255, 255, 255, 255))
    assert np.array_equal(np.asarray(to_mask(image)), square())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa", "La"])
@pytest.mark.parametrize("name", MASKS)
def test_the_mask_of_an_injection_is_the_same(name: str, mode: str) -> None:
    image = MASKS[name]
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    mask = Injection(mask=image).mask
    assert isinstance(mask, torch.Tensor)
    assert torch.equal(mask, torch.from_numpy(np.array(to_mask(image)))[None, None] / 255)
