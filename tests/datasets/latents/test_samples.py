"""Cached samples as training reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.latents.samples import CachedSamples
from tether.images import fit

from .conftest import CROPS, cached


def test_a_sample_shows_each_of_its_crops_once_in_as_many_epochs(data: Path, tiny_base: Base, tmp_path: Path) -> None:
    samples = CachedSamples(cached(data, tiny_base, tmp_path / "cache"), seed=5)
    for index in range(len(samples)):
        assert {samples.crop_of(index, epoch) for epoch in range(CROPS)} == set(range(CROPS))


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
        # The place is in whole pixels of the crop, which are larger than those of the picture.
        near = [(max(0, left + x), max(0, top + y)) for x in (0, -1, 1) for y in (0, -1, 1)]
        cuts = (fit(picture.crop((x, y, x + side, y + side)), 64, 64, "stretch") for x, y in near)
        condition = sample["condition"].permute(1, 2, 0).numpy()
        assert any(np.abs(np.asarray(cut).astype(int) - condition).max() <= 1 for cut in cuts)
        flips += flip
    assert flips > 0


def test_one_of_several_captions_is_drawn_for_each_epoch(mirrored: Path, tiny_base: Base, tmp_path: Path) -> None:
    captions = ["a cat", "a pet", "a grey animal"]
    (mirrored / "0.txt").unlink()
    (mirrored / "0.json").write_text(json.dumps(captions))
    build_dataset(mirrored, tmp_path / "data", "canny", workers=0)
    samples = CachedSamples(cached(tmp_path / "data", tiny_base, tmp_path / "cache"), seed=3)
    drawn = [samples.sample(0, epoch) for epoch in range(40)]
    assert {sample["caption"] for sample in drawn} == set(captions)
    assert [sample["caption"] for sample in drawn] == [samples.caption_of(0, epoch) for epoch in range(40)]
    states = {sample["caption"]: sample["text_states"] for sample in drawn}
    assert not np.array_equal(states["a cat"], states["a pet"])
    assert {samples.caption_of(1, epoch) for epoch in range(10)} == {"number 1"}
