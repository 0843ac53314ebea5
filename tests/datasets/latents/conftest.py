"""A dataset to cache, and its cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import Cache, build_cache, plan_cache

CROPS = 3


@pytest.fixture
def data(mirrored: Path, tmp_path: Path) -> Path:
    """Six images of 128x96 whose conditions are the images themselves."""
    build_dataset(mirrored, tmp_path / "data", "tile", workers=0)
    return tmp_path / "data"


def cached(data: Path, base: Base, out: Path, seed: int = 0) -> Cache:
    return build_cache(plan_cache(data, base, out, resolution=64, crops=CROPS, seed=seed, flips=True), batch_size=4)
