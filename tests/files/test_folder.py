"""The JSON and the weights of a diffusers folder are found, or the error names what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tether.errors import TetherError
from tether.files.folder import MAX_JSON, is_base_folder, read_json, weights_of_folder, what_opens


def number(folder: Path, name: str, value: float) -> None:
    tensors = {"a": torch.tensor([value])}
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        save_file(tensors, folder / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 10**5, "is not valid JSON"),
        ('"' + "x" * MAX_JSON + '"', "exceeds the 4 MiB limit"),
    ],
)
def test_json_that_is_no_object_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(TetherError, match=rf"config\.json.*{message}"):
        read_json(tmp_path / "config.json")


def test_a_missing_file_means_that_the_folder_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"has no config\.json: it is not a complete diffusers folder$"):
        read_json(tmp_path / "config.json")


def test_safetensors_come_before_pickles_and_whole_precision_before_half(tmp_path: Path) -> None:
    names = ["model.bin", "model.fp16.safetensors", "model.safetensors", "diffusion_pytorch_model.safetensors"]
    for value, name in enumerate(names):
        number(tmp_path, name, value)
        assert weights_of_folder(tmp_path).tensors["a"].item() == value


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    for name in "ab":
        save_file({name: torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_of_folder(tmp_path).tensors.keys() == {"a", "b"}
    index["weight_map"]["b"] = "a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TetherError, match=r"is inconsistent: a\.safetensors does not contain b"):
        weights_of_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(TetherError, match="is not a valid index of shards: expected a weight_map"):
        weights_of_folder(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"has no weights: expected diffusion_pytorch_model\.safetensors or"):
        weights_of_folder(tmp_path)


def test_the_folder_of_a_base_has_an_index(tmp_path: Path) -> None:
    assert not is_base_folder(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    assert is_base_folder(tmp_path)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_of_either_format_are_one_set_of_weights(ending: str, tmp_path: Path) -> None:
    parts = [{"a": torch.ones(2)}, {"b": torch.zeros(3)}]
    names = [f"pytorch_model-0000{k}-of-00002.{ending}" for k in (1, 2)]
    for name, tensors in zip(names, parts, strict=True):
        (save_file if ending == "safetensors" else torch.save)(tensors, tmp_path / name)
    places = {"weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / f"pytorch_model.{ending}.index.json").write_text(json.dumps(places))
    found = weights_of_folder(tmp_path).tensors
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [1.0, 1.0], "b": [0.0] * 3}


def test_advice_names_what_opens(tmp_path: Path) -> None:
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    (tmp_path / "sd" / "model_index.json").write_text("{}")
    assert what_opens(tmp_path) == f"a base is in it: {tmp_path / 'sd'}"
    assert what_opens(tmp_path / "sd" / "unet") == f"it is a part of {tmp_path / 'sd'}: give that"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "v1.safetensors").touch()
    assert what_opens(tmp_path / "files") == "give one of its files: v1.safetensors"
    (tmp_path / "files" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    assert what_opens(tmp_path / "files") == "it is a control, for --control"


def test_a_folder_around_a_model_names_it(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoint-500" / "controlnet"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text("{}")
    with pytest.raises(TetherError, match=rf"did you mean {re.escape(str(inner))}\?$"):
        read_json(tmp_path / "config.json")
