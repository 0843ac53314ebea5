"""The package's own sets are functions of the number."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tether.datasets.sources import open_source

from ..conftest import assert_same, pixels


@pytest.mark.parametrize("name", ["emoji3d", "scenes", "circles"])
def test_the_packages_own_sets_are_functions_of_the_number(name: str) -> None:
    source = open_source(name, size=64, count=6)
    copy = pickle.loads(pickle.dumps(open_source(name, size=64, count=6)))
    assert len(source) == len(copy) == 6
    assert len({source.key(index) for index in range(6)}) == 6
    for index in (5, 0):
        assert_same(source[index], copy[index])
        assert pixels(source[index].image).shape == (64, 64, 3)
    assert not np.array_equal(pixels(source[0].image), pixels(source[1].image))
