"""Builds the tiny models, photos and adapters that the golden images were drawn with, always the same.

    python tests/golden/models.py FOLDER

Every weight is drawn by numpy's PCG64 from a fixed seed, in the order of the parameters' names, so nothing depends on
PyTorch's random numbers or on any library's initializers. Nothing of Tether is imported here.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

NOISE_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
DECODER: dict[str, Any] = {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
XL: dict[str, Any] = {
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
HINT: dict[str, Any] = {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
WINDOW = 24
LAYER = "down_blocks_1_attentions_0_transformer_blocks_0_attn{}_to_{}"


def draw_weights(module: nn.Module, seed: int) -> None:
    """Fills a network: matrices and kernels keep variance, norms are near 1, biases near 0; zero convolutions too."""
    random = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            numbers = random.standard_normal(tuple(parameter.shape))
            if "embedding" in name and parameter.ndim == 2 and "time_embedding" not in name:
                numbers *= 0.5  # of tokens and places
            elif parameter.ndim > 1:
                numbers /= np.sqrt(np.prod(parameter.shape[1:]))
            elif name.endswith("weight"):
                numbers = 1 + 0.1 * numbers
            else:
                numbers *= 0.1
            parameter.copy_(torch.from_numpy(numbers.astype(np.float32)))


def save_network(network: Any, folder: Path, seed: int) -> None:
    draw_weights(network, seed)
    network.save_pretrained(folder)


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    vocabulary = {letter: k for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789,.()\\:!")}
    vocabulary |= {f"{letter}</w>": len(vocabulary) + k for k, letter in enumerate(list(vocabulary))}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=WINDOW)
    tokenizer.save_pretrained(folder)
    return tokenizer


def text_config(tokenizer: CLIPTokenizer, **settings: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


def build_base(folder: Path, seed: int, *, xl: bool = False, in_channels: int = 4, **schedule: Any) -> None:
    """A diffusers folder of a base of Stable Diffusion's kind, or of SDXL's, for 64 pixels."""
    tokenizer = save_tokenizer(folder / "tokenizer")
    save_network(CLIPTextModel(text_config(tokenizer)), folder / "text_encoder", seed + 1)
    save_network(AutoencoderKL(**VAE), folder / "vae", seed + 2)
    unet = UNet2DConditionModel(**UNET | DECODER | (XL if xl else {}), in_channels=in_channels)
    save_network(unet, folder / "unet", seed + 3)
    DDIMScheduler(**NOISE_SCHEDULE | schedule).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if xl:
        save_tokenizer(folder / "tokenizer_2")
        second = CLIPTextModelWithProjection(text_config(tokenizer, projection_dim=16, hidden_act="gelu"))
        save_network(second, folder / "text_encoder_2", seed + 4)
        index |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
    (folder / "model_index.json").write_text(json.dumps(index))


def build_control(folder: Path, seed: int, kind: str, **settings: Any) -> None:
    """A diffusers folder of a ControlNet whose zero convolutions are not zero, with Tether's note of its kind."""
    save_network(ControlNetModel(**UNET_ENCODER | HINT | settings), folder, seed)
    (folder / "tether.json").write_text(json.dumps({"kind": kind}))


UNET_ENCODER = {name: value for name, value in UNET.items() if name != "sample_size"}


def build_adapters(folder: Path) -> None:
    """`tiny-lora.safetensors` under kohya's names, and a textual inversion of two rows, `tiny-word.safetensors`."""
    random = np.random.Generator(np.random.PCG64(41))

    def numbers(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    layers = {f"lora_unet_{LAYER.format(1, 'q')}": (64, 64), f"lora_unet_{LAYER.format(2, 'v')}": (32, 64)}
    for part in ("q_proj", "out_proj"):
        layers[f"lora_te_text_model_encoder_layers_0_self_attn_{part}"] = (32, 32)
    lora = {}
    for name, (inputs, outputs) in layers.items():
        lora[f"{name}.lora_down.weight"] = numbers(2, inputs) * 0.3
        lora[f"{name}.lora_up.weight"] = numbers(outputs, 2) * 0.3
        lora[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(lora, folder / "tiny-lora.safetensors")
    save_file({"emb_params": numbers(2, 32)}, folder / "tiny-word.safetensors")


def build_pictures(folder: Path) -> None:
    """`photo.png` (90x70), `start.png` (80x64), `mask.png` (64x64) and `lines.png` (72x72, a ready condition)."""
    column, row = np.arange(90), np.arange(70)[:, None]
    planes = [column * 2 + row * 0, 200 - row * 2 + column * 0, (column + row) % 64 + 60]
    photo = Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))
    pen = ImageDraw.Draw(photo)
    pen.rectangle((18, 16, 52, 54), fill=(220, 60, 60))
    pen.polygon([(60, 60), (84, 60), (72, 20)], fill=(20, 30, 90))
    photo.save(folder / "photo.png")
    start = Image.new("RGB", (80, 64), (240, 200, 120))
    ImageDraw.Draw(start).rectangle((20, 12, 60, 50), fill=(40, 120, 90))
    start.save(folder / "start.png")
    mask = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(mask).rectangle((16, 16, 47, 55), fill=255)
    mask.save(folder / "mask.png")
    lines = Image.new("L", (72, 72), 0)
    pen = ImageDraw.Draw(lines)
    pen.line((8, 60, 36, 10, 64, 60, 8, 60), fill=255)
    pen.line((0, 36, 71, 36), fill=255)
    lines.save(folder / "lines.png")


def build_models(folder: Path) -> None:
    """Builds all of it; `folder` is made."""
    folder.mkdir(parents=True, exist_ok=True)
    build_base(folder / "tiny-base", 100)
    shutil.copytree(folder / "tiny-base", folder / "tiny-v")
    shutil.rmtree(folder / "tiny-v" / "scheduler")
    velocity = DDIMScheduler(**NOISE_SCHEDULE, prediction_type="v_prediction")
    velocity.save_pretrained(folder / "tiny-v" / "scheduler")
    build_base(folder / "tiny-inpaint", 200, in_channels=9)
    build_base(folder / "tiny-xl", 300, xl=True)
    build_control(folder / "tiny-control", 400, "canny")
    build_control(folder / "tiny-scribble", 500, "scribble")
    build_control(folder / "tiny-fill", 600, "inpaint")
    build_control(folder / "tiny-shuffle", 700, "shuffle", global_pool_conditions=True)
    build_control(folder / "tiny-xl-control", 800, "canny", **XL)
    build_adapters(folder)
    build_pictures(folder)


if __name__ == "__main__":
    build_models(Path(sys.argv[1]))
