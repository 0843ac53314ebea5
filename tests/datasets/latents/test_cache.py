"""A cache contains the encoders' outputs, is keyed by them, repairs itself, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import build_cache, check_cache, plan_cache
from tether.datasets.latents.samples import CachedSamples
from tether.errors import TetherError

from .conftest import cached

KILLED = Path(__file__).parents[1] / "killed.py"


def change(module: torch.nn.Module, by: float) -> None:
    """Adds to one number of a network."""
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += by


def test_latents_and_text_states_are_those_of_the_crops_and_captions(
    data: Path, tiny_base: Base, tmp_path: Path
) -> None:
    samples = CachedSamples(cached(data, tiny_base, tmp_path / "cache"))
    assert len(samples) == 6
    for number in range(2 * len(samples)):
        sample = samples.sample(number % 6, epoch=number // 6)
        pixels = sample["condition"][None].float() / 127.5 - 1  # the crop's own pixels: the condition is the picture
        torch.testing.assert_close(sample["latents"][None], tiny_base.encode_images(pixels), rtol=2e-3, atol=2e-3)
        states = tiny_base.encode_prompts([sample["caption"], ""]).tokens
        torch.testing.assert_close(sample["text_states"], states[0], rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(sample["empty_text_states"], states[1], rtol=2e-3, atol=2e-3)
        assert sample["caption"] == f"number {number % 6 % 4}"
        assert sample["time_ids"][:2].tolist() == [96, 128]


def test_another_encoder_finds_nothing_and_the_same_one_makes_nothing_again(
    data: Path, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(data, tiny_base, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(Base, "encode_images", None)
        patch.setattr(Base, "encode_prompts", None)
        assert cached(data, tiny_base, tmp_path / "cache") == first
    change(tiny_base.vae, 1e-3)
    second = cached(data, tiny_base, tmp_path / "cache")
    assert second.latents != first.latents
    assert second.text == first.text
    change(tiny_base.text_encoder, 1e-3)
    assert cached(data, tiny_base, tmp_path / "cache").text != first.text
    assert check_cache(first) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "manifest"])
def test_what_is_damaged_is_told_and_mended_to_the_same_bytes(
    damage: str, data: Path, tiny_base: Base, tmp_path: Path
) -> None:
    cache = cached(data, tiny_base, tmp_path / "cache")
    shard = cache.latents / "shard-00000.safetensors"
    before = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(before[: len(before) // 2])
        with pytest.raises(TetherError, match="truncated"):
            CachedSamples(cache)
    elif damage == "flipped":
        shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    elif damage == "gone":
        shard.unlink()
    else:
        (cache.latents / "manifest.json").write_text("{")
        shard.write_bytes(before[: len(before) // 2])
    if damage != "manifest":
        assert any("shard-00000" in fault for fault in check_cache(cache))
    assert cached(data, tiny_base, tmp_path / "cache") == cache
    assert shard.read_bytes() == before
    assert check_cache(cache) == []


def test_an_encoder_that_gives_no_numbers_is_refused(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    change(tiny_base.vae, float("nan"))
    with pytest.raises(TetherError, match="float32"):
        cached(data, tiny_base, tmp_path / "cache")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_cache_killed_at_any_moment_goes_on_to_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    build_dataset("circles", tmp_path / "data", "canny", size=64, count=66, workers=0)
    command = [sys.executable, str(KILLED), "cache", str(tmp_path / "data"), str(tmp_path / "runs"), str(tiny_folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["unlike"] == []
    # For latents and for text: settings, two shards and their records, manifest; and the list of samples.
    assert told["moments"] == 2 * (2 * (1 + 2 * 2 + 1) + 1)


def test_samples_that_are_no_longer_mirrored_have_another_cache(
    mirrored: Path, tiny_base: Base, tmp_path: Path
) -> None:
    """Of an unknown kind, or of a kind whose captions name writing: neither is mirrored by default."""
    (mirrored / "0.txt").write_text('a sign that says "stop"')
    for kind in ("canny", "landmarks"):
        build_dataset(mirrored, tmp_path / kind, kind, workers=0)
    caches = [
        build_cache(plan_cache(tmp_path / kind, tiny_base, tmp_path / "cache", resolution=64, crops=6, flips=flips))
        for kind, flips in (("canny", None), ("landmarks", None), ("landmarks", True))
    ]
    assert len({cache.latents for cache in caches}) == 3
    flipped = [load_file(cache.latents / "shard-00000.safetensors")["crops"][..., 3].sum(dim=1) for cache in caches]
    assert (flipped[0][0], flipped[2][0]) == (0, 0)
    assert flipped[0].any()
    assert not flipped[1].any()
    assert flipped[2].any()
