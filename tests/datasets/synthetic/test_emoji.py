"""Emoji put on plain backgrounds."""

from __future__ import annotations

import numpy as np
import pytest

from tether.datasets.synthetic.emoji import BACKGROUNDS, Drawing, caption, compose


@pytest.fixture
def arrow() -> Drawing:
    """Black, the whole of its square but for a transparent upper right quarter."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[:32, 32:] = 0
    return Drawing("arrow", (), "3d emoji", rgba)


def box(picture: np.ndarray, background: str) -> tuple[float, float, float]:
    """Width of what is not background, and how far its middle lies right and down of the picture's, in shares."""
    inside = np.abs(picture.astype(int) - BACKGROUNDS[background]).sum(axis=2) > 20
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    size = len(picture)
    middles = [(line[0] + line[-1] + 1) / 2 / size - 0.5 for line in (columns, rows)]
    return len(columns) / size, middles[0], middles[1]


def test_random_placements_vary_and_centered_ones_hardly_do(arrow: Drawing) -> None:
    found = {}
    for centered in (False, True):
        rng = np.random.default_rng(0)
        pictures = [compose(arrow, 128, rng, centered=centered) for _ in range(200)]
        seen = [(picture, background) for picture, background in pictures if background not in ("black", "grey")]
        widths, right, down = np.array([box(*one) for one in seen]).T
        flipped = [picture[40, 40].sum() > picture[40, 88].sum() for picture, _ in seen]
        found[centered] = widths, right, down, np.mean(flipped)
    widths, right, down, flipped = found[True]
    assert widths.min() > 0.84
    assert widths.max() < 0.95
    assert max(np.abs(right).max(), np.abs(down).max()) < 0.035
    assert flipped == 0
    widths, right, down, flipped = found[False]
    assert widths.min() < 0.76
    assert widths.max() > 0.94
    assert min(right.std(), down.std()) > 0.04
    assert 0.35 < flipped < 0.65


def test_a_named_side_is_never_flipped(arrow: Drawing) -> None:
    left = Drawing("left arrow", (), "3d emoji", arrow.rgba)
    rng = np.random.default_rng(0)
    for _ in range(40):
        picture, background = compose(left, 128, rng)
        if background not in ("black", "grey"):
            assert picture[40, 88].sum() > picture[40, 40].sum()


def test_captions_name_every_background_but_white(arrow: Drawing) -> None:
    rng = np.random.default_rng(0)
    assert all("pink background" in caption(arrow, "pink", rng) for _ in range(40))
    named = [caption(arrow, "white", rng) for _ in range(400)]
    assert 0.15 < np.mean(["white background" in words for words in named]) < 0.35
    assert all("arrow" in words and "3d emoji" in words for words in named)
