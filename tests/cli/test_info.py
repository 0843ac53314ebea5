"""`tether info` shows what a bug report needs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app
from tether.errors import TetherError
from tether.files import versions
from tether.images import save_png
from tether.sampling import ControlRequest, Request
from tether.weights import shipped, shipped_controls


def rows() -> dict[str, str]:
    result = CliRunner().invoke(app, ["info"], catch_exceptions=False)
    assert result.exit_code == 0
    return {line[:24].strip(): line[25:] for line in result.output.splitlines()}


def test_versions_device_and_shipped_weights_are_shown() -> None:
    shown = rows()
    assert shown["torch"] == version("torch")
    assert shown["python"].startswith(platform.python_version())
    assert shown["shipped base"].endswith(str(shipped("base")))
    assert {f"shipped control {kind}" for kind in shipped_controls()} <= shown.keys()
    assert "canny" in shown["annotators"]


def test_a_package_that_is_missing_is_shown_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", absent)
    assert rows()["torch"] == "not installed"


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(2, False, "Accelerator 0, Accelerator 1"), (0, True, "Apple GPU (mps)"), (0, False, "CPU, ")],
)
def test_the_device_is_named(cuda: int, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda k: f"Accelerator {k}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert rows()["device"].startswith(expected)


def test_a_file_of_ours_shows_what_it_was_made_from(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    control = ControlRequest(ref="canny", condition=image, strength=0.5)
    request = Request(prompt="a cat", seed=7, init=image, controls=[control])
    save_png(image, tmp_path / "x.png", request.metadata(0))
    result = CliRunner().invoke(app, ["info", str(tmp_path / "x.png")], catch_exceptions=False)
    shown = {line[:24].strip(): line[25:] for line in result.output.splitlines()}
    assert (shown["prompt"], shown["seed"], shown["init"]) == ("a cat", "7", "image of 8x8")
    assert shown["control"] == "ref canny, strength 0.5"
    with pytest.raises(TetherError, match="there is no file"):
        CliRunner().invoke(app, ["info", str(tmp_path / "none.png")], catch_exceptions=False)
