"""The options of `tether generate`: their defaults, and older names."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from tether.cli import app
from tether.cli.options import GenerateOptions, with_options
from tether.sampling import ControlRequest, Request
from tether.sampling.engines import engines
from tether.sampling.samplers import SCHEDULERS


def shown_defaults() -> dict[str, str]:
    """Option -> the default that `--help` shows, where that is a text."""
    hints = get_type_hints(GenerateOptions, include_extras=True)
    shown = {one.name: hints[one.name].__metadata__[0].show_default for one in fields(GenerateOptions)}
    return {name: default for name, default in shown.items() if isinstance(default, str)}


def test_the_help_shows_the_defaults_of_a_request() -> None:
    shown = shown_defaults()
    assert len(shown) == 16
    request = Request(prompt="")
    for name, default in shown.items():
        model = ControlRequest if name in ControlRequest.model_fields else request
        field = ControlRequest.model_fields[name].default if model is ControlRequest else getattr(request, name)
        assert default == str(field), name
    for one in fields(GenerateOptions):
        assert one.default in (None, False) or one.name == "out"


def test_the_help_names_every_scheduler_and_engine() -> None:
    output = re.sub(r"\s+", " ", CliRunner().invoke(app, ["generate", "--help"]).stdout)
    named = re.search(r"--scheduler \S+ (.*?)\[default", output)
    assert named is not None
    assert set(re.findall(r"[a-z0-9-]+", named[1])) - {"or"} == set(SCHEDULERS)
    named = re.search(r"--engine \S+ What computes: (.*?)\.", output)
    assert named is not None
    assert set(re.findall(r"[a-z]+", named[1])) - {"or"} == {"auto", *engines()}


@pytest.mark.parametrize("name", ["--guidance ", "--denoise ", "--negative "])
def test_older_names_are_hidden(name: str) -> None:
    output = CliRunner().invoke(app, ["generate", "--help"]).stdout
    assert name not in output


def test_a_commands_options_are_the_fields_of_a_dataclass() -> None:
    from dataclasses import dataclass

    @dataclass
    class Values:
        name: Annotated[str, typer.Argument()]
        times: Annotated[int, typer.Option(min=1)] = 2

    seen: list[Values] = []
    command = typer.Typer()

    @command.command()
    @with_options(Values)
    def run(context: typer.Context, values: Values) -> None:
        """Runs."""
        seen.append(values)

    assert CliRunner().invoke(command, ["x", "--times", "3"]).exit_code == 0
    assert CliRunner().invoke(command, ["y"]).exit_code == 0
    assert seen == [Values("x", 3), Values("y", 2)]
    assert CliRunner().invoke(command, ["x", "--times", "0"]).exit_code == 2
    assert "Runs." in CliRunner().invoke(command, ["--help"]).stdout
