"""Every image that commit 2ffee90 drew is drawn again, the same to the byte; those of weights that are replaced say so.

The golden files are compared byte for byte, image and request alike, on a machine that rounds as the recording one
does: the same processor make and instruction sets (`machine` in golden.json). Other processors sum in another order,
so there the request must be the same text and no value of the image may differ by more than `ELSEWHERE` levels of 255.
README.md says how the files were made.
"""

from __future__ import annotations

import json
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app
from tether.images import save_png
from tether.sampling import Session
from tether.sampling.request import read_request

HERE = Path(__file__).parent
FACTS: dict[str, Any] = json.loads((HERE / "golden.json").read_text())
NAMES = sorted(FACTS["pictures"])
FIRST_EDITION = ("shipped", "shipped-control")
"""Drawn by the first edition of the shipped weights; the package has later ones now."""
REPEATED = [name for name in NAMES if name not in FIRST_EDITION]
ELSEWHERE = 1
ELSEWHERE_BFLOAT16 = 16
"""A bfloat16 has 8 bits: one rounding that falls the other way moves an image by several levels."""
OTHER_RULES = ("bfloat16", "inpaint", "inpaint-base", "inpaint-control", "long-prompt", "xl")
"""Commands whose new requests draw otherwise: inpainting pastes what is kept, prompts have another syntax, latents are
float32 between the steps."""


@pytest.fixture
def exact(drawing: ModuleType) -> bool:
    """Whether this machine, and PyTorch and diffusers on it, round as those that drew the golden files."""
    recorded = FACTS["versions"]
    return drawing.machine() == FACTS["machine"] and all(version(n) == recorded[n] for n in ("torch", "diffusers"))


def tether(*arguments: object, differs: bool = False) -> list[Path]:
    """Runs a command; the paths it prints. With `differs` it may end with 1, as `--again` does for other bytes."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code in ((0, 1) if differs else (0,)), result.output
    return [Path(line) for line in result.stdout.splitlines()]


def as_then(command: list[str]) -> list[str]:
    """A command with the defaults of the time: the seed 0, and the spacing of the base also for few steps."""
    seed = [] if "--seed" in command else ["--seed", "0"]
    return [*command, *seed, *([] if "lcm" in command else ["--spacing", "leading"])]


def check_pixels(name: str, picture: Image.Image, golden: Image.Image, exact: bool) -> None:
    assert picture.size == golden.size
    assert picture.mode == golden.mode == "RGB"
    allowed = 0 if exact else ELSEWHERE_BFLOAT16 if name == "bfloat16" else ELSEWHERE
    difference = np.abs(np.asarray(picture, int) - np.asarray(golden, int))
    assert difference.max() <= allowed, f"{(difference > allowed).mean():.1%} of the values differ"


def test_the_golden_files_are_those_that_were_recorded(drawing: ModuleType) -> None:
    assert sorted(drawing.COMMANDS) == NAMES
    assert sorted(path.stem for path in (HERE / "pictures").glob("*.png")) == sorted([*NAMES, "python-mask"])
    for name, fact in FACTS["pictures"].items():
        path = HERE / "pictures" / f"{name}.png"
        assert sha256(path.read_bytes()).hexdigest() == fact["file"], name
        with Image.open(path) as picture:
            assert sha256(picture.tobytes()).hexdigest() == fact["pixels"], name
            assert np.asarray(picture).std() > 20, f"{name} shows nothing that could change"
    assert len({fact["pixels"] for fact in FACTS["pictures"].values()}) == len(NAMES)


def test_the_golden_files_have_every_scheduler() -> None:
    requests = [Image.open(HERE / "pictures" / f"{name}.png").text["tether"] for name in NAMES]  # type: ignore[attr-defined]
    used = {json.loads(request)["scheduler"] for request in requests}
    assert used == {"ddim", "dpmpp-2m", "unipc", "euler", "euler-a", "lcm"}


@pytest.mark.parametrize("name", REPEATED)
def test_again_repeats_a_golden_file_to_the_byte(
    name: str, models: Path, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = HERE / "pictures" / f"{name}.png"
    monkeypatch.chdir(models)
    (path,) = tether("generate", "--again", golden, "-o", tmp_path, differs=not exact)
    with Image.open(path) as ours, Image.open(golden) as theirs:
        assert ours.text == theirs.text  # type: ignore[attr-defined]
        check_pixels(name, ours, theirs, exact)
        if exact:
            assert sha256(ours.tobytes()).hexdigest() == FACTS["pictures"][name]["pixels"]
            assert path.read_bytes() == golden.read_bytes()


def drawn_by_the_first_rules(path: Path) -> Path:
    """An image drawn again by the rules of the golden files."""
    request = read_request(path)
    (drawn,) = Session().run(request.model_copy(update={"rules": 1}))
    save_png(drawn.image, path, drawn.metadata)
    return path


@pytest.mark.parametrize("name", REPEATED)
def test_the_command_of_a_golden_file_draws_it_from_the_photo(
    name: str, drawing: ModuleType, models: Path, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = HERE / "pictures" / f"{name}.png"
    monkeypatch.chdir(models)
    fitting = import_module("tether.images.fit")  # photos were reduced by whole pixels then, also by less than two
    monkeypatch.setattr(fitting, "_filter", lambda *given, chosen=fitting._filter: chosen(*given[:4], True))
    paths = tether("generate", *as_then(drawing.COMMANDS[name]), "-o", tmp_path)
    path = paths[drawing.KEPT.get(name, 0)]
    if name in OTHER_RULES:
        path = drawn_by_the_first_rules(path)
    with Image.open(path) as ours, Image.open(golden) as theirs:
        check_pixels(name, ours, theirs, exact)
        requests = [json.loads(picture.text["tether"]) for picture in (ours, theirs)]  # type: ignore[attr-defined]
    conditions = [[control["condition"] for control in request["controls"]] for request in requests]
    assert conditions[0] == conditions[1]  # the photo was fitted and annotated as before


@pytest.mark.parametrize("name", FIRST_EDITION)
def test_again_says_that_other_weights_drew_an_image_of_the_first_edition(
    name: str, models: Path, tmp_path: Path
) -> None:
    golden = HERE / "pictures" / f"{name}.png"
    result = CliRunner().invoke(app, ["generate", "--again", str(golden), "-o", str(tmp_path)])
    assert "of 255: it was made with other weights" in result.output


def test_a_mask_for_each_control_draws_what_it_drew(
    drawing: ModuleType, models: Path, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    picture, latents = drawing.draw_masked()
    with Image.open(HERE / "pictures" / "python-mask.png") as golden:
        check_pixels("python-mask", picture, golden, exact)
    assert latents.dtype == torch.float32
    if exact:
        assert sha256(picture.tobytes()).hexdigest() == FACTS["python_mask"]["pixels"]
        assert sha256(latents.numpy().tobytes()).hexdigest() == FACTS["python_mask"]["latents"]


def test_annotators_find_what_they_found(drawing: ModuleType, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    assert drawing.annotations() == FACTS["annotations"]


@pytest.mark.slow
def test_the_demo_draws_the_sheet_of_the_docs(exact: bool, tmp_path: Path) -> None:
    torch.set_num_threads(2)  # as the sheet was drawn; on one thread the last bits differ
    golden = HERE.parents[1] / "docs" / "images" / "demo.png"
    tether("demo", "-o", tmp_path)
    with Image.open(tmp_path / "sheet.png") as ours, Image.open(golden) as theirs:
        check_pixels("demo", ours, theirs, exact)
    if exact:
        assert (tmp_path / "sheet.png").read_bytes() == golden.read_bytes()
