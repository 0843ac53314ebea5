"""The registry and Canny."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.kinds import annotate, annotator_names
from tether.kinds.canny import random_canny


@pytest.fixture
def square() -> Image.Image:
    image = Image.new("RGB", (64, 48), (20, 20, 20))
    image.paste((220, 220, 220), (16, 12, 48, 36))
    return image


def test_edges_lie_where_the_square_ends(square: Image.Image) -> None:
    edges = np.asarray(annotate("canny", square))
    assert edges.shape == (48, 64, 3)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges[..., 0])
    assert {rows.min(), rows.max()} <= {11, 12, 35, 36}
    assert {columns.min(), columns.max()} <= {15, 16, 47, 48}
    assert edges[20:28, 24:40].max() == 0


def test_higher_thresholds_find_fewer_edges() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(90, 160, (64, 64, 3), np.uint8))
    few, many = (np.asarray(annotate("canny", noise, low=low, high=high)).sum() for low, high in ((200, 300), (20, 40)))
    assert few < many


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("cany", {}, "did you mean canny"),
        ("depth9", {}, "choose one of"),
        ("canny", {"lo": 3}, "low"),
        ("canny", {"image": 3, "kind": 3}, "image"),
        ("canny", {"low": -1}, "from 0"),
        ("canny", {"low": 300, "high": 100}, "above high"),
        ("canny", {"high": float("nan")}, "from 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(square: Image.Image, kind: str, options: dict, words: str) -> None:
    with pytest.raises(TetherError, match=words):
        annotate(kind, square, **options)


@pytest.mark.parametrize("kind", ["tile", "ip2p", "inpaint"])
def test_a_kind_whose_condition_is_the_picture_leaves_it_as_it_is(kind: str, square: Image.Image) -> None:
    assert annotate(kind, square).tobytes() == square.tobytes()
    with pytest.raises(TetherError, match="no options"):
        annotate(kind, square, low=3)


def test_one_pixel_and_every_mode_are_annotated(square: Image.Image) -> None:
    assert annotate("canny", Image.new("L", (1, 1))).size == (1, 1)
    edges = annotate("canny", square)
    assert "canny" in annotator_names()
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


def test_random_thresholds_depend_on_the_generator_alone(square: Image.Image) -> None:
    noise = np.random.default_rng(0).integers(60, 200, (64, 64, 3), np.uint8)
    maps = [random_canny(noise, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])
