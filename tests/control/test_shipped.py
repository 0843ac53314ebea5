"""The controls that ship in the package."""

from __future__ import annotations

import pytest

from tether.base import load_base
from tether.control import ControlNet, UnionControlNet, load_control
from tether.control.load import find_control
from tether.errors import TetherError
from tether.kinds import kinds
from tether.weights import FOLDER, shipped_control, shipped_controls

LIMIT = 110_000_000
"""Bytes of all shipped weights together."""


def test_every_shipped_kind_opens_as_a_control_of_its_kind_that_fits_the_base() -> None:
    base = load_base()
    assert {"canny", "depth", "scribble", "seg"} <= set(shipped_controls()) <= set(kinds())
    for kind in shipped_controls():
        control = load_control(kind, base=base)
        assert isinstance(control, ControlNet)
        assert control.kind == kind
        assert control.sides == 0.5


def test_a_kind_that_has_a_control_of_its_own_is_opened_from_that() -> None:
    assert find_control("canny")[0].name == "control-canny"
    assert find_control("depth") == find_control("union:depth")
    assert find_control("depth")[0].name == "control-union"


def test_the_weights_file_of_a_control_opens_with_the_settings_beside_it() -> None:
    folder, _ = find_control("canny")
    whole = load_control(folder)
    alone = load_control(folder / "diffusion_pytorch_model.safetensors")
    assert isinstance(whole, ControlNet)
    assert isinstance(alone, ControlNet)
    assert alone.config == whole.config  # with its numbers of heads, which no shape tells
    assert (alone.kind, alone.sides) == (whole.kind, whole.sides) == ("canny", 0.5)


def test_the_union_ships_under_its_name_too() -> None:
    opened = load_control("union")
    assert isinstance(opened, UnionControlNet)
    assert set(opened.kinds) < set(shipped_controls())
    assert shipped_control("union:nothing") is None
    with pytest.raises(TetherError, match="no control"):
        find_control("union:nothing")


def test_the_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.safetensors")) < LIMIT
