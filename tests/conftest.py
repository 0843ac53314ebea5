"""Fixtures for all tests; the models are made in `tests/tiny.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.base import Base, load_base

from .tiny import make_base_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny base like Stable Diffusion 1.x: 64 px, 24 tokens."""
    return make_base_folder(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture
def tiny_base(tiny_folder: Path) -> Base:
    """The tiny base, freshly loaded."""
    return load_base(tiny_folder)
