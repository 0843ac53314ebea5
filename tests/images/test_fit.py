"""Images and maps are fitted to a size without surprises."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.images import FitRule, fit, to_condition, to_rgb


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
def test_images_of_every_mode_are_fitted_as_files_are_read(rule: FitRule) -> None:
    """Transparency stays until the role of the image is known, and 16 bits are scaled, whatever made the image."""
    clear = fit(Image.new("RGBA", (40, 20), (10, 20, 30, 0)), 16, 16, rule)
    assert clear.mode == "RGBA"
    assert set(to_rgb(clear).getdata()) == {(255, 255, 255)}
    assert to_rgb(clear, "black").getpixel((8, 8)) == (0, 0, 0)
    half = Image.fromarray(np.full((20, 40), 32_896, np.uint16))
    assert fit(half, 16, 16, rule).getpixel((8, 8)) == (128, 128, 128)
    assert to_condition(half)[0, :, 8, 8].tolist() == pytest.approx([128 / 255] * 3)


def test_the_three_rules_of_fitting() -> None:
    wide = Image.new("RGB", (200, 100), (255, 0, 0))
    wide.paste((0, 0, 255), (50, 0, 150, 100))
    assert fit(wide, 50, 50, "crop").getpixel((0, 25)) == (0, 0, 255)
    assert fit(wide, 50, 50, "stretch").getpixel((0, 25)) == (255, 0, 0)
    padded = fit(wide, 50, 50, "pad")
    assert padded.getpixel((25, 2)) == (255, 255, 255)
    assert padded.getpixel((25, 25)) == (0, 0, 255)
    assert {fit(wide, 40, 24, rule).size for rule in ("crop", "stretch", "pad")} == {(40, 24)}  # type: ignore[arg-type]
    with pytest.raises(TetherError, match="crop"):
        fit(wide, 50, 50, "squeeze")  # type: ignore[arg-type]


def test_a_long_and_narrow_image_is_cut_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, made, resize = Image.new("L", (8192, 1)), [], Image.Image.resize
    narrow.putpixel((4096, 0), 255)

    def spy(self: Image.Image, size: tuple[int, int], *arguments: object, **named: object) -> Image.Image:
        made.append(size)
        return resize(self, size, *arguments, **named)

    monkeypatch.setattr(Image.Image, "resize", spy)
    cut = fit(narrow, 256, 256, "crop")
    assert made == [(256, 256)]
    assert cut.getpixel((250, 128)) > 200
    assert cut.getpixel((5, 128)) < 60


@pytest.mark.parametrize("width", [600, 768])
def test_a_reduction_by_less_than_two_is_smooth(width: int) -> None:
    """Pillow's BOX takes one pixel here and two there, and edges jump."""
    y, x = np.mgrid[:width, :width] / width
    wave = np.cos(2 * np.pi * 60 * np.hypot(x - 0.5, y - 0.5) * 2)
    image = Image.fromarray(np.round(127.5 + 100 * wave).astype(np.uint8))
    exact = np.mgrid[:512, :512] / 512 + 0.5 / 512 - 0.5 / width
    ideal = 127.5 + 100 * np.cos(2 * np.pi * 60 * np.hypot(exact[1] - 0.5, exact[0] - 0.5) * 2)

    def off(found: Image.Image) -> float:
        return float(np.sqrt(np.mean((np.asarray(found) - ideal) ** 2)))

    assert off(fit(image, 512, 512)) < 0.75 * off(image.resize((512, 512), Image.Resampling.BOX))


def test_a_reduction_by_a_whole_number_is_the_mean_of_areas() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    areas = np.asarray(image).reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert abs(np.asarray(fit(image, 16, 16)) - areas).max() < 1
