"""Bases as they were released: a file with exactly the tensors of layouts.py must open with every one of them used.

diffusers' own converter is the second opinion on which goes where.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils as oracle
from safetensors.torch import save_file
from torch import Tensor

from tether.base import load_base
from tether.base.single_file import parts_of_file
from tether.errors import TetherError

from .layouts import (
    EXPECTED_UNET,
    SCHEDULE,
    SMALL,
    TRUE,
    WORDS,
    autoencoder,
    clip,
    hollow,
    numbers,
    same,
)


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


EXPECTED_TEXT = {
    "sd1": [(768, 12, 12, 3072, "quick_gelu")],
    "sd2": [(1024, 23, 16, 4096, "gelu")],
    "sdxl": [(768, 12, 12, 3072, "quick_gelu"), (1280, 32, 20, 5120, "gelu")],
}


@pytest.mark.parametrize("family", TRUE)
def test_a_base_of_true_size_is_recognized_and_every_tensor_is_used(family: str, tmp_path: Path) -> None:
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
    idle = {name: tuple(tensor.shape) for name, tensor in parts.original_only.items()}
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
    with pytest.raises(TetherError, match="is incomplete: it lacks "):
        parts_of_file(hollow(tmp_path / "a.safetensors", shapes))


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
        network = networks["text_encoder"].materialize(None)
        theirs = oracle.convert_open_clip_checkpoint(network, bare, prefix="cond_stage_model.model.")
    else:
        prefix = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
        theirs = oracle.convert_ldm_clip_checkpoint(dict(copies), remove_prefix=prefix)
    theirs = {name: tensor for name, tensor in theirs.items() if "position_ids" not in name}
    theirs.pop("text_projection.weight", None)
    same(networks["text_encoder"].tensors, theirs)
    if family == "sdxl":
        network = networks["text_encoder_2"].materialize(None)
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
    assert text.tokens.shape == (2, 77, width)
    added = None
    if family == "sdxl":
        assert text.pooled is not None
        added = {"text_embeds": text.pooled, "time_ids": torch.zeros(2, 6)}
    with torch.no_grad():
        out = base.unet(torch.zeros(2, 4, 8, 8), 10, encoder_hidden_states=text.tokens, added_cond_kwargs=added).sample
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
        latents = base.encode_images(torch.zeros(1, 3, 16, 16))
        assert latents.dtype == torch.float16
        assert base.decode_latents(latents).isfinite().all()
