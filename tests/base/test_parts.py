"""A network is made from its config and its tensors, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tether.base.folder import part_of_folder
from tether.base.parts import make_network

from ..files.hostile import refused


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_vae_with_one_broken_number_is_refused(bad: float, tiny_folder: Path, tmp_path: Path) -> None:

    tensors = load_file(tiny_folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors["decoder.conv_in.weight"][0, 0, 1, 1] = bad
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((tiny_folder / "vae" / "config.json").read_text())
    refused(lambda: part_of_folder(tmp_path).materialize(None), "decoder.conv_in.weight contains NaN or infinity")


def test_a_number_too_large_for_the_wanted_type_is_refused(tiny_folder: Path) -> None:
    part = part_of_folder(tiny_folder / "vae")
    part.tensors["decoder.conv_in.bias"] = torch.full_like(part.tensors["decoder.conv_in.bias"], 1e5)
    part.materialize(torch.bfloat16)
    refused(lambda: part.materialize(torch.float16), "does not fit into float16: it reaches 1e+05")


@pytest.mark.parametrize("change", [{"hidden_size": "wide"}, {"hidden_size": -4}, {"num_hidden_layers": None}])
def test_settings_of_no_text_encoder_are_refused(change: dict[str, Any], tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "text_encoder" / "config.json").read_text())
    refused(lambda: make_network(config | change, "a folder"), "a folder has an invalid config: ")


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ("layers_per_block", 10**9),
        ("block_out_channels", [10**9] * 4),
        ("block_out_channels", [8] * 10**6),
        ("transformer_layers_per_block", [[10**9], [1]]),
    ],
)
def test_settings_of_no_network_are_refused(settings: str, value: Any, tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "unet" / "config.json").read_text())
    refused(lambda: make_network(config | {settings: value}, "a folder"), f"invalid config: {settings} is ")


def test_settings_of_too_many_layers_in_all_are_refused(tiny_folder: Path) -> None:
    config = json.loads((tiny_folder / "unet" / "config.json").read_text())
    config |= {"layers_per_block": 100, "transformer_layers_per_block": 100}
    refused(lambda: make_network(config, "a folder"), "3 levels of 100 x 100 layers is too many")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_in.weight"), "lacks conv_in.weight"),
        (lambda t: t.update(more=torch.zeros(2)), "has unexpected tensors: more"),
        (
            lambda t: t.update({"conv_in.weight": torch.zeros(3, 3)}),
            "conv_in.weight of shape (3, 3): expected (32, 4, 3, 3)",
        ),
        (lambda t: t.update({"conv_in.weight": t["conv_in.weight"].long()}), "expected a floating-point type"),
    ],
    ids=["a key is missing", "a key is left over", "a shape is wrong", "a weight is of whole numbers"],
)
def test_a_folder_whose_tensors_are_not_its_networks_is_refused(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, tiny_folder: Path, tmp_path: Path
) -> None:

    tensors = load_file(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((tiny_folder / "unet" / "config.json").read_text())
    refused(lambda: part_of_folder(tmp_path).materialize(None), message)


@pytest.mark.parametrize(
    "config", [{"_class_name": "SD3Transformer2DModel"}, {"architectures": ["T5EncoderModel"]}, {}]
)
def test_networks_of_other_models_are_refused(config: dict[str, Any]) -> None:
    refused(lambda: make_network(config, "a folder"), "expected a network of Stable Diffusion 1.x, 2.x or XL")


def test_weights_are_the_mapped_tensors_unless_they_are_cast(tiny_folder: Path) -> None:
    part = part_of_folder(tiny_folder / "unet")
    network = part.materialize(None)
    assert network.conv_in.weight.data_ptr() == part.tensors["conv_in.weight"].data_ptr()
    cast = part_of_folder(tiny_folder / "unet").materialize(torch.bfloat16)
    assert torch.equal(cast.conv_in.weight, part.tensors["conv_in.weight"].bfloat16())
