"""θc' = θc + (θB - θA) for what control and bases share."""

from __future__ import annotations

import pytest
import torch

from tether.control.transfer import transferred
from tether.errors import TetherError

CONTROL = {"conv_in.weight": torch.tensor([1.0, 2.0]), "zero.weight": torch.tensor([5.0])}
A, B = {"conv_in.weight": torch.tensor([0.5, 0.5])}, {"conv_in.weight": torch.tensor([1.5, 0.25])}


def test_shared_tensors_move_by_the_difference_of_the_bases_and_the_others_stay():
    moved = transferred(CONTROL, A, B)
    assert torch.equal(moved["conv_in.weight"], torch.tensor([2.0, 1.75]))
    assert moved["zero.weight"] is CONTROL["zero.weight"]


def test_the_same_base_changes_nothing_and_copies_nothing():
    assert transferred(CONTROL, A, A)["conv_in.weight"] is CONTROL["conv_in.weight"]


def test_each_tensor_keeps_its_dtype():
    halves = {"conv_in.weight": torch.tensor([1.0, 2.0], dtype=torch.float16)}
    moved = transferred(halves, A, B)["conv_in.weight"]
    assert moved.dtype == torch.float16
    assert moved.tolist() == [2.0, 1.75]


def test_the_sum_is_taken_in_float32():
    """In float16, 2048 + 1 is 2048: the difference of 1 - 0.25 would be lost one way or the other."""
    control = {"w": torch.tensor([2048.0])}
    a, b = ({"w": torch.tensor([value], dtype=torch.float16)} for value in (0.25, 1.0))
    assert transferred(control, a, b)["w"].tolist() == [2048.75]


@pytest.mark.parametrize(
    ("control", "a", "b", "message"),
    [
        (CONTROL, A, {}, "only one of the two base models has conv_in.weight"),
        (CONTROL, A, {"conv_in.weight": torch.zeros(3)}, "all three must have the same architecture"),
        ({"zero.weight": torch.zeros(1)}, A, B, "share no tensor"),
    ],
)
def test_models_of_different_architectures_are_refused(control, a, b, message):
    with pytest.raises(TetherError, match=message):
        transferred(control, a, b)
