"""Samples whose files are the same are found, and only files of equal size are read for it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tether.datasets.source import Sample
from tether.datasets.sources import open_source
from tether.datasets.sources.folder import FolderSource
from tether.datasets.twins import repeated_files

from .conftest import picture, png


def test_the_later_one_of_two_equal_files_is_a_repetition(tmp_path: Path) -> None:
    for name, number in (("a", 0), ("b", 1), ("c", 0), ("d", 0)):
        picture(number).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(name)
    source = open_source(tmp_path)
    assert repeated_files(source, range(len(source))) == {2, 3}
    assert repeated_files(source, [1, 2, 3]) == {3}


def test_the_same_image_with_another_condition_is_no_repetition(tmp_path: Path) -> None:
    for name, condition in (("a", 1), ("b", 2), ("c", 1)):
        picture(0).save(tmp_path / f"{name}.bmp")
        picture(condition).save(tmp_path / f"{name}.condition.bmp")  # as many bytes as the other
        (tmp_path / f"{name}.txt").write_text(name)
    source = open_source(tmp_path)
    assert repeated_files(source, range(len(source))) == {2}


def test_files_of_different_sizes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(3):
        picture(k, 64 + 8 * k).save(tmp_path / f"{k}.bmp")
        (tmp_path / f"{k}.txt").write_text("words")
    read: list[int] = []

    def sample(self: FolderSource, index: int, kind: str | None = None) -> Sample:
        read.append(index)
        raise AssertionError

    monkeypatch.setattr(FolderSource, "sample", sample)
    source = open_source(tmp_path)
    assert repeated_files(source, range(len(source))) == set()
    assert read == []


def test_different_images_are_no_repetitions_in_any_layout(laid_out: Path) -> None:
    source = open_source(laid_out)
    assert repeated_files(source, range(len(source))) == set()


def test_repetitions_are_found_in_archives(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, number in (("0", 5), ("1", 6), ("2", 5)):
            for suffix, data in (("png", png(picture(number))), ("txt", name.encode())):
                entry = tarfile.TarInfo(f"{name}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    assert repeated_files(open_source(tmp_path), range(3)) == {2}
