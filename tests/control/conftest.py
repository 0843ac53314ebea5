"""Tiny denoisers of every family, with random weights: for shapes, parity and identities, not for quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from tether.control import Conditioning

TEXT_WIDTH = 12

_SD = {
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 2,
}
_THREE_BLOCKS = {
    "norm_num_groups": 4,
    "cross_attention_dim": TEXT_WIDTH,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
_BUNDLED = _THREE_BLOCKS | {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "attention_head_dim": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "sd1": _SD,
    "sd2": _SD | {"use_linear_projection": True, "attention_head_dim": (1, 2, 4, 4)},
    "sdxl": _THREE_BLOCKS
    | {
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 10,
    },
    "bundled": _BUNDLED,
    "inpainting": _BUNDLED | {"in_channels": 9},
    "class labels": _BUNDLED | {"num_class_embeds": 5},
    "projected text": _BUNDLED | {"encoder_hid_dim": 20},
}


@pytest.fixture
def make_unet() -> Callable[..., UNet2DConditionModel]:
    def make(family: str = "bundled", seed: int = 0, **changes: Any) -> UNet2DConditionModel:
        torch.manual_seed(seed)
        return UNet2DConditionModel(**(FAMILIES[family] | changes)).requires_grad_(False).eval()

    return make


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, Any]]:
    """The arguments that `Control.signal` and `Denoiser.predict` share."""

    def make(unet: UNet2DConditionModel, batch: int = 2, size: tuple[int, int] = (16, 8)) -> dict[str, Any]:
        random = torch.Generator().manual_seed(1)
        pooled, extras = None, dict[str, Tensor]()
        if unet.config["addition_embed_type"] == "text_time":
            pooled = torch.randn(batch, 10, generator=random)
            extras["time_ids"] = torch.tensor([[128.0, 64.0, 0.0, 0.0, 128.0, 64.0]]).repeat(batch, 1)
        if unet.config["num_class_embeds"]:
            extras["class_labels"] = torch.arange(batch)
        width = unet.config["encoder_hid_dim"] or unet.config["cross_attention_dim"]
        return {
            "latents": torch.randn(batch, unet.config["in_channels"], *size, generator=random),
            "timestep": torch.randint(1000, (batch,), generator=random),
            "conditioning": Conditioning(torch.randn(batch, 7, width, generator=random), pooled, extras),
        }

    return make


@pytest.fixture
def randomize() -> Callable[[torch.nn.Module], None]:
    """Give every parameter a random value, the zero layers too: as if the module had been trained."""

    def fill(module: torch.nn.Module) -> None:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)

    return fill
