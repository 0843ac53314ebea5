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
from tether.conversion import convert
from tether.errors import TetherError

from .layouts import (
    EXPECTED_UNET,
    SCHEDULE,
    SMALL,
    TRUE,
    WORDS,
    Denoiser,
    Family,
    Shapes,
    autoencoder,
    below,
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


@pytest.mark.parametrize("name", ["model.diffusion_model.extra.weight", "first_stage_model.a.b", "something.else"])
def test_a_base_with_a_tensor_too_many_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="1 unexpected tensors for Stable Diffusion 1"):
        parts_of_file(hollow(tmp_path / "a.safetensors", SMALL["sd1"].base() | {name: (3,)}))


def test_a_base_with_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    shapes = SMALL["sd1"].base() | {"model.diffusion_model.out.0.weight": (31,)}
    with pytest.raises(TetherError, match=r"has conv_norm_out.weight of shape \(31,\): expected \(32,\)"):
        parts_of_file(hollow(tmp_path / "a.safetensors", shapes))


def test_inpainting_bases_are_recognized(tmp_path: Path) -> None:
    family = Family(
        Denoiser(width=32, mult=(1, 2), layers=1, depth=(1, 0), context=64, inputs=9), 64, 1, vae=(32, (1,))
    )
    parts = parts_of_file(hollow(tmp_path / "a.safetensors", family.base()))
    assert parts.unet.config["in_channels"] == 9
    assert "for inpainting" in parts.words


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "Flux"),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 4)}, "LoRA"),
        ({"emb_params": (2, 768)}, "textual-inversion"),
        ({"lora_controlnet": (), "input_hint_block.0.weight": (4, 4)}, "Control-LoRA"),
        ({"layers.0.weight": (4, 4)}, "of an unknown model"),
        (below("first_stage_model.", autoencoder(32, (1, 1))), "autoencoder alone"),
        (
            below("model.diffusion_model.", SMALL["sd1"].denoiser.unet()),
            "found the denoiser of .* without a text",
        ),
        (below("control_model.", SMALL["sd1"].denoiser.control()), "expected a base model, found a ControlNet"),
    ],
)
def test_other_models_are_refused_by_name(shapes: Shapes, message: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=message) as caught:
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
def test_what_sd2_predicts_is_read_from_the_file_unless_given(
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
    assert extra.keys() <= parts.original_only.keys()


@pytest.mark.parametrize("mark", ["edm_vpred.sigma_max", "edm_mean"])
def test_a_model_of_another_noise_schedule_is_refused_by_name(mark: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="a model with EDM's noise schedule"):
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
    with pytest.raises(TetherError, match="it has no autoencoder: pass one with --vae"):
        load_base(tmp_path / "a.safetensors")
    base = load_base(tmp_path / "a.safetensors", vae=tmp_path / "vae.ckpt")
    assert torch.equal(base.vae.decoder.conv_in.weight, vae["decoder.conv_in.weight"])
    assert base.vae.config["scaling_factor"] == 0.18215
