"""`tether evaluate` from the command line: what is refused, and one small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tether import cli
from tether.errors import TetherError
from tether.sampling import Session


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["evaluate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cany"], "did you mean canny"),
        (["canny", "--sides", "left"], "share from 0 to 1"),
        (["canny", "--sheet", "sheet.jpg"], r"must end in \.png"),
        (["canny", "--kind", "canny", "--kind", "depth"], "as many --kind"),
        (["canny", "--alone"], "--alone has nothing to act on: it needs several controls"),
        (["canny", "--size", "big"], "not a size"),
        (["canny", "--data", "no/such/folder"], "does not exist"),
        (["canny", "--scheduler", "fast"], "fast"),
        (["canny", "canny"], "two controls are of one kind"),
        (["canny", "--kind", "depht", "--data", "scenes"], "did you mean depth"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_drawn(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TetherError, match=message):
        run(*arguments, "--count", "2", "--steps", "1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "-1"], "strength"),
        (["--strength", "0.2@0-0.3,x"], "0.2@0-0.3,x"),
        (["--weighting", "none"], "weighting"),
        (["--sides", "2"], "sides"),
        (["--clip", "."], r"no CLIP model can be opened at \."),
        (["--clip", "./none"], "no CLIP model at ./none: there is no such file or folder"),
        (["--contrast", "no/such"], "no contrastive model can be opened at no/such"),
        (["--json", "a.json", "-o", "a.json"], "--json a.json is in the way of --out a.json: give another name"),
        (["--sheet", "a.png", "-o", "a.png/b"], "--sheet a.png is in the way of --out a.png/b"),
        (["--sheet", "a.png", "--json", "./a.png"], "--json a.png is in the way of --sheet a.png"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_loaded(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Session, "open", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(TetherError, match=message):
        run("canny", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_drawn_is_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tether.evaluation.cases.open_held_out", lambda *_: pytest.fail("it was prepared"))
    with pytest.raises(TetherError, match="multiples of 8 up to 4096, not 60000x60000"):
        run("canny", "--size", "60000x60000")


def test_a_file_as_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(TetherError, match="is a file"):
        run("canny", "--out", str(file))
    with pytest.raises(TetherError, match=r"--json .* is a folder"):
        run("canny", "--json", str(tmp_path))


def test_what_others_wrote_is_not_replaced(tmp_path: Path) -> None:
    notes, picture = tmp_path / "notes.json", tmp_path / "picture.png"
    notes.write_text("[1, 2]")
    Image.new("RGB", (4, 4)).save(picture)
    for option, path in (("--json", notes), ("--sheet", picture)):
        with pytest.raises(TetherError, match="give another name"):
            run("canny", option, str(path))


def test_a_run_prints_a_table_and_writes_json_sheet_and_pictures(tmp_path: Path) -> None:
    out, sheet, numbers = tmp_path / "pictures", tmp_path / "sheet.png", tmp_path / "new" / "numbers.json"
    common = ["canny", "--data", "circles", "--count", "2", "--steps", "1", "--out", str(out)]
    printed = run(*common, "--json", str(numbers), "--sheet", str(sheet))
    assert "edge F1, 2 px" in printed
    assert "strength 0" in printed
    read = json.loads(numbers.read_text())
    assert read["settings"]["controls"] == ["canny"]
    assert read["settings"]["data"] == [{"set": "circles", "split": "held out"}]
    assert read["settings"]["strength"] == 1.0
    assert Image.open(sheet).width > 5 * 128
    pictures = sorted(out.rglob("*.png"))
    assert len(pictures) == 6  # two cases at strength 0 and with control, and their sources
    made = [path.stat().st_mtime_ns for path in pictures]
    run(*common, "--sides", "0.6")
    assert [path.stat().st_mtime_ns for path in pictures] == made
    assert len(sorted(out.rglob("*.png"))) == 8  # strength 0 is shared
    again = run(*common, "--json", str(numbers), "--sheet", str(sheet), "--contrast", "tether")
    assert "picture-text agreement" in again
    assert "by the contrastive model, at this count alone: strength 0 " in again
    assert set(json.loads(numbers.read_text())["frechet_distances"]) == {"strength 0", "canny"}


def test_the_folder_of_conditions_of_a_folder_can_be_named(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (64, 64), "white").save(tmp_path / "pairs" / folder / f"{name}.png")
    common = ("canny", "--data", str(tmp_path / "pairs"), "--steps", "1", "-o", str(tmp_path / "out"))
    with pytest.raises(TetherError, match="give --condition-folder NAME"):
        run(*common)
    with pytest.raises(TetherError, match="has no folder 'maps'"):
        run(*common, "--condition-folder", "maps")
