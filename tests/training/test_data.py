"""From a data set to batches."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.base import load_base
from tether.control import ControlNet
from tether.datasets.build import build_dataset
from tether.errors import TetherError
from tether.training.data import open_data, validation_subset
from tether.training.run import train

from ..datasets.conftest import picture
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


SHAPES = ((96, 96), (160, 75), (75, 160), (110, 80))


@pytest.fixture
def shaped(tmp_path: Path) -> Path:
    """Twenty images of four shapes."""
    images = tmp_path / "shaped"
    images.mkdir()
    for number in range(20):
        picture(number, *SHAPES[number % 4]).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"number {number}")
    return images


def test_a_resolution_may_have_width_and_height(tiny_folder: Path, shaped: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, tiny_folder, shaped, resolution="96x64", validation_images=2)
    data = open_data(settings, load_base(tiny_folder))
    batch = data.batches(range(4))
    assert batch.conditions.shape == (4, 3, 64, 96)
    assert batch.latents.shape == (4, 4, 8, 12)
    assert {sample.condition.size for sample in data.validation} == {(96, 64)}
    assert train(settings).outcome.step == 4


def test_with_buckets_every_step_has_images_of_one_size_however_it_is_split(
    tiny_folder: Path, shaped: Path, tmp_path: Path
) -> None:
    built = tmp_path / "built"
    build_dataset(shaped, built, "canny", size=72, workers=0)
    sizes = {}
    for data, batch_size in ((shaped, 4), (built, 2)):
        settings = config(
            tmp_path / str(batch_size),
            tiny_folder,
            data,
            buckets=True,
            resolution=64,
            batch_size=batch_size,
            gradient_accumulation=4 // batch_size,
            validation_every=0,
        )
        batches = open_data(settings, load_base(tiny_folder)).batches
        steps = [[batches(range(n, n + batch_size)) for n in range(4 * k, 4 * k + 4, batch_size)] for k in range(15)]
        for step in steps:
            assert len({batch.latents.shape for batch in step}) == 1
        for batch in chain(*steps):
            height, width = batch.conditions.shape[2:]
            for name in batch.names:
                sizes.setdefault(int(Path(name).stem), set()).add((width, height))
                assert batch.latents.shape[2:] == (height // 8, width // 8)
        shown = [name for step in steps for batch in step for name in batch.names]
        if data is shaped:
            whole, whole_latents = shown, torch.cat([b.latents.flatten() for step in steps for b in step])
            assert {shown.count(name) for name in shown} <= {2, 3, 4}  # of 60 samples of 20 images, in steps of 4
        else:
            assert shown == whole
            halves = torch.cat([b.latents.flatten() for step in steps for b in step])
            torch.testing.assert_close(halves, whole_latents, rtol=2e-3, atol=2e-3)
    assert sizes == {k: {((64, 64), (96, 40), (40, 96), (72, 56))[k % 4]} for k in range(20)}
    with pytest.raises(TetherError, match="have several sizes"):
        batches(range(60))


def test_a_run_with_buckets_in_two_sittings_makes_the_control_of_one(
    tiny_folder: Path, shaped: Path, tmp_path: Path
) -> None:
    shared = {"buckets": True, "resolution": 64, "latents": "sample", "validation_images": 2}
    whole = train(config(tmp_path / "whole", tiny_folder, shaped, **shared)).control
    train(config(tmp_path / "parts", tiny_folder, shaped, **shared, steps=2))
    parts = train(config(tmp_path / "parts", tiny_folder, shaped, **shared)).control
    assert whole is not None
    assert parts is not None
    one, two = (ControlNet.load(folder).state_dict() for folder in (whole, parts))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_latents_may_be_samples_of_the_posterior(tiny_folder: Path, circles: Path, tmp_path: Path) -> None:
    """(latents - mean) / deviation is standard normal, another one each time, and a function of the seed and n."""
    base = load_base(tiny_folder)
    means, first, again, other = (
        open_data(
            config(tmp_path / name, tiny_folder, circles, latents=latents, crops=1, validation_every=0, seed=seed), base
        ).batches
        for name, latents, seed in (("a", "mean", 0), ("b", "sample", 0), ("c", "sample", 0), ("d", "sample", 1))
    )
    epochs = range(24 * 4)
    samples = first.samples  # type: ignore[attr-defined]
    drawn, mean = first(epochs).latents, means(epochs).latents
    rows = [first.order(n)[0] for n in epochs]  # type: ignore[attr-defined]
    variance = torch.stack([samples.encoded(row, 0).log_variance for row in rows]).float()
    noise = (drawn - mean) / (0.5 * variance).exp()
    assert abs(float(noise.mean())) < 4 / noise.numel() ** 0.5
    assert abs(float(noise.var()) - 1) < 0.05
    assert torch.equal(again(range(5, 9)).latents, drawn[5:9])
    assert not torch.equal(other(range(5, 9)).latents, drawn[5:9])
    one, two = (rows.index(7), len(rows) - 1 - rows[::-1].index(7))
    assert not torch.equal(noise[one], noise[two])

    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    expected = base.vae.encode(pixels).latent_dist
    found, log_variance = base.encode_moments(pixels)
    scale = base.vae.config["scaling_factor"]
    torch.testing.assert_close(found, expected.mean * scale)
    torch.testing.assert_close((0.5 * log_variance).exp(), expected.std * scale)
