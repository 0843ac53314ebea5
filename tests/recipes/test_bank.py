"""What images are composed of."""

from __future__ import annotations

import numpy as np

from bank import is_used, rank, shows_held_out, variants
from colors import LEAST_SHARE, from_oklab, main_color, recolored, to_oklab
from tether.datasets.synthetic.emoji import Drawing
from tether.datasets.synthetic.scenes import COLORS
from words import HELD_OUT_NAMES


def disc(color: tuple[int, int, int], size: int = 32) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[x**2 + y**2 < (0.45 * size) ** 2] = (*color, 255)
    return rgba


def test_held_out_names_are_not_used() -> None:
    assert not any(is_used(Drawing(name, (), "3d emoji", disc((0, 0, 0)))) for name in HELD_OUT_NAMES)
    assert is_used(Drawing("red apple", (), "classic emoji", disc((0, 0, 0))))


def test_what_has_no_everyday_words_is_used_in_two_styles_only() -> None:
    assert rank("linked paperclips") == "rest"
    used = {
        style: is_used(Drawing("linked paperclips", (), style, disc((0, 0, 0)))) for style in ("3d emoji", "soft emoji")
    }
    assert used == {"3d emoji": True, "soft emoji": False}


def test_a_color_that_would_show_a_held_out_name_is_recognized() -> None:
    assert "green book" in HELD_OUT_NAMES
    assert shows_held_out("green", ["book"])
    assert not shows_held_out("red", ["book"])


def test_oklab_round_trips() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 3))
    assert np.abs(from_oklab(to_oklab(rgb)).astype(int) - rgb).max() <= 1


def test_the_main_color_is_named_and_changed() -> None:
    for name, rgb in COLORS.items():
        main = main_color(disc(rgb))
        assert main.name == name
        assert main.share > LEAST_SHARE
        changed = recolored(disc(rgb), main, "blue" if name != "blue" else "red")
        assert main_color(changed).name == ("blue" if name != "blue" else "red")
        assert (changed[..., 3] == disc(rgb)[..., 3]).all()


def test_variants_have_the_drawings_colors() -> None:
    made = variants(Drawing("red apple", (), "flat emoji", disc(COLORS["red"])))
    assert [entry["recolored"] for _, entry in made] == [False, True, True, True, True]
    assert len({entry["color"] for _, entry in made}) == len(made)
    assert made[0][1]["box"] == [0.062, 0.062, 0.938, 0.938]
