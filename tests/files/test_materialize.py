"""Weights are cast and put into a network only if they are whole and its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tether.errors import TetherError
from tether.files.materialize import FilePages, cast, check_fits_network, materialize, without_values


def test_a_tensor_of_the_wanted_dtype_is_not_copied() -> None:
    tensor = torch.randn(3)
    assert cast(tensor, None, "a", "file") is tensor
    assert cast(tensor, torch.float32, "a", "file") is tensor
    assert cast(torch.arange(3), torch.float16, "a", "file").dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_values_are_rounded_as_pytorch_rounds_them(dtype: torch.dtype) -> None:
    tensor = torch.linspace(-2, 2, 17)
    assert torch.equal(cast(tensor, dtype, "a", "file").float(), tensor.to(dtype).float())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(TetherError, match="file is damaged: a contains NaN or infinity"):
        cast(torch.tensor([0, bad]), None, "a", "file")


def test_values_too_large_for_the_dtype_are_refused() -> None:
    with pytest.raises(TetherError, match=r"a of file does not fit into float16: it reaches 7e\+04"):
        cast(torch.tensor([7e4]), torch.float16, "a", "file")


def test_many_wrong_names_are_counted() -> None:
    tensors = {str(k): torch.zeros(1) for k in range(5)}
    with pytest.raises(TetherError, match="file is incomplete: it lacks 0, 1, 2 and 2 more"):
        check_fits_network(tensors, {}, "file")
    with pytest.raises(TetherError, match="file has unexpected tensors: 0, 1, 2 and 2 more"):
        check_fits_network({}, tensors, "file")


def test_a_network_on_meta_gets_the_tensors_themselves() -> None:
    tensors = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    with torch.device("meta"):
        network = nn.Linear(3, 2)
    materialize(network, tensors, None, "file")
    assert network.weight.data_ptr() == tensors["weight"].data_ptr()


def test_a_buffer_that_no_file_has_is_refused() -> None:
    class Network(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("table", torch.zeros(3), persistent=False)

    with torch.device("meta"):
        network = Network()
    with pytest.raises(TetherError, match="it lacks table"):
        materialize(network, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, None, "file")


def test_released_pages_are_read_from_the_file_again(tmp_path: Path) -> None:
    expected = torch.randn(1000, 100)
    save_file({"a": expected}, tmp_path / "a.safetensors")
    mapped = load_file(tmp_path / "a.safetensors")["a"]
    FilePages().give_back(mapped)
    assert torch.equal(mapped, expected)


def test_memory_that_is_not_mapped_is_never_released() -> None:
    tensor = torch.ones(10**6)
    FilePages().give_back(tensor)
    assert float(tensor.sum()) == 10**6


def test_a_network_made_without_values_has_the_same_shapes() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Parameter(torch.randn(1, 4) / 4**0.5)
            self.word = nn.Embedding(5, 4)
            self.norm = nn.LayerNorm(4)
            self.layer = nn.Conv2d(4, 2, 3)
            nn.init.zeros_(self.layer.weight)
            nn.init.normal_(self.word.weight, std=0.02)

    with without_values():
        made = Odd()
    shapes = {name: tensor.shape for name, tensor in Odd().state_dict().items()}
    assert {name: tensor.shape for name, tensor in made.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in made.state_dict().values())
    assert not torch.empty(1).is_meta
