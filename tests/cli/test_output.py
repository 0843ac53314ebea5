"""Names and folders of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tether.cli.output import free_paths, print_drawn, slug, write_drawn
from tether.errors import TetherError
from tether.files.atomic import make_folder, write_new
from tether.images import read_metadata
from tether.sampling import Drawn


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    drawn = Drawn(Image.new("RGB", (8, 8)), 5, {})
    (tmp_path / "a-red-apple-3d-emoji-5.png").write_text("mine")
    paths = [write_drawn(drawn, "A red apple, 3D emoji!", tmp_path) for _ in range(2)]
    assert [path.name for path in paths] == ["a-red-apple-3d-emoji-5-2.png", "a-red-apple-3d-emoji-5-3.png"]
    assert (tmp_path / "a-red-apple-3d-emoji-5.png").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3
    assert next(free_paths(tmp_path, "x", ".webp")).name == "x.webp"


def test_processes_that_write_into_one_folder_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tether.cli.output import free_paths\n"
        "from tether.files.atomic import make_folder, write_new\nout = Path(sys.argv[1])\n"
        "for k in range(60): write_new(free_paths(out, 'x'), lambda part: part.write_text(f'{sys.argv[2]} {k}'))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(each)]) for each in range(3)]
    assert [one.wait() for one in running] == [0, 0, 0]
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == sorted(
        f"{p} {k}" for p in range(3) for k in range(60)
    )


def test_names_are_reserved_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    names = [write_new(free_paths(tmp_path, "x"), lambda part: part.touch()).name for _ in range(3)]
    assert names == ["x.png", "x-2.png", "x-3.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_a_file_name_is_a_file_with_the_settings_as_text(suffix: str, tmp_path: Path) -> None:
    drawn = Drawn(Image.new("RGB", (8, 8), "red"), 5, {"parameters": "a caf\u00e9\nSteps: 3"})
    path = write_drawn(drawn, "x", tmp_path / f"new/cat{suffix}")
    assert path == tmp_path / f"new/cat{suffix}"
    with Image.open(path) as image:
        if suffix == ".png":
            assert image.text == {"parameters": "a caf\u00e9\nSteps: 3"}  # type: ignore[attr-defined]
        else:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
            assert comment == b"UNICODE\0" + "a caf\u00e9\nSteps: 3".encode("utf-16-be")
    assert write_drawn(drawn, "x", path).name == f"cat-2{suffix}"


def test_a_prompt_without_letters_has_a_name_too() -> None:
    assert slug("") == slug("?!") == "picture"
    assert len(slug("x" * 500)) == 60


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TetherError, match="cannot be made as a folder"):
        make_folder(tmp_path / "file" / "out")


def test_an_image_is_written_with_its_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = Drawn(Image.new("RGB", (8, 16)), 5, {"tether": "{}"})
    path = write_drawn(drawn, "a cube", tmp_path / "new")
    assert path == tmp_path / "new" / "a-cube-5.png"
    assert read_metadata(path) == {"tether": "{}"}
    assert capsys.readouterr().out == ""
    print_drawn(path, drawn, "a cube")
    assert capsys.readouterr().out == f"{path}\n"
    print_drawn(path, drawn, "a cube", 1.23456)
    assert json.loads(capsys.readouterr().out) == {
        "path": str(path),
        "seed": 5,
        "width": 8,
        "height": 16,
        "prompt": "a cube",
        "seconds": 1.235,
    }
