"""What a control adds: one tensor for each injection point, scaled and summed point by point."""

from __future__ import annotations

import pytest
import torch

from tether.control import Signal
from tether.errors import TetherError


def signal(seed: int = 0, batch: int = 2, channels: int = 3, points: tuple[str, ...] = ("skip.0", "middle")) -> Signal:
    random = torch.Generator().manual_seed(seed)
    return Signal({point: torch.randn(batch, channels, 4 >> k, 6, generator=random) for k, point in enumerate(points)})


def test_a_signal_is_a_mapping_that_keeps_its_order():
    one = signal()
    assert list(one) == ["skip.0", "middle"]
    assert len(one) == 2
    assert one.heights == (4, 2)
    assert one.batch == 2
    assert dict(one).keys() == one.keys()
    assert "skip.9" not in one


def test_an_empty_signal_is_false_and_has_no_batch():
    assert not Signal({})
    assert Signal({}).batch == 0
    assert Signal({}).heights == ()


def test_later_changes_of_the_given_mapping_do_not_reach_the_signal():
    tensors = {"middle": torch.ones(1, 2, 3, 3)}
    one = Signal(tensors)
    tensors["skip.0"] = torch.ones(1)
    assert list(one) == ["middle"]


def test_scaling_multiplies_each_tensor_and_a_weight_of_one_copies_nothing():
    one = signal()
    scaled = one.scaled([1.0, -2.0])
    assert scaled["skip.0"] is one["skip.0"]
    assert torch.equal(scaled["middle"], one["middle"] * -2)
    assert torch.equal(one.scaled(0.5)["skip.0"], one["skip.0"] * 0.5)


def test_as_many_weights_as_injection_points_are_needed():
    with pytest.raises(TetherError, match="3 weights for 2 injection points"):
        signal().scaled([1.0, 2.0, 3.0])


def test_signals_add_point_by_point_and_a_point_of_one_alone_is_kept():
    a, b = signal(0), signal(1, points=("middle", "block.0"))
    b = Signal({"middle": torch.randn_like(a["middle"]), "block.0": b["block.0"]})
    total = a + b
    assert list(total) == ["skip.0", "middle", "block.0"]
    assert total["skip.0"] is a["skip.0"]
    assert torch.equal(total["middle"], a["middle"] + b["middle"])
    assert total["block.0"] is b["block.0"]


def test_a_sum_changes_neither_of_its_terms():
    a, b = signal(0), signal(1)
    before = a["middle"].clone()
    _ = a + b
    assert torch.equal(a["middle"], before)
    assert len(a) == 2


def test_signals_for_different_base_models_do_not_add_up():
    with pytest.raises(TetherError, match=r"do not add up: at skip\.0"):
        signal() + signal(channels=4)


def test_after_zeros_is_a_control_on_the_conditional_half_alone():
    both = signal().after_zeros()
    assert both.batch == 4
    for point, tensor in signal().items():
        assert not both[point][:2].any()
        assert torch.equal(both[point][2:], tensor)


def test_first_half_scaled_leaves_the_second_half_bit_identical():
    whole = signal(batch=4)
    half = whole.first_half_scaled(0.25)
    for point, tensor in whole.items():
        assert torch.equal(half[point][:2], tensor[:2] * 0.25)
        assert torch.equal(half[point][2:], tensor[2:])


def test_another_dtype_is_given_and_the_same_dtype_is_not_copied():
    one = signal()
    assert {tensor.dtype for tensor in one.to(torch.float64).values()} == {torch.float64}
    assert one.to(torch.float32)["middle"] is one["middle"]


def test_tensors_with_channels_last_are_signals_too():
    """Transformers: (B, T, C)."""
    tokens = Signal({"block.0": torch.ones(1, 5, 3)})
    assert torch.equal((tokens + tokens)["block.0"], torch.full((1, 5, 3), 2.0))
