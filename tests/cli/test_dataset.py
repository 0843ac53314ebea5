"""`tether dataset`: build, show and check, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app
from tether.datasets.check import open_dataset
from tether.errors import TetherError
from tether.images import open_image


def dataset(*arguments: object) -> str:
    """What `tether dataset ARGUMENTS` prints. An error is raised, as `tether.cli.main` would print it."""
    result = CliRunner().invoke(app, ["dataset", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three good images, one without a caption, and one that is truncated."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(5):
        blocks = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1)).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text("" if k == 3 else f"image {k}")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])
    return folder


def test_a_folder_is_built_checked_and_shown(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "data"
    told = dataset("build", photos, out, "--workers", 0)
    assert f"3 samples in 1 shards in {out}" in told
    assert f"1 left out: empty caption (listed in {out / 'quarantine.jsonl'})" in told
    assert "1 left out: unreadable" in told
    assert dataset("check", out) == f"{out}: 3 samples, all as in the manifest\n"
    assert dataset("show", out, "--count", 2).strip() == str(tmp_path / "data.png")
    assert open_image(tmp_path / "data.png").width > 4 * 64
    (tmp_path / "data.png").unlink()
    for inside, name in ((out, "."), (out / "sub", "..")):
        inside.mkdir(exist_ok=True)
        monkeypatch.chdir(inside)
        assert dataset("show", name).strip() == str(tmp_path / "data.png")
    with pytest.raises(TetherError, match=r"must end in \.png"):
        dataset("show", "/")
    dataset("show", out, "-o", tmp_path / "new" / "sheet.png")
    dataset("show", out, "-o", tmp_path / "new" / "sheet.png")  # its own, so it is replaced
    before = (photos / "0.png").read_bytes()
    with pytest.raises(TetherError, match=r"0\.png exists, and does not say that `tether dataset show` wrote it"):
        dataset("show", out, "-o", photos / "0.png")
    assert (photos / "0.png").read_bytes() == before
    dataset("show", out, "-o", photos / "0.png", "--force")
    assert (photos / "0.png").read_bytes() == (tmp_path / "new" / "sheet.png").read_bytes()


def test_the_builtin_sets_are_built_by_name_with_the_kind_and_the_count_asked_for(tmp_path: Path) -> None:
    told = dataset(
        "build", "scenes", tmp_path / "a", "--condition", "depth", "--size", 48, "--count", 2, "--workers", 0
    )
    assert "2 samples" in told
    manifest, reader = open_dataset(tmp_path / "a")
    assert manifest.settings["condition"] == "depth"
    assert manifest.settings["annotated"] is False
    assert reader.sample(0).condition is not None


def test_a_damaged_dataset_fails_the_check(photos: Path, tmp_path: Path) -> None:
    dataset("build", photos, tmp_path / "data", "--workers", 0)
    (tmp_path / "data" / "quarantine.jsonl").write_text("{}\n")
    with pytest.raises(TetherError, match=r"quarantine.jsonl has changed.*; delete it and build it again"):
        dataset("check", tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "{}/nowhere", "{}/out"], "nowhere does not exist: give a folder, a file, or one of emoji3d, scenes"),
        (["build", "{}/photos", "{}/out", "--condition", "cany"], "'cany'.*did you mean canny"),
        (
            ["build", "{}/photos", "{}/out", "--condition", "keypoints"],
            "keypoints has no annotator, and the source has no keypoints maps: give a source with condition images",
        ),
        (
            ["build", "scenes", "{}/out", "--condition", "keypoints"],
            "choose one of blur, canny, depth",
        ),
        (["build", "{}/photos", "{}/out", "--count", "2"], "count applies only to emoji3d, scenes, circles"),
        (["build", "{}/photos", "{}/out", "--size", "4"], "size is 4 and min_side 64: give at least 8"),
        (["build", "circles", "{}/out", "--count", "0"], "a count of at least 1, not 512 and 0"),
        (
            ["build", "{}/photos", "{}/photos/0.png/in"],
            r"OUT .*in cannot be written: .*0\.png is not a writable folder",
        ),
        (["check", "{}/photos"], "photos contains no dataset: run `tether dataset build`"),
        (["show", "{}/nowhere"], "nowhere contains no dataset"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_is_an_error_in_one_line(
    arguments: list[str], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(TetherError, match=message) as caught:
        dataset(*(argument.format(tmp_path) for argument in arguments), *(["--workers", 0] * (arguments[0] == "build")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_an_error_in_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its permissions promise otherwise, as on file systems that are read-only."""

    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(TetherError, match="cannot be made as a folder: Read-only file system"):
        dataset("build", photos, photos.parent / "out", "--workers", 0)
