"""Depth maps of 16 bits keep them: read, fitted, carried inside a request, and given to the control."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.images import fit, fit_deep, open_image, open_map, to_condition
from tether.kinds import fit_map, prepare
from tether.sampling import ControlRequest, Request
from tether.sampling.inputs import as_maps, map_pixels
from tether.sampling.request import METADATA_KEY


@pytest.fixture
def ramp() -> np.ndarray:
    """Levels that 8 bits cannot tell apart."""
    return (30000 + np.arange(64 * 48).reshape(48, 64)).astype(np.uint16)


def test_a_16_bit_map_is_read_fitted_and_given_to_the_control_whole(ramp: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(ramp).save(path)
    opened = open_map(path)
    assert opened.mode == "I;16"
    assert np.array_equal(np.asarray(opened), ramp)
    assert open_image(path).mode == "RGB"
    for given in (opened, *as_maps(path, "condition"), *as_maps(ramp, "condition")):
        pixels = map_pixels(given, "depth", 3, (64, 48), "crop")
        assert tuple(pixels.shape) == (1, 3, 48, 64)
        assert np.abs(pixels.numpy()[0] * 65535 - ramp).max() < 0.01
        assert np.array_equal(map_pixels(given, "depth", 1, (64, 48), "crop").numpy(), pixels.numpy()[:, :1])
    reduced = map_pixels(opened, "depth", 3, (32, 24), "stretch").numpy()[0, 0] * 65535
    assert np.abs(reduced - ramp.reshape(24, 2, 32, 2).mean(axis=(1, 3))).max() <= 0.51


@pytest.mark.parametrize("rule", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(64, 48), (24, 24), (100, 30)])
def test_16_bits_are_fitted_as_8_bits_are(ramp: np.ndarray, rule: str, size: tuple[int, int]) -> None:
    y, x = np.mgrid[:48, :64]
    rough = ((128 + 60 * np.sin(x / 3) * np.cos(y / 5)).astype(np.uint16) * 257).astype(np.uint16)
    deep = fit_deep(Image.fromarray(rough), *size, rule)  # type: ignore[arg-type]
    plain = fit(Image.fromarray((rough // 257).astype(np.uint8)), *size, rule, pad_color=(0, 0, 0))  # type: ignore[arg-type]
    assert (deep.mode, deep.size) == ("I;16", size)
    assert (
        np.abs(np.asarray(deep) / 257 - np.asarray(plain)).max() < 1.5
    )  # the other is rounded after each of two passes


def test_a_request_carries_them(ramp: np.ndarray) -> None:
    condition = fit_map(Image.fromarray(ramp), "depth", (64, 48))
    request = Request(prompt="x", controls=[ControlRequest(ref="depth", condition=condition)])
    again = Request(**json.loads(request.metadata(0)[METADATA_KEY])).controls[0].condition
    assert isinstance(again, Image.Image)
    assert again.mode == "I;16"
    assert np.array_equal(np.asarray(again), ramp)


def test_for_other_kinds_they_are_scaled_to_8_bits(ramp: np.ndarray) -> None:
    image = Image.fromarray(ramp)
    for kind in ("canny", "softedge", "tile", "my-own", None):
        fitted = fit_map(image, kind, (64, 48))
        assert fitted.mode == "RGB"
        assert np.abs(np.asarray(fitted)[..., 0] - ramp / 257).max() <= 0.51


def test_an_annotator_may_give_16_bits(monkeypatch: pytest.MonkeyPatch, ramp: np.ndarray) -> None:
    from tether.detectors import depth

    monkeypatch.setattr("tether.detectors.check_installed", lambda name: None)
    monkeypatch.setattr(depth, "nearness", lambda pixels: (ramp / 65535).astype(np.float32))
    made = prepare(Image.new("RGB", (64, 48), "red"), "depth", (64, 48)).condition
    assert made.mode == "I;16"
    assert np.abs(np.asarray(made).astype(int) - ramp).max() <= 1
    assert np.abs(to_condition(made).numpy()[0, 0] * 65535 - np.asarray(made)).max() < 0.01


def test_big_endian_and_turned_files_are_read_as_they_are(ramp: np.ndarray) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(file, "TIFF", exif=exif)
    assert np.array_equal(np.asarray(open_map(file)), np.rot90(ramp, -1))
