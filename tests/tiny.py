"""Tiny models with random weights, for shapes, parity and exactness; never for quality.

Tests import what they need (`from ..tiny import make_unet`); the program `tests/training/tiny.py` imports it by path.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tether.base import Base, ControlNet, TextEncoders
from tether.control import Conditioning

NOISE_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion 1.x, for DDIM."""

# UNets of every family, for controls and denoisers.

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


def make_unet(family: str = "bundled", seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A locked denoiser of a family of `FAMILIES`, with some settings changed."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(**(FAMILIES[family] | changes)).requires_grad_(False).eval()


def make_inputs(unet: UNet2DConditionModel, batch: int = 2, size: tuple[int, int] = (16, 8)) -> dict[str, Any]:
    """The arguments that `Control.signal` and `Denoiser.predict` share."""
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


def randomize(module: torch.nn.Module) -> None:
    """Gives every parameter a random value, the zero layers too: as if the module had been trained."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


# A whole base, in memory and as a diffusers folder.


def make_base_folder(folder: Path) -> Path:
    """A diffusers folder of a tiny base like Stable Diffusion 1.x: 64 px, 24 tokens."""
    torch.manual_seed(0)
    vocabulary = {letter: k for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789,.()\\:!")}
    vocabulary |= {f"{letter}</w>": len(vocabulary) + k for k, letter in enumerate(list(vocabulary))}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder / "text_encoder")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
    ).save_pretrained(folder / "unet")
    DDIMScheduler(**NOISE_SCHEDULE).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# A base for training. Its batches carry text states, so it has no text encoder.

TRAINING_WIDTH = 12
"""Width of its text states."""
TRAINING_SCHEDULE = {
    name: NOISE_SCHEDULE[name] for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
}


def make_training_base(seed: int = 0, widths: tuple[int, int] = (8, 16), **schedule: Any) -> Base:
    """A denoiser of about 100 thousand parameters, and its autoencoder."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=TRAINING_WIDTH,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    text = torch.nn.Linear(2, 2)
    return Base(unet, vae, TextEncoders((SimpleNamespace(), text)), TRAINING_SCHEDULE | schedule)


def make_control(base: Base, seed: int = 1) -> ControlNet:
    """A control for `make_training_base`, untrained."""
    torch.manual_seed(seed)
    return cast(ControlNet, ControlNet.from_unet(base.unet, hint_channels=(4, 4, 8, 8)))
