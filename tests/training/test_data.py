"""From a data set to batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.base import load_base
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
    held_back = set(data.batches.samples.names) - set(first)  # type: ignore[attr-defined]
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
