"""The published networks, restated from their code, not from Tether's tables: the names and shapes of every tensor.

They are written down as the CompVis and Stability code builds them: level by level, layer by layer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Layer = tuple[str, tuple[int, ...]]


# The published architecture.


def convolution(name: str, inputs: int, outputs: int, side: int = 3) -> Iterator[Layer]:
    yield f"{name}.weight", (outputs, inputs, side, side)
    yield f"{name}.bias", (outputs,)


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[Layer]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, channels: int) -> Iterator[Layer]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


@dataclass(frozen=True)
class Denoiser:
    """The arguments of the published UNetModel and ControlNet."""

    width: int = 320
    mult: tuple[int, ...] = (1, 2, 4, 4)
    layers: int = 2
    depth: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    context: int = 768
    linear: bool = False
    added: int | None = None
    inputs: int = 4

    def residual(self, name: str, inputs: int, outputs: int) -> Iterator[Layer]:
        yield from norm(f"{name}.in_layers.0", inputs)
        yield from convolution(f"{name}.in_layers.2", inputs, outputs)
        yield from linear(f"{name}.emb_layers.1", 4 * self.width, outputs)
        yield from norm(f"{name}.out_layers.0", outputs)
        yield from convolution(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            yield from convolution(f"{name}.skip_connection", inputs, outputs, 1)

    def transformer(self, name: str, channels: int, depth: int) -> Iterator[Layer]:
        yield from norm(f"{name}.norm", channels)
        for projection in ("proj_in", "proj_out"):
            if self.linear:
                yield from linear(f"{name}.{projection}", channels, channels)
            else:
                yield from convolution(f"{name}.{projection}", channels, channels, 1)
        for d in range(depth):
            block = f"{name}.transformer_blocks.{d}"
            for attention, context in (("attn1", channels), ("attn2", self.context)):
                yield from linear(f"{block}.{attention}.to_q", channels, channels, bias=False)
                yield from linear(f"{block}.{attention}.to_k", context, channels, bias=False)
                yield from linear(f"{block}.{attention}.to_v", context, channels, bias=False)
                yield from linear(f"{block}.{attention}.to_out.0", channels, channels)
            yield from linear(f"{block}.ff.net.0.proj", channels, 8 * channels)
            yield from linear(f"{block}.ff.net.2", 4 * channels, channels)
            for k in (1, 2, 3):
                yield from norm(f"{block}.norm{k}", channels)

    def encoder(self, skips: list[int]) -> Iterator[Layer]:
        """Time embedding, input blocks and middle; the channels of each input block are put into `skips`."""
        yield from linear("time_embed.0", self.width, 4 * self.width)
        yield from linear("time_embed.2", 4 * self.width, 4 * self.width)
        if self.added is not None:
            yield from linear("label_emb.0.0", self.added, 4 * self.width)
            yield from linear("label_emb.0.2", 4 * self.width, 4 * self.width)
        yield from convolution("input_blocks.0.0", self.inputs, self.width)
        channels, block = self.width, 1
        skips.append(channels)
        for level, mult in enumerate(self.mult):
            for _ in range(self.layers):
                yield from self.residual(f"input_blocks.{block}.0", channels, mult * self.width)
                channels = mult * self.width
                if self.depth[level]:
                    yield from self.transformer(f"input_blocks.{block}.1", channels, self.depth[level])
                skips.append(channels)
                block += 1
            if level != len(self.mult) - 1:
                yield from convolution(f"input_blocks.{block}.0.op", channels, channels)
                skips.append(channels)
                block += 1
        yield from self.residual("middle_block.0", channels, channels)
        yield from self.transformer("middle_block.1", channels, self.middle_depth)
        yield from self.residual("middle_block.2", channels, channels)

    def unet(self) -> Shapes:
        skips: list[int] = []
        layers = list(self.encoder(skips))
        channels, block = skips[-1], 0
        for level in reversed(range(len(self.mult))):
            for i in range(self.layers + 1):
                layers += self.residual(
                    f"output_blocks.{block}.0", channels + skips.pop(), self.mult[level] * self.width
                )
                channels = self.mult[level] * self.width
                parts = 1
                if self.depth[level]:
                    layers += self.transformer(f"output_blocks.{block}.1", channels, self.depth[level])
                    parts += 1
                if level and i == self.layers:
                    layers += convolution(f"output_blocks.{block}.{parts}.conv", channels, channels)
                block += 1
        layers += norm("out.0", channels)
        layers += convolution("out.2", channels, 4)
        return dict(layers)

    def control(self) -> Shapes:
        skips: list[int] = []
        layers = list(self.encoder(skips))
        for k, channels in enumerate(skips):
            layers += convolution(f"zero_convs.{k}.0", channels, channels, 1)
        layers += convolution("middle_block_out.0", skips[-1], skips[-1], 1)
        widths = (3, 16, 16, 32, 32, 96, 96, 256, self.width)
        for k, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += convolution(f"input_hint_block.{2 * k}", inputs, outputs)
        return dict(layers)


def autoencoder(width: int = 128, mult: tuple[int, ...] = (1, 2, 4, 4), layers: int = 2, latents: int = 4) -> Shapes:
    def residual(name: str, inputs: int, outputs: int) -> Iterator[Layer]:
        yield from norm(f"{name}.norm1", inputs)
        yield from convolution(f"{name}.conv1", inputs, outputs)
        yield from norm(f"{name}.norm2", outputs)
        yield from convolution(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            yield from convolution(f"{name}.nin_shortcut", inputs, outputs, 1)

    def middle(name: str, channels: int) -> Iterator[Layer]:
        yield from residual(f"{name}.block_1", channels, channels)
        yield from norm(f"{name}.attn_1.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            yield from convolution(f"{name}.attn_1.{part}", channels, channels, 1)
        yield from residual(f"{name}.block_2", channels, channels)

    found: list[Layer] = [*convolution("encoder.conv_in", 3, width)]
    channels, last = width, len(mult) - 1
    for level, m in enumerate(mult):
        for k in range(layers):
            found += residual(f"encoder.down.{level}.block.{k}", channels, width * m)
            channels = width * m
        if level != last:
            found += convolution(f"encoder.down.{level}.downsample.conv", channels, channels)
    found += [*middle("encoder.mid", channels), *norm("encoder.norm_out", channels)]
    found += convolution("encoder.conv_out", channels, 2 * latents)
    found += [*convolution("decoder.conv_in", latents, channels), *middle("decoder.mid", channels)]
    for level in reversed(range(len(mult))):
        for k in range(layers + 1):
            found += residual(f"decoder.up.{level}.block.{k}", channels, width * mult[level])
            channels = width * mult[level]
        if level:
            found += convolution(f"decoder.up.{level}.upsample.conv", channels, channels)
    found += [*norm("decoder.norm_out", channels), *convolution("decoder.conv_out", channels, 3)]
    found += convolution("quant_conv", 2 * latents, 2 * latents, 1)
    found += convolution("post_quant_conv", latents, latents, 1)
    return dict(found)


def clip(width: int = 768, layers: int = 12) -> Shapes:
    found: list[Layer] = [
        ("text_model.embeddings.position_ids", (1, 77)),
        ("text_model.embeddings.token_embedding.weight", (49408, width)),
        ("text_model.embeddings.position_embedding.weight", (77, width)),
    ]
    for n in range(layers):
        layer = f"text_model.encoder.layers.{n}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            found += linear(f"{layer}.self_attn.{part}", width, width)
        found += norm(f"{layer}.layer_norm1", width)
        found += [*linear(f"{layer}.mlp.fc1", width, 4 * width), *linear(f"{layer}.mlp.fc2", 4 * width, width)]
        found += norm(f"{layer}.layer_norm2", width)
    return dict([*found, *norm("text_model.final_layer_norm", width)])


def open_clip(width: int, layers: int, projected: int) -> Shapes:
    found: list[Layer] = [
        ("positional_embedding", (77, width)),
        ("text_projection", (width, projected)),
        ("logit_scale", ()),
        ("token_embedding.weight", (49408, width)),
    ]
    for n in range(layers):
        block = f"transformer.resblocks.{n}"
        found += [*norm(f"{block}.ln_1", width), *norm(f"{block}.ln_2", width)]
        found += [(f"{block}.attn.in_proj_weight", (3 * width, width)), (f"{block}.attn.in_proj_bias", (3 * width,))]
        found += linear(f"{block}.attn.out_proj", width, width)
        found += [*linear(f"{block}.mlp.c_fc", width, 4 * width), *linear(f"{block}.mlp.c_proj", 4 * width, width)]
    return dict([*found, *norm("ln_final", width)])


SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def below(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


@dataclass(frozen=True)
class Family:
    """One released model; the true ones, and small ones of the same make."""

    denoiser: Denoiser
    text_width: int
    text_layers: int
    second: tuple[int, int, int] | None = None
    vae: tuple[int, tuple[int, ...]] = (128, (1, 2, 4, 4))
    open_text: bool = False

    def base(self) -> Shapes:
        shapes = below("model.diffusion_model.", self.denoiser.unet())
        shapes |= below("first_stage_model.", autoencoder(*self.vae))
        if self.open_text:
            return shapes | below(
                "cond_stage_model.model.", open_clip(self.text_width, self.text_layers, self.text_width)
            )
        if self.second is None:
            return shapes | below("cond_stage_model.transformer.", clip(self.text_width, self.text_layers))
        shapes |= below("conditioner.embedders.0.transformer.", clip(self.text_width, self.text_layers))
        return shapes | below("conditioner.embedders.1.model.", open_clip(*self.second))


TRUE = {
    "sd1": Family(Denoiser(), 768, 12),
    "sd2": Family(Denoiser(context=1024, linear=True), 1024, 24, open_text=True),
    "sdxl": Family(
        Denoiser(mult=(1, 2, 4), depth=(0, 2, 10), middle_depth=10, context=2048, linear=True, added=2816),
        768,
        12,
        second=(1280, 32, 1280),
    ),
}
_SMALL: dict[str, Any] = {"width": 64, "mult": (1, 2), "layers": 1}
SMALL = {
    "sd1": Family(Denoiser(width=32, mult=(1, 2), layers=1, depth=(1, 0), context=64), 64, 2, vae=(32, (1, 1))),
    "sd2": Family(Denoiser(**_SMALL, depth=(1, 0), context=64, linear=True), 64, 3, open_text=True, vae=(32, (1, 1))),
    "sdxl": Family(
        Denoiser(**_SMALL, depth=(0, 2), middle_depth=2, context=128, linear=True, added=6 * 256 + 32),
        64,
        2,
        second=(64, 2, 32),
        vae=(32, (1, 1)),
    ),
}
WORDS = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}


EXPECTED_UNET = {
    "sd1": {
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "use_linear_projection": False,
        "transformer_layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "sd2": {
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "transformer_layers_per_block": 1,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
}
"""What the config.json of the published diffusers repositories say."""


# Files.


def hollow(path: Path, shapes: Shapes, kind: str = "F16") -> Path:
    """A safetensors file of these shapes whose numbers, all zero, take no room on the disk."""
    table, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(torch.Size(shape).numel())
        table[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + place)
    return path


def numbers(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.arange(77)[None] if name.endswith("position_ids") else 0.05 * torch.randn(shape, generator=random)
        for name, shape in shapes.items()
    }


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []
