"""Files are checked before anything is imported or made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tether.cli.sources import (
    check_control,
    check_folder,
    check_input,
    check_model,
    check_not_input,
    check_replaceable,
    is_image_file,
    made_by,
)
from tether.errors import TetherError
from tether.images import save_png

LONG = "x" * 300


def test_an_input_must_be_a_file(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder: expected an image file"),
        (tmp_path / "none.png", r"there is no file .*none\.png: check the path"),
        (tmp_path / LONG, "there is no file"),
    ):
        with pytest.raises(TetherError, match=message) as caught:
            check_input(path)
        assert len(str(caught.value)) < 200


def test_a_folder_must_be_one_that_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    for path in (tmp_path / "file", tmp_path / "file" / "in", tmp_path / LONG, tmp_path / "a" / LONG):
        with pytest.raises(TetherError, match=r"is a file|not a writable folder|cannot be written"):
            check_folder(path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TetherError, match="is not a writable folder"):
        check_folder(tmp_path / "out")


def test_the_name_of_an_image_to_write_may_be_too_long_or_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "folder.tiff").mkdir()
    assert not is_image_file(tmp_path / "folder.tiff")
    assert not is_image_file(tmp_path / "v1.5")
    with pytest.raises(TetherError, match=r"x\.gif cannot be written: the name must end in \.png, \.jpg"):
        is_image_file(tmp_path / "x.gif")
    assert is_image_file(tmp_path / "x.PNG")
    assert not is_image_file(tmp_path / LONG)
    with pytest.raises(TetherError, match=r"x\.png cannot be written: ") as caught:
        is_image_file(tmp_path / f"{LONG}.png")
    assert len(str(caught.value)) < 200


def test_an_output_is_no_input_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    check_not_input(tmp_path / "y.png", [tmp_path / "x.png"], "--out")
    with pytest.raises(TetherError, match=r"--out .* is an input, which would be lost"):
        check_not_input(tmp_path / "." / "x.png", [tmp_path / "x.png"], "--out")


def test_a_mistyped_control_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for ref in ("canny", str(tmp_path / "mine"), "owner/name"):
        check_control(ref)
    with pytest.raises(TetherError, match="there is no control 'cany': did you mean canny"):
        check_control("cany")
    with pytest.raises(TetherError, match="there is no control 'sculpture': shipped are canny"):
        check_control("sculpture")


def test_names_with_the_suffix_of_an_image_are_files(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert is_image_file(tmp_path / "cat.WEBP")
    assert not is_image_file(tmp_path / "folder.png")
    assert not is_image_file(tmp_path / "cat.v2")


def test_a_file_is_replaced_by_the_command_that_wrote_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    check_replaceable(path, "annotate")
    for written in (None, {}, {"tether": "{}"}, made_by("demo")):
        if written is None:
            path.write_text("notes, not an image")
        else:
            save_png(Image.new("RGB", (8, 8)), path, written)
        with pytest.raises(TetherError, match=r"x\.png exists, and does not say that `tether annotate` wrote it"):
            check_replaceable(path, "annotate")
        check_replaceable(path, "annotate", force=True)
    save_png(Image.new("RGB", (8, 8)), path, made_by("annotate"))
    check_replaceable(path, "annotate")
    for other, message in ((tmp_path / "x.jpg", "must end in .png"), (tmp_path / "in.png", "is a folder")):
        (tmp_path / "in.png").mkdir(exist_ok=True)
        with pytest.raises(TetherError, match=message):
            check_replaceable(other, "annotate", force=True)


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes in folders")
def test_a_pipe_is_not_replaced_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(TetherError, match=r"x\.png exists, and does not say"):
        check_replaceable(tmp_path / "x.png", "annotate")


def test_a_mistyped_model_is_told_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    for ref in ("tether", str(tmp_path / "model.safetensors"), "owner/name", "owner/name/file.safetensors@main"):
        check_model(ref, "base")
    for ref, message in (
        ("./modle.safetensors", "no base at ./modle.safetensors: there is no such file or folder"),
        ("model.safetensors", "no base at model.safetensors"),
        (str(tmp_path / "mdoel.safetensors"), r"did you mean .*/model\.safetensors\?"),
        (LONG, "no base at"),
        ("owner/name/../file.safetensors", "no base at owner/name/../file.safetensors"),
    ):
        with pytest.raises(TetherError, match=message):
            check_model(ref, "base")
