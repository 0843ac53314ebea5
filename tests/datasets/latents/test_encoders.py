"""An encoder's hash changes with what it computes, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import torch

from tether.base import Base, load_base
from tether.datasets.latents.encoders import hash_text_encoders, hash_vae


def test_the_same_folder_has_the_same_hashes(tiny_base: Base, tiny_folder: Path) -> None:
    again = load_base(tiny_folder)
    assert hash_vae(tiny_base) == hash_vae(again)
    assert hash_text_encoders(tiny_base) == hash_text_encoders(again)


def test_a_weight_or_a_setting_changes_the_hash_of_its_encoder_only(tiny_base: Base) -> None:
    vae, text = hash_vae(tiny_base), hash_text_encoders(tiny_base)
    with torch.no_grad():
        next(tiny_base.vae.parameters()).view(-1)[0] += 1e-3
    assert hash_vae(tiny_base) != vae
    assert hash_text_encoders(tiny_base) == text
    tiny_base.tokenizer.model_max_length += 1
    assert hash_text_encoders(tiny_base) != text
