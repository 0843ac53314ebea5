"""A run reads its source on demand, notices when it changes, and goes on without it as far as it has seen it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from tether.base import Base, load_base
from tether.datasets import source as datasets_source
from tether.datasets import twins
from tether.datasets.build import build_dataset
from tether.datasets.latents import views
from tether.errors import TetherError
from tether.training.data import open_data
from tether.training.inspection import inspect_data
from tether.training.run import train

from ..datasets.conftest import picture, png
from .small import config, photos

SHARED = {"validation_every": 0, "resolution": 64}


def test_a_run_prepares_only_the_samples_that_it_shows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[int] = []
    plain = views.prepare_sample
    monkeypatch.setattr(views, "prepare_sample", lambda *of: prepared.append(of[2]) or plain(*of))
    settings = config(tmp_path, tiny_folder, photos(tmp_path / "photos", 40, 80), **SHARED, steps=2, workers=0)
    assert train(settings).outcome.step == 2
    assert len(prepared) == len(set(prepared)) == 4
    assert not (settings.out / "data").exists()
    # Its other crops are cut from what was kept.
    train(settings.model_copy(update={"steps": 20}))
    assert sorted(prepared) == list(range(40))
    train(settings.model_copy(update={"steps": 22}))
    assert len(prepared) == 40


def test_a_run_whose_source_is_gone_goes_on_until_it_needs_a_sample_that_it_has_never_shown(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path
) -> None:
    data = photos(tmp_path / "photos", 6, 80)
    settings = config(tmp_path, tiny_folder, data, **SHARED, steps=2, workers=0)
    train(settings)
    shutil.rmtree(data)
    found = inspect_data(settings, tiny_base)
    assert found.samples == 6
    assert "is gone" in found.notes[0]
    with pytest.raises(TetherError, match=r"is gone, and sample \d was never shown: put it back"):
        train(settings.model_copy(update={"steps": 3}))
    photos(data, 6, 80)
    assert train(settings.model_copy(update={"steps": 3})).outcome.step == 3
    shutil.rmtree(data)
    assert train(settings.model_copy(update={"steps": 12})).outcome.step == 12


def test_a_source_whose_image_was_edited_to_as_many_bytes_is_another_one(tiny_folder: Path, tmp_path: Path) -> None:
    data = photos(tmp_path / "bmp", 4, 80, "bmp")
    settings = config(tmp_path, tiny_folder, data, **SHARED, steps=1)
    train(settings)
    ImageOps.invert(picture(0, 80, 80)).save(data / "0.bmp")
    with pytest.raises(TetherError, match="bmp has changed since"):
        train(settings.model_copy(update={"steps": 2}))


def test_a_run_that_has_begun_to_build_its_data_goes_on_so(tiny_folder: Path, tmp_path: Path) -> None:
    """As earlier versions did."""
    data = photos(tmp_path / "photos", 4, 80)
    settings = config(tmp_path, tiny_folder, data, **SHARED)
    build_dataset(data, settings.out / "data", "canny", size=72, min_side=32, workers=0)
    train(settings)
    assert not (settings.out / "source.json").exists()
    shutil.rmtree(data)
    train(settings.model_copy(update={"steps": 6}))


def test_rows_of_parquet_files_are_built_first(tiny_folder: Path, tmp_path: Path) -> None:
    """Reading one of them reads all of its group."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": png(picture(k, 80, 80))}, "text": f"number {k % 3}"} for k in (0, 1, 2, 0)]
    rows[3]["text"] = "another caption"
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    settings = config(tmp_path, tiny_folder, tmp_path / "a.parquet", **SHARED)
    samples = open_data(settings, load_base(tiny_folder)).batches.samples  # type: ignore[attr-defined]
    assert [samples.captions_of(index) for index in range(len(samples))] == [
        ("number 0", "another caption"),
        ("number 1",),
        ("number 2",),
    ]
    assert (settings.out / "data" / "manifest.json").is_file()


def test_repeated_files_and_unusable_samples_are_told(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    data = photos(tmp_path / "photos", 9, 80)
    shutil.copy(data / "0.png", data / "7.png")
    (data / "8.txt").unlink()
    picture(1, 24, 24).save(data / "6.png")
    settings = config(tmp_path, tiny_folder, data, **SHARED)
    found = inspect_data(settings, tiny_base)
    assert found.samples == 8
    assert found.notes[0] == "1 left out: samples whose files are the same as others'"
    assert "2 of 8 samples cannot be used" in found.notes[1]
    assert "1 empty caption" in found.notes[1]
    assert "1 too small" in found.notes[1]
    samples = open_data(settings, load_base(tiny_folder)).batches.samples  # type: ignore[attr-defined]
    shown = [samples.name_of(index) for index in range(len(samples))]
    assert set(shown) == {f"{k}.png" for k in range(6)}
    for k in range(9):
        (data / f"{k}.txt").write_text(" ")
    with pytest.raises(TetherError, match=r"has no usable sample .*9 empty caption"):
        inspect_data(settings, tiny_base)


@pytest.mark.parametrize("condition", ["canny", ["canny", "tile"]], ids=str)
def test_a_resumed_run_reads_files_only_for_what_it_shows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: Any
) -> None:
    data = photos(tmp_path / "photos", 6, 80, "bmp")  # all of the same size
    shutil.copy(data / "0.bmp", data / "5.bmp")
    settings = config(tmp_path, tiny_folder, data, **SHARED, steps=1, workers=0, condition=condition)
    compared: list[int] = []
    plain = twins._hash
    monkeypatch.setattr(twins, "_hash", lambda source, index: compared.append(index) or plain(source, index))
    train(settings)
    assert sorted(compared) == sorted([*range(6)] * 2)  # when it is looked at, and when it is opened
    compared.clear()
    hashed: list[Path] = []
    whole = datasets_source.hash_file
    monkeypatch.setattr(datasets_source, "hash_file", lambda path: hashed.append(path) or whole(path))
    told: list[str] = []
    train(settings.model_copy(update={"steps": 2}), on_note=told.append)
    assert "1 left out: samples whose files are the same as others'" in told
    assert compared == hashed == []
