"""Buckets have nearly one area, sides of whole steps, and take the images whose shape is nearest to theirs."""

from __future__ import annotations

import math

import pytest

from tether.base import Base
from tether.datasets.latents.resolution import Resolution
from tether.errors import TetherError


@pytest.mark.parametrize(("width", "height", "step"), [(512, 512, 64), (128, 128, 16), (768, 512, 64), (64, 64, 8)])
def test_buckets_have_nearly_the_area_and_sides_of_whole_steps(width: int, height: int, step: int) -> None:
    resolution = Resolution(width, height, step)
    area, sizes = width * height, set(resolution.sizes)
    assert {(width, height), (height, width)} <= sizes | {(height, width)}
    assert len(sizes) > 4
    for one in sizes - {(width, height)}:
        assert 0.85 * area <= math.prod(one) <= area
        assert one[0] % step == one[1] % step == 0
        assert one[::-1] in sizes
        assert 1 / 4 <= one[0] / one[1] <= 4
    assert list(resolution.sizes) == sorted(resolution.sizes, key=lambda size: size[0] / size[1])


@pytest.mark.parametrize("image", [(100, 100), (4000, 3000), (300, 1000), (1, 50), (50, 1), (129, 128)])
def test_an_image_goes_to_the_bucket_of_which_least_is_cut_away(image: tuple[int, int]) -> None:
    resolution = Resolution(512, 512, 64)

    def kept(size: tuple[int, int]) -> float:
        """The share of the image that the largest crop of a shape contains."""
        ratio = (size[0] / size[1]) / (image[0] / image[1])
        return min(ratio, 1 / ratio)

    assert kept(resolution.nearest(image)) == max(map(kept, resolution.sizes))


def test_an_image_and_its_transpose_go_to_transposed_buckets() -> None:
    resolution = Resolution(64, 64, 8)
    assert resolution.nearest((150, 75)) == resolution.nearest((75, 150))[::-1] == (80, 48)  # 2 is between 5/3 and 12/5


def test_without_buckets_there_is_one_size(tiny_base: Base) -> None:
    assert Resolution.of(tiny_base, (96, 64)).sizes == ((96, 64),)
    assert Resolution.of(tiny_base, 64).nearest((1, 10)) == (64, 64)


@pytest.mark.parametrize(
    ("wanted", "step", "message"),
    [((96, 60), None, "resolution is 96x60"), (60, None, "resolution is 60:"), (64, 12, "bucket_step is 12")],
)
def test_sides_that_the_autoencoder_cannot_halve_are_refused(
    wanted: int | tuple[int, int], step: int | None, message: str, tiny_base: Base
) -> None:
    with pytest.raises(TetherError, match=message):
        Resolution.of(tiny_base, wanted, buckets=True, step=step)


def test_what_was_cached_for_a_square_stays_valid(tiny_base: Base) -> None:
    """The settings of a cache said the side, as a number."""
    assert Resolution.of(tiny_base, 64).described == 64
    described = [Resolution.of(tiny_base, (96, 64), buckets).described for buckets in (False, True)]
    assert described[0] != described[1] != 64
