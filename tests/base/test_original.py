"""A base is written in the original layout only if its file opens again as the same base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tether.base.original import original_of
from tether.base.parts import Parts
from tether.base.single_file import parts_of_file
from tether.errors import TetherError

from ..reference.layouts import SMALL, numbers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of a small base of each family."""
    folder = tmp_path_factory.mktemp("files")
    found = {family: folder / f"{family}.safetensors" for family in ("sd1", "sd2", "sdxl")}
    for family, path in found.items():
        save_file(numbers(SMALL[family].base()), path)
    return found


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def parts(request: pytest.FixtureRequest, files: dict[str, Path]) -> Parts:
    return parts_of_file(files[request.param])


def test_what_a_file_holds_is_written_again(parts: Parts, files: dict[str, Path]) -> None:
    found = original_of(parts, ".safetensors")
    expected = numbers(SMALL[parts.family].base())
    assert found.tensors.keys() == expected.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.items())
    assert found.notes == []


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("unet", "time_embedding.cond_proj.weight"),
        ("unet", "class_embedding.weight"),
        ("unet", "encoder_hid_proj.bias"),
        ("text_encoder", "text_projection.weight"),
    ],
)
def test_a_tensor_that_the_layout_has_no_name_for_is_refused(network: str, name: str, files: dict[str, Path]) -> None:
    parts = parts_of_file(files["sd2"])
    parts.networks()[network].tensors[name] = torch.ones(2)
    with pytest.raises(TetherError, match=f"has {name}, which the original layout cannot store"):
        original_of(parts, ".safetensors")


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ("unet", {"norm_num_groups": 16}, r"norm_num_groups=16, .* \(it implies 32\)"),
        ("unet", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift=scale_shift"),
        ("unet", {"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
        ("vae", {"norm_num_groups": 16}, "norm_num_groups=16"),
        ("vae", {"shift_factor": 0.1}, r"shift_factor=0\.1, .* \(it implies None\)"),
        ("vae", {"latents_mean": [0.0] * 4}, "latents_mean="),
        ("vae", {"scaling_factor": 0.5}, r"scaling_factor=0\.5"),
        ("text_encoder", {"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06"),
        ("text_encoder", {"num_attention_heads": 2}, "num_attention_heads=2"),
        ("text_encoder", {"hidden_act": "relu"}, "hidden_act=relu.* as text encoder"),
    ],
)
def test_a_setting_that_a_reader_does_not_assume_is_refused(
    network: str, changes: dict[str, Any], message: str, parts: Parts
) -> None:
    part = parts.networks()[network]
    part.config |= changes
    vars(part).pop("network", None)
    with pytest.raises(TetherError, match=message):
        original_of(parts, ".safetensors")


def test_settings_about_rounding_and_the_size_in_training_are_free(parts: Parts) -> None:
    parts.unet.config |= {"upcast_attention": True}
    parts.vae.config |= {"force_upcast": False, "sample_size": 768}
    for part in parts.networks().values():
        vars(part).pop("network", None)
    assert original_of(parts, ".safetensors").notes == []


@pytest.mark.parametrize("said", ["flow_prediction", "sample"])
def test_only_noise_and_velocity_are_stored(said: str, parts: Parts) -> None:
    parts.scheduler["prediction_type"] = said
    with pytest.raises(TetherError, match=f"{said}.*epsilon"):
        original_of(parts, ".safetensors")


def test_a_text_encoder_with_words_of_its_own_is_refused(parts: Parts) -> None:
    name = "text_model.embeddings.token_embedding.weight"
    tensors = parts.text_encoder.tensors
    tensors[name] = torch.cat([tensors[name], tensors[name][:2]])
    with pytest.raises(TetherError, match=r"cannot be stored in the original layout: .* 49,410 tokens"):
        original_of(parts, ".safetensors")


def set_velocity(parts: Parts) -> None:
    parts.scheduler |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def set_noise(parts: Parts) -> None:
    parts.scheduler |= {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}


@pytest.mark.parametrize(("change", "applies"), [(set_velocity, True), (set_noise, False)])
def test_the_marks_say_what_the_base_does(change: Callable[[Parts], None], applies: bool, parts: Parts) -> None:
    change(parts)
    if not applies:  # those of another schedule that the base had before
        parts.original_only |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    tensors = original_of(parts, ".safetensors").tensors
    assert ("ztsnr" in tensors) is applies
    assert ("v_pred" in tensors) is (applies and parts.family != "sd2")


def test_only_of_sd2_a_ckpt_cannot_store_that_it_predicts_velocity(parts: Parts) -> None:
    set_velocity(parts)
    notes = [note for note in original_of(parts, ".ckpt").notes if "predicts velocity" in note]
    assert bool(notes) is (parts.family == "sd2")
