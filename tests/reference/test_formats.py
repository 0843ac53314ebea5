"""Files as they were released: names and shapes restated here from the published code, not from Tether's tables.

The networks are written down once more as the CompVis and Stability code builds them: level by level, layer by layer.
A file with exactly these tensors must open with every one of them used; diffusers' own converter is the second opinion
on which goes where.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle
from safetensors.torch import save_file
from torch import Tensor

from tether.base import Base, ControlNet, load_base
from tether.base.control_file import control_of
from tether.base.convert import convert
from tether.base.single_file import parts_of_file
from tether.errors import TetherError

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


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Tensor], Path]:
    """(family, tensors, file) of a small base of each family."""
    family = request.param
    tensors = numbers(SMALL[family].base())
    path = tmp_path_factory.mktemp(family) / f"small-{family}.safetensors"
    save_file(tensors, path)
    return family, tensors, path


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []


# Bases.


def test_the_restated_layout_has_the_published_number_of_tensors() -> None:
    counts = {family: len(true.denoiser.unet()) for family, true in TRUE.items()}
    assert counts == {"sd1": 686, "sd2": 686, "sdxl": 1680}
    assert len(autoencoder()) == 248
    assert len(clip()) == 197
    assert len(TRUE["sd1"].base()) == 1131
    assert len(TRUE["sd1"].denoiser.control()) == 340
    assert sum(torch.Size(shape).numel() for shape in TRUE["sd1"].denoiser.unet().values()) == 859_520_964
    assert sum(torch.Size(shape).numel() for shape in TRUE["sdxl"].denoiser.unet().values()) == 2_567_463_684
    assert sum(torch.Size(shape).numel() for shape in TRUE["sd1"].denoiser.control().values()) == 361_279_120


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

EXPECTED_TEXT = {
    "sd1": [(768, 12, 12, 3072, "quick_gelu")],
    "sd2": [(1024, 23, 16, 4096, "gelu")],
    "sdxl": [(768, 12, 12, 3072, "quick_gelu"), (1280, 32, 20, 5120, "gelu")],
}


@pytest.mark.parametrize("family", TRUE)
def test_a_base_of_true_size_is_recognised_and_every_tensor_is_used(family: str, tmp_path: Path) -> None:
    shapes = TRUE[family].base()
    shapes |= dict.fromkeys(SCHEDULE, (1000,)) | {"model_ema.decay": (), "model_ema.num_updates": ()}
    parts = parts_of_file(hollow(tmp_path / f"{family}.safetensors", shapes))
    assert parts.family == family
    assert WORDS[family] in parts.words
    networks = parts.networks()
    assert {name: networks["unet"].config[name] for name in EXPECTED_UNET[family]} == EXPECTED_UNET[family]
    texts = [networks[name].config for name in ("text_encoder", "text_encoder_2") if name in networks]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    assert [tuple(text[name] for name in names) for text in texts] == EXPECTED_TEXT[family]
    assert parts.vae.config["block_out_channels"] == [128, 256, 512, 512]
    assert parts.vae.config["scaling_factor"] == (0.13025 if family == "sdxl" else 0.18215)

    # Each tensor of the file is in a network, whole, or known to be of no use.
    used = sum(tensor.numel() for part in networks.values() for tensor in part.tensors.values())
    idle = {name: tuple(tensor.shape) for name, tensor in parts.released_only.items()}
    total = sum(torch.Size(shape).numel() for name, shape in shapes.items() if not name.startswith("model_ema."))
    assert used + sum(torch.Size(shape).numel() for shape in idle.values()) == total
    plain = {name for name in idle if name not in SCHEDULE and not name.endswith(("position_ids", "logit_scale"))}
    last = "cond_stage_model.model.transformer.resblocks.23."
    unused = {name for name in shapes if name.startswith(last)} | {"cond_stage_model.model.text_projection"}
    assert plain == (unused if family == "sd2" else set())


@pytest.mark.parametrize("missing", [
    "model.diffusion_model.output_blocks.7.1.transformer_blocks.0.attn2.to_v.weight",
    "first_stage_model.decoder.mid.attn_1.q.bias",
    "cond_stage_model.transformer.text_model.encoder.layers.5.mlp.fc1.weight",
])  # fmt: skip
def test_a_base_that_lacks_one_tensor_is_refused(missing: str, tmp_path: Path) -> None:
    shapes = TRUE["sd1"].base()
    del shapes[missing]
    with pytest.raises(TetherError, match="lacks"):
        parts_of_file(hollow(tmp_path / "a.safetensors", shapes))


@pytest.mark.parametrize("name", ["model.diffusion_model.extra.weight", "first_stage_model.a.b", "something.else"])
def test_a_base_with_a_tensor_too_many_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="do not belong"):
        parts_of_file(hollow(tmp_path / "a.safetensors", SMALL["sd1"].base() | {name: (3,)}))


def test_a_base_with_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    shapes = SMALL["sd1"].base() | {"model.diffusion_model.out.0.weight": (31,)}
    with pytest.raises(TetherError, match=r"\(31,\)"):
        parts_of_file(hollow(tmp_path / "a.safetensors", shapes))


def test_inpainting_bases_are_recognised(tmp_path: Path) -> None:
    family = Family(
        Denoiser(width=32, mult=(1, 2), layers=1, depth=(1, 0), context=64, inputs=9), 64, 1, vae=(32, (1,))
    )
    parts = parts_of_file(hollow(tmp_path / "a.safetensors", family.base()))
    assert parts.unet.config["in_channels"] == 9
    assert "for inpainting" in parts.words


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "Flux"),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 4)}, "LoRA"),
        ({"emb_params": (2, 768)}, "textual-inversion"),
        ({"lora_controlnet": (), "input_hint_block.0.weight": (4, 4)}, "Control-LoRA"),
        ({"layers.0.weight": (4, 4)}, "no known model"),
        (below("first_stage_model.", autoencoder(32, (1, 1))), "autoencoder alone"),
        (below("model.diffusion_model.", SMALL["sd1"].denoiser.unet()), "without its text encoder"),
        (below("control_model.", SMALL["sd1"].denoiser.control()), "a base is wanted"),
    ],
)
def test_other_models_are_refused_by_name_and_told_what_is_supported(shapes: Shapes, said: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=said) as caught:
        load_base(hollow(tmp_path / "a.safetensors", shapes))
    assert len(str(caught.value).splitlines()) == 1


def test_diffusers_own_converter_puts_every_tensor_of_a_base_where_tether_does(
    small: tuple[str, dict[str, Tensor], Path],
) -> None:
    family, tensors, path = small
    parts = parts_of_file(path)
    networks = parts.networks()
    config = {name: parts.unet.config.get(name) for name in ("layers_per_block", "addition_embed_type")}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    same(networks["unet"].tensors, oracle.convert_ldm_unet_checkpoint(dict(copies), config))
    same(networks["vae"].tensors, oracle.convert_ldm_vae_checkpoint(dict(copies), dict(parts.vae.config)))
    if family == "sd2":
        bare = {name: tensor for name, tensor in copies.items() if "resblocks.2." not in name}
        network = networks["text_encoder"].land(None)
        theirs = oracle.convert_open_clip_checkpoint(network, bare, prefix="cond_stage_model.model.")
    else:
        prefix = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
        theirs = oracle.convert_ldm_clip_checkpoint(dict(copies), remove_prefix=prefix)
    theirs = {name: tensor for name, tensor in theirs.items() if "position_ids" not in name}
    theirs.pop("text_projection.weight", None)
    same(networks["text_encoder"].tensors, theirs)
    if family == "sdxl":
        network = networks["text_encoder_2"].land(None)
        theirs = oracle.convert_open_clip_checkpoint(network, dict(copies), prefix="conditioner.embedders.1.model.")
        theirs = {name: tensor for name, tensor in theirs.items() if "position_ids" not in name}
        same(networks["text_encoder_2"].tensors, theirs)


def test_a_single_file_opens_offline_and_runs(small: tuple[str, dict[str, Tensor], Path]) -> None:
    family, _, path = small
    base = load_base(path)
    assert base.family == family
    assert base.zero_empty_negative == (family == "sdxl")
    text = base.encode_prompts(["a red apple", ""])
    width = SMALL[family].denoiser.context
    assert text.states.shape == (2, 77, width)
    added = None
    if family == "sdxl":
        assert text.pooled is not None
        added = {"text_embeds": text.pooled, "time_ids": torch.zeros(2, 6)}
    with torch.no_grad():
        out = base.unet(torch.zeros(2, 4, 8, 8), 10, encoder_hidden_states=text.states, added_cond_kwargs=added).sample
    assert out.isfinite().all()
    assert base.decode_latents(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)


def test_only_the_autoencoder_that_overflows_in_half_precision_stays_in_single(
    small: tuple[str, dict[str, Tensor], Path],
) -> None:
    family, _, path = small
    base = load_base(path, dtype=torch.float16)
    others = {module.dtype for module in base.modules() if module is not base.vae}
    assert others == {torch.float16}
    assert base.vae.dtype == (torch.float32 if family == "sdxl" else torch.float16)
    assert load_base(path, dtype=torch.bfloat16).vae.dtype == torch.bfloat16
    if family == "sdxl":
        latents = base.encode_pictures(torch.zeros(1, 3, 16, 16))
        assert latents.dtype == torch.float16
        assert base.decode_latents(latents).isfinite().all()


def test_a_ckpt_gives_the_same_base_as_safetensors(tmp_path: Path) -> None:
    tensors = numbers(SMALL["sd1"].base())
    torch.save({"state_dict": tensors, "global_step": 470000, "epoch": 1}, tmp_path / "a.ckpt")
    save_file(tensors, tmp_path / "a.safetensors")
    one, two = (load_base(tmp_path / name) for name in ("a.ckpt", "a.safetensors"))
    for ours, theirs in zip(one.modules(), two.modules(), strict=True):
        same(ours.state_dict(), theirs.state_dict())


def test_a_text_encoder_without_its_prefix_opens_too(tmp_path: Path) -> None:
    tensors = {name.replace("text_model.", ""): tensor for name, tensor in numbers(SMALL["sd1"].base()).items()}
    save_file(tensors, tmp_path / "old.safetensors")
    table = load_base(tmp_path / "old.safetensors").text_encoder.get_input_embeddings().weight
    assert torch.equal(table, tensors["cond_stage_model.transformer.embeddings.token_embedding.weight"])


LAST_BIAS = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("metadata", "spread", "asked", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, 0.0, None, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, 0.2, None, "epsilon"),
        ({}, 0.2, None, "v_prediction"),
        ({}, 0.02, None, "epsilon"),
        ({}, 0.02, "v_prediction", "v_prediction"),
    ],
)
def test_what_sd2_predicts_is_told_from_the_file_unless_said(
    metadata: dict[str, str], spread: float, asked: str | None, expected: str, tmp_path: Path
) -> None:
    tensors = {name: tensor.half() for name, tensor in numbers(SMALL["sd2"].base()).items()}
    bias = torch.ones_like(tensors[LAST_BIAS])
    bias[::2] = -1
    tensors[LAST_BIAS] = bias * spread
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    parts = parts_of_file(tmp_path / "a.safetensors", prediction_type=asked)
    assert parts.scheduler["prediction_type"] == expected
    # 2.x that predicts velocity was trained on 768 pixels, the others on 512.
    assert parts.unet.network.config["sample_size"] == (96 if expected == "v_prediction" else 64)  # type: ignore[index]


@pytest.mark.parametrize(("step", "expected"), [(110_000, "v_prediction"), (220_000, "epsilon"), (875_000, "epsilon")])
def test_stabilitys_own_sd2_files_are_known_by_their_step(step: int, expected: str, tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in numbers(SMALL["sd2"].base()).items()}
    torch.save({"global_step": step, "state_dict": tensors}, tmp_path / "a.ckpt")
    assert parts_of_file(tmp_path / "a.ckpt").scheduler["prediction_type"] == expected


@pytest.mark.parametrize("step", [float("nan"), float("inf")])
def test_a_step_that_is_no_number_is_passed_over(step: float, tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in numbers(SMALL["sd2"].base()).items()}
    torch.save({"global_step": step, "state_dict": tensors}, tmp_path / "a.ckpt")
    assert parts_of_file(tmp_path / "a.ckpt").scheduler["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("sd1", "cond_stage_model.transformer.text_projection.weight"),
        ("sd1", "cond_stage_model.text_projection"),
        ("sdxl", "conditioner.embedders.0.text_projection.weight"),
    ],
)
def test_a_projection_that_another_program_put_beside_clip_changes_nothing(
    family: str, name: str, tmp_path: Path
) -> None:
    shapes = SMALL[family].base()
    extra = {name: (64, 64)}
    parts = parts_of_file(hollow(tmp_path / "a.safetensors", shapes | extra))
    assert parts.text_encoder.config == parts_of_file(hollow(tmp_path / "b.safetensors", shapes)).text_encoder.config
    assert extra.keys() <= parts.released_only.keys()


@pytest.mark.parametrize("mark", ["edm_vpred.sigma_max", "edm_mean"])
def test_a_model_of_another_noise_schedule_is_refused_by_name(mark: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="EDM"):
        parts_of_file(hollow(tmp_path / "a.safetensors", SMALL["sdxl"].base() | {mark: ()}))


def test_an_autoencoder_without_a_scale_takes_that_of_the_folder_it_is_used_in(tmp_path: Path) -> None:
    save_file(numbers(SMALL["sdxl"].base()), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "folder", to="diffusers")
    save_file(numbers(autoencoder(32, (1, 1)), seed=7), tmp_path / "vae.safetensors")
    base = load_base(tmp_path / "folder", vae=tmp_path / "vae.safetensors")
    assert base.vae.config["scaling_factor"] == 0.13025


def test_a_base_without_autoencoder_takes_the_one_that_is_given(tmp_path: Path) -> None:
    shapes = SMALL["sd1"].base()
    save_file(numbers({n: s for n, s in shapes.items() if not n.startswith("first_stage")}), tmp_path / "a.safetensors")
    vae = numbers(autoencoder(32, (1, 1)), seed=7)
    torch.save({"state_dict": vae | {"loss.logvar": torch.zeros(())}}, tmp_path / "vae.ckpt")
    with pytest.raises(TetherError, match="--vae"):
        load_base(tmp_path / "a.safetensors")
    base = load_base(tmp_path / "a.safetensors", vae=tmp_path / "vae.ckpt")
    assert torch.equal(base.vae.decoder.conv_in.weight, vae["decoder.conv_in.weight"])
    assert base.vae.config["scaling_factor"] == 0.18215


# Controls.


def control_base(family: str) -> Base:
    """A stand-in with the small denoiser of a family."""
    from diffusers import UNet2DConditionModel

    parts = SMALL[family].denoiser
    settings: dict[str, Any] = {
        "block_out_channels": tuple(parts.width * m for m in parts.mult),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": parts.layers,
        "cross_attention_dim": parts.context,
        "attention_head_dim": 8,
    }
    base = object.__new__(Base)
    base.unet, base.name = UNet2DConditionModel(**settings), "stand-in"
    return base


@pytest.mark.parametrize("family", TRUE)
@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_control_of_true_size_is_recognised_and_every_tensor_is_used(
    family: str, prefix: str, tmp_path: Path
) -> None:
    shapes = TRUE[family].denoiser.control()
    part = control_of(hollow(tmp_path / "control_v11p_sd15_canny.safetensors", below(prefix, shapes)))
    assert len(part.tensors) == len(shapes)
    assert sum(t.numel() for t in part.tensors.values()) == sum(torch.Size(s).numel() for s in shapes.values())
    assert WORDS[family] in part.words
    assert part.kind == "canny"
    assert part.config["conditioning_embedding_out_channels"] == [16, 32, 96, 256]
    names = [name for name in EXPECTED_UNET[family] if name != "up_block_types"]
    assert {name: part.config[name] for name in names} == {name: EXPECTED_UNET[family][name] for name in names}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_broken_number_in_a_single_file_is_refused_by_name(bad: float, tmp_path: Path) -> None:
    base, control = numbers(SMALL["sd1"].base()), numbers(SMALL["sd1"].denoiser.control())
    base["model.diffusion_model.input_blocks.0.0.weight"][0, 0, 1, 1] = bad
    control["zero_convs.0.0.weight"][0, 0] = bad
    save_file(base, tmp_path / "base.safetensors")
    save_file(control, tmp_path / "control.safetensors")
    with pytest.raises(TetherError, match=r"conv_in\.weight holds NaN or infinity"):
        load_base(tmp_path / "base.safetensors")
    with pytest.raises(TetherError, match=r"controlnet_down_blocks\.0\.weight holds NaN or infinity"):
        ControlNet.load(tmp_path / "control.safetensors")


def test_a_small_control_for_sdxl_has_no_transformer_and_opens(tmp_path: Path) -> None:
    """As `diffusers/controlnet-canny-sdxl-1.0-small`: residual layers alone, and one of them in the middle."""
    whole = TRUE["sdxl"].denoiser.control()
    middle = ("middle_block.1.", "middle_block.2.")
    released = {n: s for n, s in whole.items() if "transformer_blocks" not in n and not n.startswith(middle)}
    released = {n: s for n, s in released.items() if not re.match(r"input_blocks\.\d+\.1\.", n)}
    part = control_of(hollow(tmp_path / "canny_small.safetensors", released))
    assert len(part.tensors) == len(released)
    assert part.config["mid_block_type"] == "UNetMidBlock2D"
    assert set(part.config["down_block_types"]) == {"DownBlock2D"}
    assert part.config["cross_attention_dim"] == 2048
    again = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
    assert control_of(hollow(tmp_path / "diffusers.safetensors", again)).config == part.config


def test_folders_above_a_file_say_nothing_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "shuffle").mkdir()
    save_file(numbers(SMALL["sd1"].denoiser.control()), tmp_path / "shuffle" / "mine.safetensors")
    control = ControlNet.load(tmp_path / "shuffle" / "mine.safetensors")
    assert control.kind is None
    assert not control.pools_globally


def test_the_autoencoders_file_of_a_diffusers_folder_opens(tmp_path: Path) -> None:
    save_file(numbers(SMALL["sd1"].base()), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "folder", to="diffusers")
    file = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    base = load_base(tmp_path / "a.safetensors", vae=file)
    same(base.vae.state_dict(), load_base(tmp_path / "folder").vae.state_dict())
    file.rename(tmp_path / "alone.safetensors")
    with pytest.raises(TetherError, match=r"config\.json"):
        load_base(tmp_path / "a.safetensors", vae=tmp_path / "alone.safetensors")


def test_the_whole_control_with_its_base_inside_opens(tmp_path: Path) -> None:
    shapes = below("control_model.", TRUE["sd1"].denoiser.control()) | TRUE["sd1"].base()
    path = hollow(tmp_path / "control_sd15_openpose.safetensors", shapes | dict.fromkeys(SCHEDULE, (1000,)))
    part = control_of(path)
    assert len(part.tensors) == 340
    assert part.kind == "openpose"
    assert parts_of_file(path).family == "sd1"


@pytest.mark.parametrize("family", SMALL)
def test_diffusers_own_converter_puts_every_tensor_of_a_control_where_tether_does(family: str, tmp_path: Path) -> None:
    tensors = numbers(below("control_model.", SMALL[family].denoiser.control()))
    save_file(tensors, tmp_path / "a.safetensors")
    ours = ControlNet.load(tmp_path / "a.safetensors")
    theirs = oracle.convert_controlnet_checkpoint(
        {name: tensor.clone() for name, tensor in tensors.items()}, {"layers_per_block": 1}
    )
    if family == "sdxl":  # of which diffusers' converter knows nothing in a control
        for k, layer in ((0, "linear_1"), (2, "linear_2")):
            for kind in ("weight", "bias"):
                theirs[f"add_embedding.{layer}.{kind}"] = tensors[f"control_model.label_emb.0.{k}.{kind}"]
    same(ours.state_dict(), theirs)


def test_every_released_form_of_a_control_gives_the_same_control(tmp_path: Path) -> None:
    """Whole, pruned, without prefix, under "state_dict", and as one file of diffusers' names."""
    control = numbers(SMALL["sd1"].denoiser.control())
    base = numbers(SMALL["sd1"].base(), seed=1)
    prefixed = {f"control_model.{name}": tensor for name, tensor in control.items()}
    torch.save(prefixed | base, tmp_path / "control_sd15_canny.pth")
    torch.save(prefixed, tmp_path / "pruned.pth")
    torch.save({"state_dict": prefixed}, tmp_path / "pruned.ckpt")
    save_file(control, tmp_path / "bare.safetensors")
    expected = oracle.convert_controlnet_checkpoint({k: v.clone() for k, v in control.items()}, {"layers_per_block": 1})
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, tmp_path / "diffusers.safetensors")
    for name in ("control_sd15_canny.pth", "pruned.pth", "pruned.ckpt", "bare.safetensors", "diffusers.safetensors"):
        same(ControlNet.load(tmp_path / name).state_dict(), expected)


def test_a_difference_file_needs_its_base_and_is_the_sum_of_both(tmp_path: Path) -> None:
    base = control_base("sd1")
    control = numbers(SMALL["sd1"].denoiser.control())
    expected = oracle.convert_controlnet_checkpoint({k: v.clone() for k, v in control.items()}, {"layers_per_block": 1})
    own = base.unet.state_dict()
    difference = {}
    for released, tensor in control.items():
        name = next(n for n, t in expected.items() if t.shape == tensor.shape and torch.equal(t, tensor))
        difference[f"control_model.{released}"] = (tensor - own[name] if name in own else tensor).half()
    save_file(difference | {"difference": torch.tensor(1.0)}, tmp_path / "diff_canny_fp16.safetensors")
    with pytest.raises(TetherError, match="difference"):
        ControlNet.load(tmp_path / "diff_canny_fp16.safetensors")
    summed = ControlNet.load(tmp_path / "diff_canny_fp16.safetensors", base=base).state_dict()
    assert summed.keys() == expected.keys()
    for name, tensor in summed.items():
        # Two roundings to float16: of the difference, and of the sum.
        bound = (tensor.abs().max() + (own[name].abs().max() if name in own else 0)) * 2**-10
        assert (tensor - expected[name]).abs().max() <= bound


def test_shuffle_pools_over_space_and_the_others_do_not(tmp_path: Path) -> None:
    shapes = below("control_model.", SMALL["sd1"].denoiser.control())
    for name, pools in (("control_v11e_sd15_shuffle", True), ("control_v11f1e_sd15_tile", False)):
        part = control_of(hollow(tmp_path / f"{name}.safetensors", shapes))
        assert part.network.pools_globally is pools


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("control_sd15_canny.pth", "canny"),
        ("control_v11f1p_sd15_depth.pth", "depth"),
        ("control_v11p_sd15_normalbae.pth", "normal"),
        ("control_v11p_sd15_softedge.pth", "softedge"),
        ("control_sd15_hed.pth", "softedge"),
        ("control_v11p_sd15_scribble.pth", "scribble"),
        ("control_v11p_sd15_mlsd.pth", "mlsd"),
        ("control_v11p_sd15_lineart.pth", "lineart"),
        ("control_v11p_sd15s2_lineart_anime.pth", "lineart-anime"),
        ("control_v11p_sd15_openpose.pth", "openpose"),
        ("control_v11p_sd15_seg.pth", "seg"),
        ("control_v11p_sd15_inpaint.pth", "inpaint"),
        ("control_v11e_sd15_ip2p.pth", "ip2p"),
        ("control_v11e_sd15_shuffle.pth", "shuffle"),
        ("control_v11f1e_sd15_tile.pth", "tile"),
        ("diffusers/controlnet-canny-sdxl-1.0", "canny"),
        ("thibaud/controlnet-sd21-openpose-diffusers", "openpose"),
        ("my-own-control.safetensors", None),
        ("segway.safetensors", None),
    ],
)
def test_the_kind_is_guessed_from_the_names_people_know(name: str, kind: str | None) -> None:
    from tether.base.control_file import guess_kind

    assert guess_kind(Path(name).name.removesuffix(".pth").removesuffix(".safetensors")) == kind


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_diffusers_opens_the_same_file_of_true_size(family: str, tmp_path: Path) -> None:
    """diffusers' own single-file reader and Tether's agree on a control of true size, with random numbers."""
    from diffusers import ControlNetModel

    tensors = {name: tensor.half() for name, tensor in numbers(TRUE[family].denoiser.control()).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    ours = ControlNet.load(tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ControlNetModel.from_config(ours.config)
    theirs.load_state_dict(
        oracle.convert_controlnet_checkpoint({k: v.float() for k, v in tensors.items()}, {"layers_per_block": 2})
    )
    same(ours.state_dict(), theirs.state_dict())
