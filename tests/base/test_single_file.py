"""A base opens from one file in the original layout, with every tensor accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tether.base import load_base
from tether.base.single_file import parts_of_file, vae_of_file
from tether.conversion import convert
from tether.errors import TetherError

from ..reference.layouts import (
    SMALL,
    autoencoder,
    below,
    hollow,
    numbers,
    same,
)


@pytest.mark.parametrize("name", ["model.diffusion_model.extra.weight", "first_stage_model.a.b", "cond_stage_model.x"])
def test_a_base_with_a_tensor_too_many_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"unexpected tensors"):
        parts_of_file(hollow(tmp_path / "a.safetensors", SMALL["sd1"].base() | {name: (3,)}))


def test_a_base_with_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    shapes = SMALL["sd1"].base() | {"model.diffusion_model.out.0.weight": (31,)}
    with pytest.raises(TetherError, match=r"has conv_norm_out.weight of shape \(31,\): expected \(32,\)"):
        parts_of_file(hollow(tmp_path / "a.safetensors", shapes))


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


def test_what_is_left_out_is_noted_and_what_nothing_uses_is_kept(tmp_path: Path) -> None:
    shapes = SMALL["sd1"].base()
    extra = below("model_ema.", {"decay": ()}) | below("control_model.", {"a": (2,)}) | {"betas": (4,), "ztsnr": (0,)}
    parts = parts_of_file(hollow(tmp_path / "a.safetensors", shapes | extra))
    assert parts.notes == ["left out: the running average of the denoiser (EMA)", "left out: a ControlNet"]
    assert {"betas", "ztsnr"} <= parts.original_only.keys()
    assert not any(name.startswith(("model_ema.", "control_model.")) for name in parts.original_only)
    assert parts.scheduler["rescale_betas_zero_snr"] is True


def test_a_prediction_type_that_no_such_file_has_is_refused(tmp_path: Path) -> None:
    path = hollow(tmp_path / "a.safetensors", SMALL["sd1"].base())
    with pytest.raises(TetherError, match="'sample' is not a supported prediction type: expected"):
        parts_of_file(path, prediction_type="sample")


def test_a_file_without_an_autoencoder_is_none(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="contains no autoencoder: expected one of Stable Diffusion"):
        vae_of_file(hollow(tmp_path / "a.safetensors", {"x": (8,)}))
    names = {"encoder.conv_in.weight": (8,), "encoder.down_blocks.0.resnets.0.conv1.weight": (8,)}
    with pytest.raises(TetherError, match=r"is in the diffusers layout, without config\.json beside it: pass"):
        vae_of_file(hollow(tmp_path / "b.safetensors", names))


def test_an_autoencoder_comes_out_of_a_bases_file(tmp_path: Path) -> None:
    path = hollow(tmp_path / "a.safetensors", SMALL["sd1"].base())
    assert vae_of_file(path).config == {
        name: value for name, value in parts_of_file(path).vae.config.items() if name != "scaling_factor"
    }


STRAYS = {
    "sd1": {
        "embedding_manager.embedder.weight": "1 tensor that no network uses",
        "lora_unet_mid_block.alpha": "1 tensor that no network uses",
        "train_loss": "1 tensor that no network uses",
        "global_step": "1 tensor that no network uses",
        "safety_checker.concept_embeds": "1 tensor that no network uses",
        "model_sampling.sigmas": "1 tensor that no network uses",
        "cond_stage_model.transformer.vision_model.post_layernorm.weight": "CLIP's vision half",
        "model_ema.decay": "the running average of the denoiser",
    },
    "sdxl": {
        "denoiser.log_sigmas": "1 tensor that no network uses",
        "conditioner.embedders.1.model.visual.proj": "CLIP's vision half",
        "conditioner.embedders.1.model.text_projection.weight": "a second copy of CLIP's projection",
    },
}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in STRAYS for name in STRAYS[family]])
def test_a_stray_tensor_is_left_out_with_a_note_and_changes_nothing(family: str, name: str, tmp_path: Path) -> None:
    shapes = SMALL[family].base()
    plain = parts_of_file(hollow(tmp_path / "plain.safetensors", shapes))
    parts = parts_of_file(hollow(tmp_path / "stray.safetensors", shapes | {name: (3,)}))
    (note,) = parts.notes
    assert note.startswith("left out: ")
    assert STRAYS[family][name] in note
    assert name not in parts.original_only
    for one, other in zip(parts.networks().values(), plain.networks().values(), strict=True):
        assert one.tensors.keys() == other.tensors.keys()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scaled_fp8", "8-bit weights with scales"),
        ("model.diffusion_model.out.2.scale_weight", "8-bit weights with scales"),
        ("model.diffusion_model.out.2.weight.absmax", "quantized weights"),
        ("edm_mean", "EDM's noise schedule"),
        ("edm_vpred.sigma_max", "EDM's noise schedule"),
        ("lora_controlnet", "a Control-LoRA"),
        ("depth_model.weight", "a network of another kind"),
    ],
)
def test_a_mark_that_changes_the_meaning_of_the_weights_is_refused(name: str, words: str, tmp_path: Path) -> None:
    path = hollow(tmp_path / "a.safetensors", SMALL["sd1"].base() | {name: (3,)})
    with pytest.raises(TetherError, match=words):
        parts_of_file(path)


@pytest.mark.parametrize("prefix", ["module.", "state_dict.", "model."])
def test_a_prefix_before_all_names_is_taken_away(prefix: str, tmp_path: Path) -> None:
    shapes = SMALL["sd1"].base()
    plain = parts_of_file(hollow(tmp_path / "plain.safetensors", shapes))
    parts = parts_of_file(hollow(tmp_path / "a.safetensors", {prefix + name: side for name, side in shapes.items()}))
    assert parts.unet.tensors.keys() == plain.unet.tensors.keys()
    assert parts.notes == plain.notes


def test_a_projection_that_is_only_there_as_a_linear_layer_is_used(tmp_path: Path) -> None:
    tensors = numbers(SMALL["sdxl"].base())
    name = "conditioner.embedders.1.model.text_projection"
    save_file(tensors, tmp_path / "a.safetensors")
    linear = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(linear | {f"{name}.weight": tensors[name].T.contiguous()}, tmp_path / "b.safetensors")
    one, two = (parts_of_file(tmp_path / f"{letter}.safetensors") for letter in "ab")
    assert one.text_encoder_2 is not None
    assert two.text_encoder_2 is not None
    same(one.text_encoder_2.tensors, two.text_encoder_2.tensors)
