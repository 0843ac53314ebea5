"""Names and folders of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tether.cli.output import free_path, make_folder, slug, write_drawn
from tether.errors import TetherError
from tether.images import read_metadata
from tether.sampling import Drawn


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    first = free_path(tmp_path, slug("A red apple, 3D emoji!"))
    assert first.name == "a-red-apple-3d-emoji.png"
    first.touch()
    assert free_path(tmp_path, "a-red-apple-3d-emoji").name == "a-red-apple-3d-emoji-2.png"


def test_a_prompt_without_letters_has_a_name_too() -> None:
    assert slug("") == slug("?!") == "picture"
    assert len(slug("x" * 500)) == 60


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TetherError, match="cannot be made as a folder for images"):
        make_folder(tmp_path / "file" / "out")


def test_an_image_is_written_with_its_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = Drawn(Image.new("RGB", (8, 16)), 5, {"tether": "{}"})
    path = write_drawn(drawn, "a cube", tmp_path / "new")
    assert path == tmp_path / "new" / "a-cube-5.png"
    assert read_metadata(path) == {"tether": "{}"}
    assert capsys.readouterr().out == f"{path}\n"
    again = write_drawn(drawn, "a cube", tmp_path / "new", seconds=1.23456)
    assert json.loads(capsys.readouterr().out) == {
        "path": str(again),
        "seed": 5,
        "width": 8,
        "height": 16,
        "prompt": "a cube",
        "seconds": 1.235,
    }
