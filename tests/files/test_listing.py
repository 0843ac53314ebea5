"""The images in a folder."""

from __future__ import annotations

from pathlib import Path

from tether.files.listing import image_names


def test_images_are_found_below_by_name_without_hidden_and_other_files(tmp_path: Path) -> None:
    names = ["b.JPG", "a.png", "sub/deep/c.webp", "notes.txt", ".hidden.png", ".cache/d.png", "sub/e.heic", "f"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert image_names(tmp_path) == ["a.png", "b.JPG", "sub/deep/c.webp"]
    assert image_names(tmp_path, tmp_path / "sub") == ["a.png", "b.JPG"]
    assert image_names(tmp_path / "sub", tmp_path / "sub") == []
    assert image_names(tmp_path / "sub", tmp_path) == ["deep/c.webp"]
