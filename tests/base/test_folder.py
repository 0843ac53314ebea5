"""A base opens from a diffusers folder of any version, or the error names what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tether.base.folder import _sample_size, part_of_folder, parts_of_folder
from tether.errors import TetherError


@pytest.mark.parametrize(
    ("written", "says", "means"),
    [("0.2.2", 32, 64), ("0.8.1", 32, 64), ("0.8.1", 96, 96), ("0.9.0", 32, 32), (None, 32, 32)],
)
def test_old_folders_of_sd_1_were_trained_on_512_pixels(written: str | None, says: int, means: int) -> None:
    assert _sample_size({"_diffusers_version": written, "sample_size": says, "cross_attention_dim": 768}) == means
    assert _sample_size({"_diffusers_version": written, "sample_size": says, "cross_attention_dim": 32}) == says


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "base"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_every_part_is_read_from_its_folder(tiny_folder: Path) -> None:
    parts = parts_of_folder(tiny_folder, prediction_type="v_prediction")
    assert parts.networks().keys() == {"unet", "vae", "text_encoder"}
    assert parts.words == "a custom latent diffusion model (32-wide text states)"
    assert parts.scheduler["prediction_type"] == "v_prediction"
    for part in parts.networks().values():
        part.check()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_folder_without_one_of_its_networks_is_refused(part: str, copied: Path) -> None:
    shutil.rmtree(copied / part)
    with pytest.raises(TetherError, match=f"is not a complete base: it has no folder {part}"):
        parts_of_folder(copied)


def test_an_autoencoder_that_is_given_replaces_a_missing_one(copied: Path, tiny_folder: Path) -> None:
    shutil.rmtree(copied / "vae")
    vae = part_of_folder(tiny_folder / "vae")
    assert parts_of_folder(copied, vae=vae).vae is vae


def test_a_path_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"no base at .*: expected a diffusers-format folder"):
        parts_of_folder(tmp_path / "none")


def test_a_tokenizer_that_is_missing_is_clips_and_a_damaged_one_is_refused(copied: Path) -> None:
    shutil.rmtree(copied / "tokenizer")
    assert len(parts_of_folder(copied).tokenizer) == 49408
    (copied / "tokenizer").mkdir()
    (copied / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(TetherError, match=r"cannot open the tokenizer in .*tokenizer"):
        parts_of_folder(copied)


def test_the_end_token_of_old_clip_folders_is_corrected(copied: Path) -> None:
    change(copied / "text_encoder" / "config.json", eos_token_id=2, vocab_size=49408)
    assert part_of_folder(copied / "text_encoder").config["eos_token_id"] == 49407


def test_positions_that_old_clip_folders_store_are_ignored(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / "text_encoder" / "model.safetensors"
    save_file(load_file(path) | {"text_model.embeddings.position_ids": torch.arange(24)[None]}, path)
    part = part_of_folder(copied / "text_encoder")
    assert "text_model.embeddings.position_ids" not in part.tensors
    part.check()


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler is not supported"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMDPMSolverMultistepScheduler"}, "EDM's noise schedule"),
        (
            "vae/config.json",
            {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4},
            "scales each channel of the latents",
        ),
    ],
)
def test_a_base_with_edms_noise_or_scaled_channels_is_refused(
    file: str, settings: dict[str, object], message: str, copied: Path
) -> None:
    change(copied / file, **settings)
    with pytest.raises(TetherError, match=message):
        parts_of_folder(copied)


def test_a_stray_tensor_in_a_text_encoder_is_left_out_with_a_note(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / "text_encoder" / "model.safetensors"
    save_file(load_file(path) | {"train_loss": torch.ones(1)}, path)
    parts = parts_of_folder(copied)
    assert any("train_loss" in note and "text_encoder" in note for note in parts.notes)
    parts.text_encoder.check()
