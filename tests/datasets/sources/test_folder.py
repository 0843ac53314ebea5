"""A folder of images with captions beside them."""

from __future__ import annotations

from pathlib import Path

from tether.datasets.sources import open_source

from ..conftest import as_folder, picture, png


def test_a_caption_of_the_same_length_makes_it_another_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "a.txt").write_text("a red cat")
    before = open_source(tmp_path).fingerprint()
    (tmp_path / "a.txt").write_text("a tan cat")
    assert open_source(tmp_path).fingerprint() != before


def test_the_fingerprint_changes_with_the_source(tmp_path: Path) -> None:
    folder = as_folder(tmp_path)
    before = open_source(folder).fingerprint()
    (folder / "1.txt").write_text("other words")
    assert open_source(folder).fingerprint() != before
