"""Images become condition maps of the same size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.kinds import annotatable, annotate, make_map


@pytest.fixture
def square() -> Image.Image:
    image = Image.new("RGB", (64, 48), (20, 20, 20))
    image.paste((220, 220, 220), (16, 12, 48, 36))
    return image


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("cany", {}, "did you mean canny"),
        ("depth9", {}, "choose one of"),
        ("keypoints", {}, r"keypoints has no annotator: choose one of blur, canny, .*, or pass a ready-made map"),
        ("canny", {"lo": 3}, "no option 'lo': it has low"),
        ("canny", {"image": 3, "kind": 3}, "no option 'image'"),
        ("canny", {"annotator": "hed"}, "no annotator 'hed': choose one of opencv"),
        ("canny", {"low": -1}, "canny low must be from 0 to 1000, not -1"),
        ("canny", {"low": 300, "high": 100}, "low must not be above high"),
        ("canny", {"high": float("nan")}, "canny high must be from 0"),
        ("scribble", {"treshold": 3}, "no option 'treshold'"),
        ("scribble", {"threshold": 0}, "from 1 to 255"),
        ("scribble", {"thickness": 99}, "from 1 to 32"),
        ("scribble", {"color": 2}, "from 0 to 1"),
        ("tile", {"low": 3}, "tile has no option 'low': it has factor"),
        ("tile", {"annotator": "opencv"}, "tile has no annotator 'opencv'"),
        ("ip2p", {"low": 3}, "ip2p has no options: its condition is the image itself"),
    ],
)
def test_a_wrong_kind_or_option_is_refused_in_one_line(
    square: Image.Image, kind: str, options: dict, words: str
) -> None:
    with pytest.raises(TetherError, match=words) as caught:
        annotate(kind, square, **options)
    assert "\n" not in str(caught.value)


def test_an_option_may_have_any_name_in_a_mapping(square: Image.Image) -> None:
    with pytest.raises(TetherError, match="canny has no option 'annotator'"):
        make_map("canny", square, None, {"annotator": 3})


@pytest.mark.parametrize("kind", ["tile", "ip2p", "inpaint"])
def test_a_kind_whose_condition_is_the_image_leaves_it_unchanged(kind: str, square: Image.Image) -> None:
    assert annotate(kind, square).tobytes() == square.tobytes()
    assert annotatable(kind).is_image


ALWAYS = ["canny", "scribble", "softedge", "lineart", "mlsd", "seg", "tile", "blur", "shuffle", "recolor", "invert"]
"""Kinds whose first annotator needs no weights."""
LINES = ["canny", "scribble", "softedge", "lineart", "mlsd", "invert"]


@pytest.mark.parametrize("kind", ALWAYS)
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (33, 7), (640, 3)])
def test_any_size_is_annotated(kind: str, size: tuple[int, int]) -> None:
    map_ = annotate(kind, Image.new("L", size, 90))
    assert (map_.mode, map_.size) == ("RGB", size)


def test_images_of_any_mode_are_annotated_alike(square: Image.Image) -> None:
    edges = annotate("canny", square)
    clear = square.convert("RGBA")
    clear.putalpha(Image.eval(square.convert("L"), lambda level: 255 * (level > 100)))
    modes = [square.convert(mode) for mode in ("L", "CMYK", "RGBA", "LA")]
    modes.append(square.convert("P", palette=Image.Palette.ADAPTIVE))
    modes.append(Image.fromarray(np.asarray(square.convert("L")).astype(np.uint16) * 257))
    for image in modes:
        found = annotate("canny", image)
        assert (found.mode, found.tobytes()) == ("RGB", edges.tobytes()), image.mode
    on_white = Image.new("RGB", square.size, "white")
    on_white.paste(square, mask=clear.getchannel("A"))
    assert annotate("canny", clear).tobytes() == annotate("canny", on_white).tobytes()


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_blank_image_has_no_lines(kind: str, level: int) -> None:
    assert not np.asarray(annotate(kind, Image.new("L", (80, 60), level))).any()
    if kind in ("scribble", "lineart", "softedge", "mlsd"):  # nor has paper with a little noise
        noise = np.random.default_rng(0).normal(level, 1.5, (60, 80)).clip(0, 255)
        assert np.asarray(annotate(kind, Image.fromarray(noise.astype(np.uint8)))).max() == 0


def test_a_missing_detector_is_told_before_the_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_DETECTORS", str(tmp_path))
    for kind, annotator, words in (
        ("depth", None, f"no weights for the detector depth: put a .* at {tmp_path / 'depth'}, or run"),
        ("normal", None, "no weights for the detector depth"),
        ("seg", "ade20k", "a semantic segmentation model of transformers"),
        ("lineart", "sketch", "tether detectors use lineart"),
        ("softedge", "hed", "hed is not installed: run `tether detectors install hed` once"),
    ):
        for call in (annotatable, lambda kind, annotator: annotate(kind, Image.new("L", (9, 9)), annotator)):
            with pytest.raises(TetherError, match=words) as caught:
                call(kind, annotator)
            assert "\n" not in str(caught.value)
