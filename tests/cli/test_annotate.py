"""`tether annotate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app
from tether.errors import TetherError
from tether.kinds import annotate, kinds


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(60, 200, (48, 64, 3), np.uint8)).save(path)
    return path


def tether(*arguments: object) -> str:
    """What the command prints; its error, if it fails."""
    result = CliRunner().invoke(app, ["annotate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_map_of_the_image_is_written_and_its_path_printed(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "map.png"
    assert tether("canny", photo, "-o", out, "--set", "low=30", "--set", "high=60") == f"{out}\n"
    expected = annotate("canny", Image.open(photo), low=30, high=60)
    assert Image.open(out).tobytes() == expected.tobytes()
    tether("scribble", photo, "-o", out, "--annotator", "xdog", "--set", "colour=0")
    assert Image.open(out).tobytes() == annotate("scribble", Image.open(photo), color=0).tobytes()


def test_the_condition_for_inpainting_is_transparent_where_the_mask_is_white(photo: Path, tmp_path: Path) -> None:
    mask, out = tmp_path / "mask.png", tmp_path / "map.png"
    Image.new("L", (32, 24)).save(mask)
    painted = Image.new("L", (32, 24))
    painted.paste(255, (0, 0, 16, 24))
    painted.save(mask)
    tether("inpaint", photo, "-o", out, "--mask", mask)
    map_ = np.asarray(Image.open(out))
    assert map_.shape == (48, 64, 4)
    assert not map_[:, :32].any()
    assert np.array_equal(map_[:, 32:, :3], np.asarray(Image.open(photo))[:, 32:])
    assert (map_[:, 32:, 3] == 255).all()


def test_16_bits_of_depth_are_written(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tether.detectors import depth

    monkeypatch.setattr("tether.detectors.check_installed", lambda name: None)
    ramp = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    monkeypatch.setattr(depth, "nearness", lambda pixels: ramp)
    tether("depth", photo, "-o", tmp_path / "depth.png")
    written = Image.open(tmp_path / "depth.png")
    assert written.mode == "I;16"
    assert np.abs(np.asarray(written) - ramp * 65535).max() <= 0.51


def test_every_kind_and_option_is_listed() -> None:
    lines = tether("--list").splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} == set(kinds())
    listed = "opencv low: weakest gradient that continues an edge (0 to 1000, by default 100)"
    assert listed in [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cany", "missing.png"], "did you mean canny"),
        (["keypoints", "missing.png"], "keypoints has no annotator"),
        (["canny", "missing.png", "--annotator", "hed"], "canny has no annotator 'hed'"),
        (["canny", "missing.png"], "there is no file missing.png"),
        (["inpaint", "PHOTO"], "inpaint needs a mask: give --mask"),
        (["canny", "PHOTO", "--mask", "PHOTO"], "canny takes no --mask: leave it out"),
        (["inpaint", "PHOTO", "--mask", "missing.png"], "there is no file missing.png"),
        (["canny", "PHOTO", "--set", "low"], "'low' is not a valid option: write NAME=NUMBER"),
        (["canny", "PHOTO", "--set", "low=x"], "'low=x' is not a valid option"),
        (["canny", "PHOTO", "--set", "annotator=3"], "canny has no option 'annotator'"),
        (["canny", "PHOTO", "--annotator", "hed"], "canny has no annotator 'hed'"),
    ],
)
def test_what_is_wrong_is_reported_the_kind_before_the_image(
    photo: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(TetherError, match=words):
        tether(*[photo if one == "PHOTO" else one for one in arguments], "-o", tmp_path / "map.png")
    assert not (tmp_path / "map.png").exists()


def test_a_map_is_written_again_and_no_other_file_is_replaced(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    tether("canny", photo, "-o", out)
    tether("scribble", photo, "-o", out)
    photo_of_someone = tmp_path / "other.png"
    Image.new("RGB", (8, 8), "red").save(photo_of_someone)
    before = photo_of_someone.read_bytes()
    with pytest.raises(TetherError, match=r"other\.png exists.*: give another name, or --force"):
        tether("canny", photo, "-o", photo_of_someone)
    assert photo_of_someone.read_bytes() == before
    tether("canny", photo, "-o", photo_of_someone, "--force")
    assert Image.open(photo_of_someone).size == Image.open(photo).size
