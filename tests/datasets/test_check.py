"""Checking finds every damage, and the contact sheet shows the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tether.datasets.build import build_dataset
from tether.datasets.check import check_dataset, show_dataset

from .conftest import as_folder, triples


def test_check_finds_nothing_in_a_good_dataset(photos: Path, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "out", "canny", workers=0)
    report = check_dataset(tmp_path / "out")
    assert report.faults == ()
    assert report.manifest.samples == 10


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "more", "quarantine"])
def test_check_finds_every_damage(photos: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    build_dataset(photos, out, "canny", shard_size=4, workers=0)
    shard = out / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif damage == "cut":
        shard.write_bytes(data[:-1000])
    elif damage == "gone":
        shard.unlink()
    elif damage == "more":
        (out / "shard-00009.tar").write_bytes(data)
    else:
        (out / "quarantine.jsonl").write_text("{}\n")
    told = {"bit": "SHA-256", "cut": "bytes instead of", "gone": "missing", "more": "not in the manifest"}
    faults = check_dataset(out).faults
    assert len(faults) == 1
    assert told.get(damage, "quarantine.jsonl has changed") in faults[0]


def test_the_contact_sheet_shows_picture_and_condition_beside_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    as_folder(folder)
    build_dataset(folder, tmp_path / "out", "mine", workers=0)
    sheet = np.asarray(show_dataset(tmp_path / "out", count=1))
    image, condition, _ = triples()[0]
    shown = [np.asarray(image), np.asarray(condition)]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (64, 72, 3))[:, :, 0]
    places = [np.argwhere((windows == one).all(axis=(2, 3, 4))).tolist() for one in shown]
    assert [len(found) for found in places] == [1, 1]
    assert places[0][0][0] == places[1][0][0]
    assert places[1][0][1] - places[0][0][1] >= 72
