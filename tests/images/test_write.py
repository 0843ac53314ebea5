"""PNGs are written whole, with their text, or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from tether.errors import TetherError
from tether.images import open_image, read_metadata, save_png
from tether.images.read import MAX_TEXT


def test_a_png_carries_its_text_and_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (8, 8), "red"), path, {"tether": "ünï {}" * 1000})
    assert read_metadata(path) == {"tether": "ünï {}" * 1000}
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TetherError, match="No space left"):
        save_png(Image.new("RGB", (8, 8), "blue"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", [".", "file.txt/a.png", "a.jpg", "no/such/folder/a.png"])
def test_a_name_that_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("words")
    with pytest.raises(TetherError, match="cannot be written"):
        save_png(Image.new("RGB", (8, 8)), tmp_path / name)


def test_a_long_name_and_no_longer_text_than_pillow_opens(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 250}.png"
    save_png(Image.new("RGB", (8, 8)), path)
    assert open_image(path).size == (8, 8)
    with pytest.raises(TetherError, match="text"):
        save_png(Image.new("RGB", (8, 8)), path, {"tether": "x" * (MAX_TEXT + 1)})
