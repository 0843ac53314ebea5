"""A base as diffusers' pipeline is the same base, whose LoRA loader is another implementation to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tether.base import Base, load_base
from tether.base.lora import add_lora
from tether.base.peer import diffusers_pipeline

LAYERS = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
)


def test_it_has_the_bases_own_networks_and_schedule(tiny_base: Base) -> None:
    pipeline = diffusers_pipeline(tiny_base)
    assert pipeline.unet is tiny_base.unet
    assert pipeline.text_encoder is tiny_base.text_encoder
    assert pipeline.scheduler.config.beta_end == tiny_base.noise_schedule["beta_end"]


def test_a_lora_changes_the_base_to_the_bit_as_diffusers_loader_does(
    tiny_base: Base, tiny_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="only diffusers' loader needs it")
    tensors = {}
    for name in LAYERS:
        shape = tiny_base.unet.get_submodule(name).weight.shape
        stored = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stored}.lora_down.weight"] = torch.randn(4, shape[1])
        tensors[f"{stored}.lora_up.weight"] = torch.randn(shape[0], 4)
        tensors[f"{stored}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    add_lora(tiny_base, tmp_path / "lora.safetensors", 0.8)
    theirs = load_base(tiny_folder)
    pipeline = diffusers_pipeline(theirs)
    pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
    pipeline.fuse_lora(lora_scale=0.8)
    pipeline.unload_lora_weights()
    for name, tensor in theirs.unet.state_dict().items():
        assert torch.equal(tiny_base.unet.state_dict()[name], tensor), name
