"""A tiny base with random weights and batches that are a function of the samples' numbers: for exactness, not quality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import batches, make_base, make_config, make_control  # type: ignore[import-not-found]

from tether.base import Base
from tether.control import ControlNet
from tether.training.batch import Batches
from tether.training.config import TrainConfig
