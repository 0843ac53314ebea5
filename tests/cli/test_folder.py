"""`tether generate` with a folder: one picture an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app
from tether.cli.options import GenerateOptions
from tether.errors import TetherError
from tether.sampling.folders import Manifest, seed_of
from tether.sampling.request import read_request


@pytest.fixture
def control(control_folder: Path) -> Path:
    return control_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, color in (("a.png", (220, 60, 60)), ("b.jpg", (30, 200, 30))):
        image = Image.new("RGB", (90, 70), (30, 30, 30))
        image.paste(color, (20, 20, 60, 50))
        image.save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def tether(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)], catch_exceptions=False)


def test_a_folder_is_drawn_image_by_image_and_continued(
    tiny_folder: Path, control: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "drawn"
    Image.new("RGB", (50, 50), "white").save(photos / "blank.png")
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    given = ("--base", tiny_folder, "--control", f"{control}={photos}/:0.2@0-0.5,0.8@0.5-1", "--steps", 2, "-o", out)
    result = tether(*given, "--prompt", "a cube", "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["input"], one["path"], one["seed"], one["prompt"]) for one in lines] == [
        (name, str(out / name.replace("jpg", "png")), seed_of(name, 0), "a cube")
        for name in ("a.png", "b.jpg", "blank.png")
    ]
    said = result.stderr.splitlines()
    assert any(line.startswith("cut.jpg: skipped: ") and "damaged or cut off" in line for line in said)
    (blank,) = [line for line in said if line.startswith("blank.png: ")]
    assert blank.endswith(" says nothing: it is black everywhere")
    assert said[-1] == f"3 drawn, 1 failed; {out / 'manifest.jsonl'} lists them"
    assert read_request(out / "a.png").controls[0].strength == "0.2@0-0.5,0.8@0.5-1"
    assert {one.state for one in Manifest(out).entries.values()} == {"drawn", "failed"}
    (photos / "cut.jpg").unlink()
    again = tether(*given, "-p", "a cube")
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr.splitlines()[-1].startswith("3 were there; ")
    repeated = tether("--again", out / "b.png", "-o", tmp_path / "again.png")
    assert (repeated.exit_code, (tmp_path / "again.png").read_bytes()) == (0, (out / "b.png").read_bytes())


def test_the_images_may_lie_in_a_folder_of_the_results(
    tiny_folder: Path, control: Path, photos: Path, tmp_path: Path
) -> None:
    given = ("--base", tiny_folder, "--control", f"{control}={photos}", "--steps", 1, "-o", tmp_path, "--prompt", "x",
             "--preview", tmp_path / "p.png")  # fmt: skip
    assert tether(*given).stdout.splitlines() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert tether(*given).stderr.splitlines()[-1] == f"2 were there; {tmp_path / 'manifest.jsonl'} lists them"


def test_prompts_of_a_folder_are_captions_or_a_file_of_names(
    tiny_folder: Path, control: Path, photos: Path, tmp_path: Path
) -> None:
    given = ("--base", tiny_folder, "--control", f"{control}={photos}", "--steps", 1)
    (photos / "a.txt").write_text("a red cube\n")
    (photos / "b.txt").write_text("a green cube\n")
    assert tether(*given, "-o", tmp_path / "one").exit_code == 0
    prompts = [read_request(tmp_path / "one" / name).prompt for name in ("a.png", "b.png")]
    assert prompts == ["a red cube", "a green cube"]
    (tmp_path / "prompts.txt").write_text("# names\nb\ta ball\na.png\t\n")
    assert tether(*given, "-o", tmp_path / "two", "--prompts", tmp_path / "prompts.txt").exit_code == 0
    assert [read_request(tmp_path / "two" / name).prompt for name in ("a.png", "b.png")] == ["", "a ball"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid"], "--grid is not for folders"),
        (["--seed", "1,2"], "a folder takes one --seed"),
        (["-o", "PHOTOS"], "is the folder of the images: give another name"),
        (["-o", "x.png"], "--out x.png is a file: give a folder for the pictures"),
        (["--condition", "canny=EMPTY"], "empty has no image: expected .png"),
        (["--condition", "canny=PHOTOS/a.png,PHOTOS/b.jpg"], "a folder is drawn image by image"),
        (["--preview", "PHOTOS/p.png"], "--preview .*p.png would be an image of .*photos: give another folder"),
        (["--preview", "PHOTOS/p.png", "-o", "PHOTOS/.."], "--preview .*p.png would be an image"),
        (["-p", "y"], "the prompt is given twice"),
    ],
)
def test_what_does_not_go_with_a_folder_is_refused(
    arguments: list[str], message: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    given = [one.replace("PHOTOS", str(photos)).replace("EMPTY", str(tmp_path / "empty")) for one in arguments]
    with pytest.raises(TetherError, match=message):
        tether("x", "--control", f"canny={photos}", *given)


def test_a_file_of_prompts_beside_a_folder_needs_names(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(TetherError, match=r"'a cat' has no tab: beside a folder, write NAME<TAB>PROMPT"):
        tether("--control", f"canny={photos}", "--prompts", tmp_path / "prompts.txt")
    assert GenerateOptions().prompt_option is None
