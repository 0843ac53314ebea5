"""The commands on docs/training.md are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tether.cli import app, train
from tether.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text().replace("\\\n", " ")
COMMANDS = [match[1] for match in re.finditer(r"^(?:.*-m )?tether train (.*)$", TEXT, re.MULTILINE)]


def test_the_page_has_its_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_valid_settings(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settled: list[TrainConfig] = []
    monkeypatch.setattr(train, "_run", settled.append)
    monkeypatch.setattr(train, "_print_plan", settled.append)
    CliRunner().invoke(app, ["train", *shlex.split(command)], catch_exceptions=False)
    (config,) = settled
    assert config.out.parts[0] == "runs"


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(re.findall(r"--set\s+([a-z_]+)=", TEXT))
    assert named
    assert named <= set(TrainConfig.model_fields)
