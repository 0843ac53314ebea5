"""`tether demo`. That it draws the sheet of the docs is a golden test."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tether.cli import app, demo
from tether.errors import TetherError
from tether.sampling.request import read_request


def test_the_demo_draws_every_prompt_over_every_set_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [("house.webp", ["a house, 3d emoji"]), ("doodle.png", ["a peach, 3d emoji"])]
    monkeypatch.setattr(demo, "EXAMPLES", examples)
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--seed", "3"], catch_exceptions=False)
    assert result.exit_code == 0
    first, *paths, last = result.stdout.splitlines()
    assert first.startswith("loaded the base and the canny control in ")
    assert [Path(path).name for path in paths] == ["a-house-3d-emoji-3.png", "a-peach-3d-emoji-3.png"]
    assert last.startswith("2 images in ")
    assert last.endswith(f"the sheet: {tmp_path / 'sheet.png'}")
    requests = [read_request(Path(path)) for path in paths]
    assert [request.controls[0].source for request in requests] == ["house.webp", "doodle.png"]
    assert {request.controls[0].sides for request in requests} == {None}  # what the control recommends
    side = requests[0].size[0] if requests[0].size else 0
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (3 * (side + 6) + 6, 2 * (side + 6 + 28) + 6)
    row = [sheet.crop((6 + k * (side + 6), 6, 6 + k * (side + 6) + side, 6 + side)) for k in range(3)]
    assert row[2].tobytes() == Image.open(paths[0]).tobytes()
    assert set(row[1].convert("L").tobytes()) == {0, 255}

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--seed", "3"], catch_exceptions=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before  # not doubled

    Image.new("RGB", (8, 8)).save(tmp_path / "a-peach-3d-emoji-3.png")
    with pytest.raises(TetherError, match=r"3\.png exists.*or --force"):
        CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--seed", "3"], catch_exceptions=False)
