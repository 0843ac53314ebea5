"""The study of feedback runs, on a tiny base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tether import cli


def test_both_ways_are_trained_from_the_same_control_and_measured(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["study", "feedback", "--quick", "--out", "out", "--base", str(tiny_folder)]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(Path("out/findings.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["before", "plain training", "with feedback"]
    assert found["verdict"] == "not judged"
    result = json.loads(Path("out/runs/with feedback-0/result.json").read_text())
    assert result["settings"]["auxiliary_losses"][0]["loss"] == "feedback"
