"""Limits for the sizes in a network's config, checked before anything of that size is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.errors import TetherError

__all__ = ["check_measures"]

MAX_DEPTH = 100
MAX_SIDE = 2**20
MAX_BLOCKS = 1000
"""Of one half of a network: SDXL has 3 levels of 2 x 10."""


def check_measures(config: Mapping[str, Any], what: str) -> None:
    """Refuses a config with sizes that no network has.

    Args:
        config: a network's `config.json`.
        what: its name in messages.

    Raises:
        TetherError: naming the setting.
    """
    most = {name: _largest(value) for name, value in config.items()}
    for name, (largest, length) in most.items():
        if largest > (MAX_DEPTH if "layers" in name else MAX_SIDE) or length > MAX_DEPTH:
            raise TetherError(f"{what} has an invalid config: {name} is {str(config[name])[:60]}, above the limit")
    levels = most.get("block_out_channels", (0, 1))[1]
    layers, depth = (most.get(name, (1, 1))[0] for name in ("layers_per_block", "transformer_layers_per_block"))
    if levels * layers * depth > MAX_BLOCKS:
        raise TetherError(f"{what} has an invalid config: {levels} levels of {layers} x {depth} layers is too many")


def _largest(value: Any) -> tuple[int, int]:
    """The largest integer anywhere in a setting, and how many values it holds."""
    largest, length, left = 1, 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, (list, tuple)):
            left += one
        elif isinstance(one, dict):
            left += one.values()
        else:
            length += 1
            largest = max(largest, one) if isinstance(one, int) else largest
    return largest, length
