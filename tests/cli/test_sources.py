"""Files are checked before anything is imported or made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tether.cli.sources import check_folder, check_input, check_not_input, check_ref, is_image_file
from tether.errors import TetherError

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


def test_an_output_is_no_input_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    check_not_input(tmp_path / "y.png", [tmp_path / "x.png"], "--out")
    with pytest.raises(TetherError, match=r"--out .* is an input, which would be lost"):
        check_not_input(tmp_path / "." / "x.png", [tmp_path / "x.png"], "--out")


def test_a_mistyped_control_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for ref in ("canny", str(tmp_path / "mine"), "owner/name"):
        check_ref(ref)
    with pytest.raises(TetherError, match="there is no control 'cany': did you mean canny"):
        check_ref("cany")
    with pytest.raises(TetherError, match="there is no control 'sculpture': shipped are canny"):
        check_ref("sculpture")


def test_names_with_the_suffix_of_an_image_are_files(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert is_image_file(tmp_path / "cat.WEBP")
    assert not is_image_file(tmp_path / "folder.png")
    assert not is_image_file(tmp_path / "cat.v2")
