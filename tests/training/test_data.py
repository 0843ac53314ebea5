"""From a data set to batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.base import load_base
from tether.datasets.build import build_dataset
from tether.errors import TetherError
from tether.training.data import open_data, validation_subset
from tether.training.run import train

from .small import config


def test_validation_shows_many_drawings_of_a_source_that_goes_round_them() -> None:
    drawings = 1016  # of `emoji3d`, each 8 times; every 677th sample shows but three of them
    places = validation_subset(8 * drawings, 12)
    assert len({place % drawings for place in places}) >= 11
    assert places == validation_subset(8 * drawings, 12)
    assert validation_subset(5, 5) == [0, 1, 2, 3, 4]


def test_no_training_sees_the_validation_samples_and_an_epoch_sees_all_others_once(
    tiny_folder: Path, circles: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, tiny_folder, circles, prompt_dropout=0.5)
    base = load_base(tiny_folder)
    data = open_data(settings, base)
    count = len(data.batches.samples)  # type: ignore[attr-defined]
    seen = [data.batches(range(n, n + 1)).names[0] for n in range(2 * (count - 2))]
    first, second = seen[: count - 2], seen[count - 2 :]
    assert len(set(first)) == count - 2
    assert set(first) == set(second)
    assert first != second
    held_back = {data.batches.samples.name_of(index) for index in range(count)} - set(first)  # type: ignore[attr-defined]
    assert len(held_back) == len(data.validation) == 2

    batch = data.batches(range(16))
    empty = base.encode_prompts([""]).tokens[0]
    dropped = [torch.allclose(states, empty, atol=1e-2) for states in batch.conditioning.tokens]
    assert 2 <= sum(dropped) <= 14
    assert batch.conditions.shape == (16, 3, 64, 64)
    assert torch.equal(data.batches(range(3, 5)).latents, batch.latents[3:5])


def test_a_dataset_of_another_condition_is_refused(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="built for the condition 'canny', but the condition is 'depth'"):
        train(config(tmp_path, tiny_folder, circles, condition="depth", validation_every=0))


def test_a_control_for_inpainting_is_trained_and_validated_with_holes(tiny_folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        blocks = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(12, axis=0).repeat(12, axis=1)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"blocks {number}")
    build_dataset(images, tmp_path / "data", "inpaint", workers=0)
    settings = config(
        tmp_path, tiny_folder, tmp_path / "data", condition="inpaint", resolution=64, steps=2, validation_images=1
    )
    data = open_data(settings, load_base(tiny_folder))
    conditions = data.batches(range(2)).conditions
    assert bool((conditions == -1).any())
    assert bool(((conditions >= 0) | (conditions == -1)).all())
    (sample,) = data.validation
    assert sample.mask is not None
    assert set(np.unique(np.asarray(sample.mask))) == {0, 255}
    outcome = train(settings).outcome
    assert [(seen.step, seen.fidelity) for seen in outcome.curve] == [(0, None), (2, None)]


def test_crops_are_mirrored_only_if_the_setting_allows_it(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    def flipped(mirror: bool | None) -> bool:
        out = tmp_path / str(mirror)
        settings = config(out, tiny_folder, circles, crops=4, mirror=mirror, validation_every=0)
        samples = open_data(settings, load_base(tiny_folder)).batches.samples  # type: ignore[attr-defined]
        return any(samples.encoded(index, crop).place[3] for index in range(len(samples)) for crop in range(4))

    assert flipped(None)
    assert not flipped(False)
