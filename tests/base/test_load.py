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
