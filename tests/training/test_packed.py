"""A packed latents file as a data source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tether.base import Base
from tether.errors import TetherError
from tether.training.packed import PackedBatches, is_packed

COUNTS = {"red": 6, "green": 2, "blue": 4}
ROWS = sum(COUNTS.values())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "packed.npz"
    np.savez(
        path,
        latents=rng.normal(size=(ROWS, 4, 8, 8)).astype(np.float16),
        captions=np.array(json.dumps([[f"row {row}", f"line {row}"] for row in range(ROWS)])),
        counts=np.array(json.dumps(COUNTS)),
        edges=rng.integers(0, 256, (ROWS, 3, 64, 8), dtype=np.uint8),
    )
    return path


def group(row: int) -> str:
    return "red" if row < 6 else "green" if row < 8 else "blue"


def test_a_file_is_packed_by_its_name() -> None:
    assert is_packed("data/latents.npz")
    assert not is_packed("emoji3d")


@pytest.mark.parametrize("randomness", ["batch", "sample"])
def test_a_batch_shows_rows_of_the_file(file: Path, tiny_base: Base, randomness: str) -> None:
    batches = PackedBatches(file, tiny_base, seed=3, randomness=randomness, prompt_dropout=0.4)
    batch = batches(range(16, 24))
    with np.load(file) as pack:
        latents, edges = pack["latents"], np.unpackbits(pack["edges"], axis=3) * 255
    for k, row in enumerate(batch.rows):
        assert torch.equal(batch.latents[k], torch.from_numpy(latents[row]).float())
        assert any(np.array_equal(batch.conditions[k, 0].numpy(), shown) for shown in edges[row])
        assert batch.captions[k] in ("", f"row {row}", f"line {row}")
    assert batch.conditions.shape == (8, 3, 64, 64)
    expected = tiny_base.encode_prompts(list(batch.captions))
    torch.testing.assert_close(batch.conditioning.tokens, expected.tokens)
    again = batches(range(16, 24))
    assert (again.rows, again.captions) == (batch.rows, batch.captions)
    assert batches(range(24, 32)).rows != batch.rows


def test_each_group_gets_its_share_of_a_batch_and_the_last_group_the_rest(file: Path, tiny_base: Base) -> None:
    shares = {"red": 1, "green": 2, "blue": 1}
    batches = PackedBatches(file, tiny_base, seed=0, randomness="batch", shares=shares)
    for start in range(0, 70, 7):
        groups = [group(row) for row in batches(range(start, start + 7)).rows]
        assert groups == ["red"] * 2 + ["green"] * 4 + ["blue"]  # 1.75 and 3.5, rounded


def test_a_batch_too_small_for_a_group_says_what_is_large_enough(file: Path, tiny_base: Base) -> None:
    batches = PackedBatches(file, tiny_base, seed=0, randomness="batch", shares={"red": 1, "green": 19, "blue": 1})
    with pytest.raises(
        TetherError, match=r"batch of 4 has no sample of the group red, .* 4.8%: give a batch_size of 16"
    ):
        batches(range(4))
    assert {group(row) for row in batches(range(16)).rows} == {"red", "green", "blue"}


def test_a_sample_of_its_own_randomness_is_the_same_in_every_batch(file: Path, tiny_base: Base) -> None:
    batches = PackedBatches(file, tiny_base, seed=1, randomness="sample", shares={"red": 1, "green": 0, "blue": 3})
    whole, part = batches(range(400)), batches(range(30, 34))
    assert whole.rows[30:34] == part.rows
    assert whole.captions[30:34] == part.captions
    assert whole.randomness is None
    found = [group(row) for row in whole.rows]
    assert found.count("green") == 0
    assert found.count("blue") / 400 == pytest.approx(0.75, abs=0.07)  # three deviations of a binomial
    assert list(whole.captions).count("") / 400 == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": {"red": 1}}, "shares are given for red; .* has red, green, blue"),
        ({"path": "gone.npz"}, "cannot read the packed latents gone.npz"),
    ],
)
def test_a_wrong_file_or_wrong_shares_are_refused(
    file: Path, tiny_base: Base, changes: dict[str, Any], message: str
) -> None:
    path = Path(changes.pop("path", file))
    with pytest.raises(TetherError, match=message):
        PackedBatches(path, tiny_base, seed=0, **changes)


def test_samples_of_different_numbers_of_captions_are_refused(file: Path, tiny_base: Base) -> None:
    with np.load(file) as pack:
        arrays = dict(pack)
    captions = json.loads(str(arrays["captions"]))
    captions[0] = [*captions[0], "another"]
    np.savez(file, **arrays | {"captions": np.array(json.dumps(captions))})
    with pytest.raises(TetherError, match="samples have different numbers of captions"):
        PackedBatches(file, tiny_base, seed=0)


def test_a_damaged_file_is_refused(file: Path, tiny_base: Base) -> None:
    with np.load(file) as pack:
        arrays = dict(pack)
    arrays["latents"] = arrays["latents"][:-1]
    np.savez(file, **arrays)
    with pytest.raises(TetherError, match="is damaged: latents, edges or images, captions and counts differ in length"):
        PackedBatches(file, tiny_base, seed=0)
