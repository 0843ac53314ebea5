"""A base opens from whatever names one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.base import load_base
from tether.base.load import base_parts
from tether.errors import TetherError
from tether.weights import shipped

from ..reference.layouts import SMALL, hollow


def test_the_shipped_base_is_the_default() -> None:
    base = load_base()
    assert (base.name, base.family, base.source) == ("tether", "bundled", shipped("base"))
    assert not any(parameter.requires_grad for module in base.modules() for parameter in module.parameters())


def test_a_base_is_named_after_its_folder_or_file(tiny_folder: Path, tmp_path: Path) -> None:
    assert load_base(tiny_folder).name == tiny_folder.name
    path = hollow(tmp_path / "my model.safetensors", SMALL["sd1"].base())
    assert load_base(path).name == "my model"
    assert load_base(str(path), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_an_autoencoder_comes_from_its_folder_or_another_base(tiny_folder: Path) -> None:
    own = base_parts(tiny_folder)[0].vae.config
    for place in (tiny_folder, tiny_folder / "vae"):
        assert base_parts("tether", vae=place)[0].vae.config == own


def test_another_network_is_no_autoencoder(tiny_folder: Path) -> None:
    with pytest.raises(TetherError, match="expected an autoencoder, found a UNet2DConditionModel"):
        load_base(vae=tiny_folder / "unet")


def test_a_light_base_encodes_prompts_to_the_same_states(tiny_folder: Path) -> None:
    plain, light = load_base(tiny_folder), load_base(tiny_folder, light=True)
    assert type(light.text_encoder).__module__ == "tether.base.clip"
    assert type(light.tokenizer).__module__ == "tether.base.tokenizer"
    for prompts, skip in ((["", "a (red:1.3) apple, and more words than fit into one window of it"], 0), (["b"], 1)):
        expected, found = plain.encode_prompts(prompts, skip), light.encode_prompts(prompts, skip)
        assert torch.equal(found.tokens, expected.tokens)


def test_both_text_encoders_of_a_single_file_can_be_light(tmp_path: Path) -> None:
    parts, _ = base_parts(hollow(tmp_path / "xl.safetensors", SMALL["sdxl"].base()), light=True)
    assert parts.text_encoder_2 is not None
    names = [type(part.network).__name__ for part in (parts.text_encoder, parts.text_encoder_2)]
    assert names == ["ClipText", "ClipTextWithProjection"]
    assert [type(one).__module__ for one in (parts.tokenizer, parts.tokenizer_2)] == ["tether.base.tokenizer"] * 2
