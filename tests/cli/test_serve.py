"""`tether serve`: what is refused before it listens, and its check."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tether.cli import app
from tether.errors import TetherError


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tether", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bases", "/no/such/folder"], "--bases /no/such/folder is not a folder"),
        (["--log-level", "loud"], "--log-level loud"),
        (["--engine", "steam"], "unknown engine 'steam': choose one of auto, "),
        (["--token-file", "/no/such/file"], "there is no file"),
        (["--replicas", "2"], "--replicas is for --ray: give it too, or leave it out"),
        (["--replica-gpus", "0"], "--replica-gpus is for --ray"),
        (["--keep-gb", "inf"], "invalid value for '--keep-gb'"),
        (["--keep-gb", "nan"], "invalid value for '--keep-gb'"),
        (["--keep-days", "nan"], "invalid value for '--keep-days'"),
        (["--token-file", "."], ". is a folder: expected a file with the token alone"),
        (["--data", __file__], "is a file: give a folder"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = serve("--data", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def in_process(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["serve", *arguments], env=environment)


def test_check_tries_everything_and_draws(tmp_path: Path) -> None:
    done = in_process("--data", str(tmp_path / "data"), "--port", "0", "--check")
    assert done.exit_code == 0, done.output
    assert "tether draws on cpu" in done.output


def test_the_engine_is_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("tether.serving.run.serve", lambda settings, *_: seen.append(settings.engine))
    for words in ([], ["--engine", "auto"]):
        assert in_process("--data", str(tmp_path), *words).exit_code == 0
    assert seen == ["eager", "auto"]
    monkeypatch.setattr("tether.cli.serve.find_spec", lambda name: None if name == "openvino" else name)
    done = in_process("--data", str(tmp_path), "--engine", "openvino")
    assert "--engine openvino needs openvino: pip install 'tether-control[openvino]'" in str(done.exception)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = in_process("--data", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert isinstance(done.exception, TetherError)
    assert "choose another --port" in str(done.exception)


@pytest.mark.parametrize("token", ["", "short"])
def test_an_open_address_needs_a_long_token(tmp_path: Path, token: str) -> None:
    done = in_process("--data", str(tmp_path), "--host", "0.0.0.0", TETHER_TOKEN=token)
    assert isinstance(done.exception, TetherError)
    assert "token" in str(done.exception)


def test_a_token_of_the_environment_has_no_space_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr("tether.serving.run.serve", lambda settings, *_: seen.append(settings.token))
    in_process("--data", str(tmp_path), TETHER_TOKEN=" a-token-that-is-long\n")
    assert seen == ["a-token-that-is-long"]


def test_the_token_is_the_one_word_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token of words")
    done = in_process("--data", str(tmp_path), "--token-file", str(tmp_path / "token"))
    assert "expected the token alone" in str(done.exception)
