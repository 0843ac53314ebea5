"""`tether inspect`: what it says of maps, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import tether
from tether import cli
from tether.cli.inspect import FACTOR, MAX_SIDE
from tether.errors import TetherError
from tether.images import open_image
from tether.kinds import make_map
from tether.sampling import checks
from tether.studies.ambiguous import made_ambiguous

EXAMPLES = Path(tether.__file__).parent / "examples"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["inspect", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def stroke(tmp_path: Path) -> Path:
    """One short line, drawn in ink on paper."""
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).line([(60, 60), (140, 60)], fill="black", width=3)
    image.save(tmp_path / "stroke.png")
    return tmp_path / "stroke.png"


def test_a_few_lines_are_open_and_what_settles_it_is_said(stroke: Path) -> None:
    said = run(f"canny={stroke}", "--prompt", "an apple")
    assert "without a prompt: open, quick pictures of three seeds agree by 0." in said
    assert "say in the prompt what it shows" in said
    assert re.search(r"with a prompt: (not )?open, quick pictures", said)


def test_without_drawing_a_few_lines_may_be_open(stroke: Path) -> None:
    assert "without a prompt: may be open (below 5%): if so, draw more of the outline" in run(
        f"canny={stroke}", "--no-draw"
    )
    found = json.loads(run(f"canny={stroke}", "--no-draw", "--json"))
    for one in (found["without_prompt"], found["with_prompt"]):
        assert one["may_be_open"] is True
        assert one["open"] is None


def test_dashes_that_the_control_follows_are_not_open(tmp_path: Path) -> None:
    edges = make_map("canny", open_image(EXAMPLES / "house.webp").resize((128, 128)), None, {})
    Image.fromarray(made_ambiguous(np.asarray(edges), "dashed 1/2", "house")).save(tmp_path / "dashes.png")
    found = json.loads(run(f"canny={tmp_path / 'dashes.png'}", "--json"))
    assert found["without_prompt"]["may_be_open"] is True
    assert found["without_prompt"]["open"] is False, found


@pytest.mark.parametrize("name", ["house.webp", "mouse.webp", "lock.webp"])
def test_a_photo_is_annotated_first(name: str) -> None:
    found = json.loads(run(f"canny={EXAMPLES / name}", "--photo", "--json"))
    assert found["without_prompt"]["open"] is found["with_prompt"]["open"] is False


def test_a_blank_map_says_nothing_and_other_kinds_are_not_judged(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "blank.png")
    assert "says nothing, it is black everywhere" in run(f"canny={tmp_path / 'blank.png'}")
    assert "alone" in run(f"depth={EXAMPLES / 'house.webp'}")


def test_a_size_has_the_limits_of_generate(stroke: Path) -> None:
    assert (MAX_SIDE, FACTOR) == (checks.MAX_SIDE, 8)
    assert run(f"canny={stroke}", "--size", "8x256")
    for size in ("9999999999x9", "60000x60000", "4104x8", "100x100", "8x9"):
        with pytest.raises(TetherError, match=f"--size {size}: width and height must be multiples of 8 up to 4096"):
            run(f"canny={stroke}", "--size", size)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("canny=no/such.png", "no file"),
        ("cany=no/such.png", "did you mean canny"),
        ("canny", "write KIND=IMAGE"),
        ("canny=doodle.png:0.5", "has settings of a control"),
        ("canny=doodle.png,low=3", "has settings of a control"),
        ("canny=doodle.png --prompt cat --no-draw", "--prompt has no effect without drawing"),
    ],
)
def test_what_cannot_be_right_is_refused(argument: str, message: str) -> None:
    with pytest.raises(TetherError, match=message):
        run(*argument.split())
