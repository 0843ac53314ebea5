"""Fixtures for all tests; the models are made in `tests/tiny.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.base import Base, ControlNet, load_base

from .tiny import make_base_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a tiny base like Stable Diffusion 1.x: 64 px, 24 tokens."""
    return make_base_folder(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture
def tiny_base(tiny_folder: Path) -> Base:
    """The tiny base, freshly loaded."""
    return load_base(tiny_folder)


@pytest.fixture
def control_folder(tiny_base: Base, tmp_path: Path) -> Path:
    """A canny control for the tiny base, saved; its signal is random, not zero."""
    torch.manual_seed(0)
    control = ControlNet.from_unet(tiny_base.unet)
    for parameter in control.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    control.kind = "canny"
    control.save(tmp_path / "control")
    return tmp_path / "control"
