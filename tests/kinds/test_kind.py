"""What a kind may be, and what every kind of the package keeps."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from tether.errors import TetherError
from tether.kinds import Annotator, Kind, Option, kinds
from tether.kinds.openpose import JOINT_COLORS, LIMB_COLORS

MIRRORED = [kind.name for kind in kinds().values() if kind.flip is not None]


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(60, 200, (48, 64, 3), np.uint8)


def normals(rng: np.random.Generator) -> np.ndarray:
    """Unit normals that face the viewer, with a black border."""
    vectors = rng.normal(size=(48, 64, 3))
    vectors[..., 2] = abs(vectors[..., 2]) + 0.1
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    map_ = np.round((vectors + 1) / 2 * 255).astype(np.uint8)
    map_[:5] = 0
    return map_


def pose(rng: np.random.Generator) -> np.ndarray:
    """Lines in the colors of limbs, with joints on them."""
    map_ = np.zeros((48, 64, 3), np.uint8)
    for color in LIMB_COLORS:
        start, end = rng.integers(0, 48, (2, 2)).tolist()
        cv2.line(map_, start, end, color, 2)
    for color in JOINT_COLORS:
        cv2.circle(map_, rng.integers(0, 48, 2).tolist(), 2, color, -1)
    return map_


def own_map(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """A map such as the kind has them."""
    given = {"normal": normals, "openpose": pose, "depth": noise, "mask": noise}
    if kind.annotators and kind.name not in given:
        annotator = kind.annotator()
        return annotator.detect(noise(rng), **annotator.settings(kind.name, {}))
    return given.get(kind.name, noise)(rng)


@pytest.mark.parametrize("name", MIRRORED)
def test_a_map_that_is_flipped_twice_is_the_same_map(name: str) -> None:
    kind = kinds()[name]
    assert kind.flip is not None
    map_ = own_map(kind, np.random.default_rng(0))
    once = kind.flip(map_)
    assert (once.shape, once.dtype) == (map_.shape, np.uint8)
    assert not np.array_equal(once, map_)
    assert np.array_equal(kind.flip(once), map_)


@pytest.mark.parametrize("name", [kind.name for kind in kinds().values() if kind.vary is not None])
def test_a_varied_map_depends_on_the_generator_alone_and_has_the_shape_of_a_map(name: str) -> None:
    vary = kinds()[name].vary
    assert vary is not None
    image = noise(np.random.default_rng(0))
    maps = [vary(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert (maps[0].shape, maps[0].dtype) == (image.shape, np.uint8)
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": ""}, "needs a name"),
        ({"name": "a", "resize": "linear"}, "resize 'linear' is not one of smooth, lines, nearest"),
        ({"name": "a", "names": "("}, "a: names is not a valid regular expression"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(TetherError, match=words):
        Kind(**values)


def test_the_first_annotator_is_the_default_and_others_go_by_name() -> None:
    first, second = (Annotator(lambda pixels, k=k: pixels + k) for k in range(2))
    kind = Kind("a", annotators={"first": first, "second": second})
    assert kind.annotator() is first
    assert kind.annotator("second") is second
    with pytest.raises(TetherError, match="a has no annotator 'third': choose one of first, second"):
        kind.annotator("third")
    with pytest.raises(TetherError, match="b has no annotator: pass a ready-made map"):
        Kind("b").annotator()


def test_settings_are_defaults_and_what_is_given_under_its_name_or_an_older_one() -> None:
    annotator = Annotator(lambda pixels: pixels, {"color": Option(1, 0, 2, "a color", aliases=("colour",))})
    assert annotator.settings("a", {}) == {"color": 1}
    assert annotator.settings("a", {"color": 2}) == annotator.settings("a", {"colour": 2}) == {"color": 2}
    with pytest.raises(TetherError, match=r"a has no option 'pen': it has color \(a color\)"):
        annotator.settings("a", {"pen": 2})
    with pytest.raises(TetherError, match="a color must be from 0 to 2, not 3"):
        annotator.settings("a", {"colour": 3})
