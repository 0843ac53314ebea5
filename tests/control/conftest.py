"""Tiny denoisers of every family, as fixtures; see `tests/tiny.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from .. import tiny


@pytest.fixture
def make_unet() -> Callable[..., UNet2DConditionModel]:
    return tiny.make_unet


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, Any]]:
    """The arguments that `Control.signal` and `Denoiser.predict` share."""
    return tiny.make_inputs


@pytest.fixture
def randomize() -> Callable[[torch.nn.Module], None]:
    return tiny.randomize
