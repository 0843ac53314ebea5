"""Another package adds a kind in one file: an installed one is found, a broken one is skipped with a warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SLOPES = Path(__file__).with_name("slopes.py")


def install(site: Path, package: str, source: str, entry: str) -> None:
    """An installed package as Python sees it: its module, and metadata with an entry point."""
    (site / f"{package}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tether.kinds]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages, with the kind "slopes"."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "tether_slopes", SLOPES.read_text(), "slopes = tether_slopes:KIND")
    return site


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A bright bar from column 8 to 15 on black."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:16] = 200
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python in an environment where the folder's packages are installed."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *map(str, arguments)]
    # diffusers 0.36 warns of a missing GPU when it is imported.
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore:CUDA is not available"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_new_kind_with_annotator_metric_and_flip_rule_is_one_file_of_forty_lines() -> None:
    assert len(SLOPES.read_text().splitlines()) <= 40


def test_the_command_line_annotates_with_an_installed_kind(site: Path, photo: Path, tmp_path: Path) -> None:
    done = run(site, "-m", "tether", "annotate", "slopes", photo, "-o", tmp_path / "map.png", "--set", "threshold=50")
    assert (done.returncode, done.stderr) == (0, "")
    map_ = np.asarray(Image.open(tmp_path / "map.png"))
    expected = np.zeros((16, 32, 3), np.uint8)
    expected[:, 7:9, 0] = 255  # brighter to the right, by 100 levels a pixel
    expected[:, 15:17, 1] = 255
    assert np.array_equal(map_, expected)
    assert "slopes" in run(site, "-m", "tether", "annotate", "--list").stdout
    wrong = run(site, "-m", "tether", "annotate", "slopes", photo, "-o", tmp_path / "no.png", "--set", "threshold=999")
    assert (wrong.returncode, wrong.stderr) == (2, "tether: slopes threshold must be from 0 to 255, not 999.0\n")


def test_metric_flip_size_and_name_of_an_installed_kind_are_used(site: Path, photo: Path) -> None:
    code = f"""
import json
from PIL import Image
from tether.datasets.latents.crops import Crop, may_flip
from tether.evaluation import fidelity
from tether.images import open_image
from tether.kinds import annotate, fit_map, flip_map, guess_kind
image = open_image({str(photo)!r})
mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
map_ = annotate("slopes", image)
print(json.dumps({{
    "own": fidelity("slopes", image, map_),
    "other": fidelity("slopes", mirrored, map_),
    "flip": flip_map(map_, "slopes").tobytes() == annotate("slopes", mirrored).tobytes(),
    "crop": Crop(0, 0, 16, True).of_condition(map_, "slopes", (16, 16)).tobytes()
        == annotate("slopes", image.crop((0, 0, 17, 16)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)).crop(
            (1, 0, 17, 16)).tobytes(),
    "may_flip": may_flip("slopes", "a bar"),
    "colors": len(fit_map(map_, "slopes", (50, 30)).getcolors()),
    "guess": guess_kind("my_slope_control.safetensors"),
}}))
"""
    done = run(site, "-c", code)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "own": 1.0,
        "other": 0.0,
        "flip": True,
        "crop": True,
        "may_flip": True,
        "colors": 3,
        "guess": "slopes",
    }


@pytest.mark.parametrize(
    ("source", "entry", "words"),
    [
        ("raise RuntimeError('stumbled\\nin two lines')", "bad = broken:KIND", "stumbled"),
        ("", "bad = broken:KIND", "has no attribute 'KIND'"),
        ("KIND = 'canny'", "bad = broken:KIND", "expected a tether.kinds.Kind, found a str"),
        ("KIND = 3", "bad = broken:KIND", "expected a tether.kinds.Kind, found a int"),
        ("from tether.kinds import Kind\nKIND = Kind('canny')", "bad = broken:KIND", "already is a kind"),
        ("from tether.kinds import Kind\nKIND = Kind('x', names='(')", "bad = broken:KIND", "regular expression"),
        ("", "bad = nowhere:KIND", "No module named 'nowhere'"),
    ],
)
def test_a_broken_plugin_is_named_in_a_warning_and_costs_nothing_else(
    site: Path, source: str, entry: str, words: str
) -> None:
    install(site, "broken", source, entry)
    done = run(site, "-c", "import tether.kinds; print(*tether.kinds.annotator_names())")
    assert done.returncode == 0
    assert {"canny", "scribble", "slopes"} <= set(done.stdout.split())
    assert f"skipped the kind 'bad' ({entry.split(' = ')[1]})" in done.stderr
    assert words in done.stderr


def test_an_entry_point_may_name_several_kinds(site: Path) -> None:
    source = "from tether.kinds import Kind\nKINDS = (Kind(name) for name in ('one', 'two'))"
    install(site, "several", source, "several = several:KINDS")
    done = run(site, "-c", "import tether.kinds; print(*list(tether.kinds.kinds())[-3:])")
    assert (done.stderr, set(done.stdout.split())) == ("", {"one", "two", "slopes"})
