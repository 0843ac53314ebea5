"""A cache holds what the encoders say of each crop, knows its encoders, mends itself, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import Cache, build_cache, check_cache
from tether.datasets.latents.crops import may_flip
from tether.datasets.latents.encode import encode_captions
from tether.datasets.latents.samples import CachedSamples
from tether.errors import TetherError
from tether.images import fit_condition

KILLED = Path(__file__).with_name("killed.py")
CROPS = 3


@pytest.fixture
def data(mirrored: Path, tmp_path: Path) -> Path:
    """Six pictures of 128x96 whose conditions are the pictures themselves."""
    build_dataset(mirrored, tmp_path / "data", "anything", workers=0)
    return tmp_path / "data"


def cached(data: Path, base: Base, out: Path, seed: int = 0) -> Cache:
    return build_cache(data, base, out, resolution=64, crops=CROPS, batch_size=4, seed=seed)


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
        torch.testing.assert_close(sample["latents"][None], tiny_base.encode_pictures(pixels), rtol=2e-3, atol=2e-3)
        states = tiny_base.encode_prompts([sample["caption"], ""]).tokens
        torch.testing.assert_close(sample["text_states"], states[0], rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(sample["empty_text_states"], states[1], rtol=2e-3, atol=2e-3)
        assert sample["caption"] == f"number {number % 6 % 4}"
        assert sample["time_ids"][:2].tolist() == [96, 128]


def test_a_caption_is_cut_where_the_tokenizer_says_no_length(tiny_base: Base) -> None:
    tiny_base.tokenizer.model_max_length = int(1e30)
    batch = encode_captions(tiny_base, ["a", " ".join(["abc"] * 40)], 1)
    assert batch["states"].shape[:2] == (2, 24)


@pytest.mark.parametrize(
    "caption", ["a hand to the left", "Leftwards arrow", "a counter-clockwise arrow", "the waxing moon", "last quarter"]
)
def test_what_a_mirror_would_belie_is_not_mirrored(caption: str) -> None:
    assert not may_flip("canny", caption)
    assert may_flip("canny", "a quarter of a melon, brightly lit")
    assert not may_flip("openpose", "a melon")


def test_a_sample_shows_each_of_its_crops_once_in_as_many_epochs(
    data: Path, tiny_base: Base, tmp_path: Path
) -> None:
    samples = CachedSamples(cached(data, tiny_base, tmp_path / "cache"), seed=5)
    for index in range(len(samples)):
        assert {samples.crop_of(index, epoch) for epoch in range(CROPS)} == set(range(CROPS))


def test_another_encoder_finds_nothing_and_the_same_one_makes_nothing_again(
    data: Path, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(data, tiny_base, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(Base, "encode_pictures", None)
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


def test_crops_of_one_seed_are_the_same_and_of_another_are_not(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    def crops(seed: int) -> np.ndarray:
        samples = CachedSamples(cached(data, tiny_base, tmp_path / f"cache {seed}", seed=seed))
        places = [(index, epoch) for epoch in range(CROPS) for index in range(len(samples))]
        return np.stack([samples.sample(*place)["time_ids"].numpy() for place in places])

    assert np.array_equal(crops(1), crops(1))
    assert not np.array_equal(crops(1), crops(2))


def test_the_place_of_a_mirrored_crop_is_that_in_the_mirrored_picture(
    data: Path, mirrored: Path, tiny_base: Base, tmp_path: Path
) -> None:
    samples = CachedSamples(cached(data, tiny_base, tmp_path / "cache"))
    pictures = {path.stem: Image.open(path).convert("RGB") for path in mirrored.glob("?.png")}
    flips = 0
    for number in range(CROPS * len(samples)):
        sample = samples.sample(number % len(samples), number // len(samples))
        *_, side, flip, _, _ = samples._latents.read("crops", number % len(samples))[sample["crop"]].tolist()
        top, left = (round(float(place) * side / 64) for place in sample["time_ids"][2:4])
        picture = pictures[Path(sample["name"]).stem]
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cut = fit_condition(picture.crop((left, top, left + side, top + side)), 64, 64, "stretch")
        same = (np.asarray(cut) == sample["condition"].permute(1, 2, 0).numpy()).all(axis=2)
        assert same.mean() > 0.8  # nearest pixels: mirrored before or after they are chosen, some are others
        flips += flip
    assert flips > 0
