"""Pairs translate between the layouts in both directions without changing a number."""

from __future__ import annotations

import pytest
import torch

from tether.errors import TetherError
from tether.formats.names import Pair, to_diffusers, to_original

TENSOR = torch.arange(24.0).reshape(6, 4)


@pytest.mark.parametrize(
    ("pair", "original", "diffusers"),
    [
        (Pair("o", ("d",)), TENSOR, {"d": TENSOR}),
        (Pair("o", ("d",), "square"), TENSOR[:, :, None, None], {"d": TENSOR}),
        (Pair("o", ("d",), "transposed"), TENSOR, {"d": TENSOR.T}),
        (Pair("o", ("q", "k", "v"), "thirds"), TENSOR, {"q": TENSOR[:2], "k": TENSOR[2:4], "v": TENSOR[4:]}),
    ],
    ids=lambda value: value.kind if isinstance(value, Pair) else "",
)
def test_each_kind_translates_there_and_back(
    pair: Pair, original: torch.Tensor, diffusers: dict[str, torch.Tensor]
) -> None:
    found, used = to_diffusers([pair], {"o": original})
    assert used == {"o"}
    assert found.keys() == diffusers.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in diffusers.items())
    assert torch.equal(to_original([pair], found, "it")["o"], original)


def test_a_linear_layer_stays_linear_if_the_file_has_it_so() -> None:
    assert torch.equal(to_diffusers([Pair("o", ("d",), "square")], {"o": TENSOR})[0]["d"], TENSOR)


def test_missing_tensors_are_skipped_on_the_way_in_and_refused_on_the_way_out() -> None:
    pairs = [Pair("a", ("x",)), Pair("b", ("y",))]
    found, used = to_diffusers(pairs, {"a": TENSOR, "other": TENSOR})
    assert found.keys() == {"x"}
    assert used == {"a"}
    with pytest.raises(TetherError, match="it has no y, which the original layout needs"):
        to_original(pairs, found, "it")


def test_a_tensor_that_the_original_layout_has_no_name_for_is_refused() -> None:
    with pytest.raises(TetherError, match=r"it has cond_proj\.weight, which the original layout cannot store"):
        to_original([Pair("a", ("x",))], {"x": TENSOR, "cond_proj.weight": TENSOR}, "it")
