"""The autoencoder's tensors: every name has its pair, and the settings follow from the shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from tether.errors import TetherError
from tether.formats.names import to_diffusers
from tether.formats.vae import modern_names, vae_config, vae_pairs

from ..reference.layouts import autoencoder


def empty(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("size", [(128, (1, 2, 4, 4), 2, 4), (32, (1, 1), 1, 3)])
def test_an_autoencoder_becomes_a_whole_one_of_diffusers(size: tuple[int, tuple[int, ...], int, int]) -> None:
    original = empty(autoencoder(*size))
    config = vae_config(original, "")
    with torch.device("meta"):
        network: Any = AutoencoderKL.from_config(config)
    tensors, used = to_diffusers(vae_pairs(len(size[1]), network.state_dict()), original)
    assert used == original.keys()
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected


def test_the_names_of_early_diffusers_are_todays() -> None:
    early = ("group_norm", "query", "key", "value", "proj_attn")
    today = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
    prefix = "encoder.mid_block.attentions.0."
    found = modern_names({f"{prefix}{name}.weight": torch.tensor(k) for k, name in enumerate(early)})
    assert found == {f"{prefix}{name}.weight": torch.tensor(k) for k, name in enumerate(today)}
    assert modern_names(found) == found


@pytest.mark.parametrize(
    "missing", ["encoder.conv_in.weight", "quant_conv.weight", "encoder.down.0.block.0.conv1.weight"]
)
def test_other_autoencoders_are_refused(missing: str) -> None:
    shapes = autoencoder(32, (1, 1), 1)
    del shapes[missing]
    with pytest.raises(TetherError, match=r"autoencoder does not match Stable Diffusion 1\.x, 2\.x or XL"):
        vae_config(empty(shapes), "")
