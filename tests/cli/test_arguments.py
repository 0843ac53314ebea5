"""What the command line understands, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tether.cli.arguments import parse_control, parse_sides, parse_size, parse_weighting
from tether.cli.output import free_path, slug
from tether.errors import TetherError


@pytest.mark.parametrize(
    ("text", "ref", "image", "strength", "window"),
    [
        ("canny=photo.jpg", "canny", "photo.jpg", 1.0, (0.0, 1.0)),
        ("canny=photo.jpg:0.8", "canny", "photo.jpg", 0.8, (0.0, 1.0)),
        ("canny=photo.jpg@0.1-0.6", "canny", "photo.jpg", 1.0, (0.1, 0.6)),
        ("canny=a/b.png:.5@0-.75", "canny", "a/b.png", 0.5, (0.0, 0.75)),
        ("runs/a/control=C:/x.png:2", "runs/a/control", "C:/x.png", 2.0, (0.0, 1.0)),
    ],
)
def test_the_control_grammar(text: str, ref: str, image: str, strength: float, window: tuple) -> None:
    argument = parse_control(text)
    assert (argument.ref, argument.image, argument.strength, argument.window) == (ref, Path(image), strength, window)


@pytest.mark.parametrize("text", ["canny", "=x.png", "canny="])
def test_a_malformed_control_is_refused(text: str) -> None:
    with pytest.raises(TetherError, match="KIND=IMAGE"):
        parse_control(text)


def test_an_equals_sign_in_the_path_of_a_control_is_no_end_of_it(tmp_path: Path) -> None:
    (tmp_path / "a=b.png").touch()
    argument = parse_control(f"runs/lr=1e-4/control={tmp_path / 'a=b.png'}:0.5")
    assert (argument.ref, argument.image) == ("runs/lr=1e-4/control", tmp_path / "a=b.png")
    assert parse_control("canny=no/such=file.png").ref == "canny"


def test_sizes_and_weightings() -> None:
    assert parse_size("512x768") == (512, 768)
    assert parse_size("64") == (64, 64)
    assert parse_weighting("cfg-rw") == "cfg-rw"
    assert parse_weighting("1,0.5,0") == [1.0, 0.5, 0.0]
    for wrong in ("axb", "12x", "-5"):
        with pytest.raises(TetherError):
            parse_size(wrong)
    with pytest.raises(TetherError):
        parse_weighting("1,x")


def test_sides() -> None:
    assert [parse_sides(text) for text in ("both", "conditional", "0.75", ".5", "1")] == [
        "both",
        "conditional",
        0.75,
        0.5,
        1.0,
    ]
    for wrong in ("left", "-0.5", "nan", ""):
        with pytest.raises(TetherError, match="share from 0 to 1"):
            parse_sides(wrong)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    first = free_path(tmp_path, slug("A red apple, 3D emoji!"))
    assert first.name == "a-red-apple-3d-emoji.png"
    first.touch()
    assert free_path(tmp_path, "a-red-apple-3d-emoji").name == "a-red-apple-3d-emoji-2.png"


def test_ctrl_c_is_one_line_and_exit_130() -> None:
    code = (
        "import signal, sys\n"
        "from tether import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background starts without
        "cli.app.command('wait')(lambda: signal.raise_signal(signal.SIGINT))\n"
        "sys.argv = ['tether', 'wait']\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "tether: stopped; every picture already written is whole\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['tether', '--help']\n"
        "from tether.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'diffusers', 'transformers', 'cv2', 'numpy', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "prompt"),
        (["generate", "x", "--control", "canny"], "KIND=IMAGE"),
        (["generate", "x", "--base", "/no/such/base"], "no base"),
        (["generate", "--again", "/no/such.png"], "such.png"),
        (["generate", "--again", "/no/such.png", "--seed", "3"], "--seed"),
        (["generate", "--again", "/no/such.png", "--control", "canny=x.png"], "--control"),
        (["generate", "x", "--base", "/no/such/base", "--scheduler", "dmp"], "dpmpp-2m"),
        (["generate", "x", "--base", "/no/such/base", "--init", "/no/such.png"], "such.png"),
        (["generate", "x", "--base", "/no/such/base", "--control", "canny=/no/such.png"], "such.png"),
        (["generate", "x", "--base", "/no/such/base", "--size", "abc"], "abc"),
        (["generate", "x", "--base", "/no/such/base", "--size", "0"], "'0' is no size"),
        (["generate", b"caf\xe9".decode(errors="surrogateescape")], "caf?"),
        (["generate", "x", "--size", "64x64", "--lora", ""], "is not a LoRA"),
        (["generate", "x", "--device", "gpu0"], "no device 'gpu0'"),
        (["generate", "x", "--base", "/no/such/base", "--sides", "left"], "left"),
        (["generate", "x", "--base", "/no/such/base", "--weighting", "1,x"], "1,x"),
        (["annotate", "cany", "x.png", "-o", "y.png"], "cany"),
        (["annotate", "canny", "/no/such.png", "-o", "y.png"], "such.png"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tether", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tether: ")
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []
