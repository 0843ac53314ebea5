"""`tether` as a process: exit codes, one line an error, no heavy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tether import __version__, cli


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_ctrl_c_is_one_line_and_exit_130() -> None:
    done = run(
        "import signal, sys\n"
        "from tether import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background starts without
        "cli.app.command('wait')(lambda: signal.raise_signal(signal.SIGINT))\n"
        "sys.argv = ['tether', 'wait']\n"
        "cli.main()"
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "tether: stopped; every image already written is complete\n"


def test_ctrl_c_while_the_commands_are_imported_is_one_line_and_exit_130() -> None:
    done = run(
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from tether.__main__ import main\n"
        "main()"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "tether: stopped\n")


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["demo", "--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = run(
        f"import sys; sys.argv = ['tether', *{arguments}]\n"
        "from tether.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'cv2', 'numpy', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_wrong_request_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tether", "generate", "x", "--size", "abc"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "tether: 'abc' is not a size: write WIDTHxHEIGHT, such as 512x768\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), f"tether: {cli.OUT_OF_MEMORY}\n"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9"),
            f"tether: {cli.OUT_OF_MEMORY}\n",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), f"tether: {cli.OUT_OF_MEMORY}\n"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            f"tether: {cli.OUT_OF_MEMORY}\n",
        ),
        (
            RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
            f"tether: {cli.OUT_OF_MEMORY}\n",
        ),
        (RuntimeError("Invalid buffer size: 40.00 GiB"), f"tether: {cli.OUT_OF_MEMORY}\n"),
        (ValueError("one\ntwo"), "tether: ValueError: one (TETHER_TRACEBACK=1 shows the traceback)\n"),
        (
            OSError(28, "No space left on device", "out/x.png"),
            "tether: out/x.png: No space left on device (TETHER_TRACEBACK=1 shows the traceback)\n",
        ),
        (KeyError(), "tether: KeyError: no message (TETHER_TRACEBACK=1 shows the traceback)\n"),
    ],
)
def test_any_other_failure_is_one_line_and_exit_1(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.delenv("TETHER_TRACEBACK", raising=False)
    for name in cli.QUIET:
        monkeypatch.setenv(name, "error")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", b"\xff \xc3\xa9"), ("ascii", rb"\udcff \xe9")])
def test_names_that_standard_output_cannot_print_end_nothing(encoding: str, printed: bytes) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys\nfrom tether import cli\ncli.app.command('tell')(lambda: print('\\udcff \\xe9'))\n"
            "sys.argv = ['tether', 'tell']\ncli.main()",
        ],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stdout.rstrip()) == (0, printed), done.stderr


def test_the_version_is_that_of_the_package() -> None:
    done = run("import sys; sys.argv = ['tether', '--version']\nfrom tether.cli import main; main()")
    assert (done.returncode, done.stdout) == (0, f"tether {__version__}\n")


def test_h_is_help_everywhere() -> None:
    for command in ([], ["generate"], ["dataset", "build"]):
        assert CliRunner().invoke(cli.app, [*command, "-h"]).stdout.startswith("Usage")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--foo"], "--foo"),
        (["generat"], "no such command 'generat'. Did you mean 'generate'"),
        (["generate", "x", "--count", "0"], "invalid value for '--count'"),
        (["generate", "x", "--steps"], "option '--steps' requires an argument; see tether"),
        (["generate", "x", "y"], "(y); see tether generate --help"),
        (["dataset", "build", "a"], "see tether dataset build --help"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tether", *arguments])
    for name in cli.QUIET:
        monkeypatch.setenv(name, "error")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("tether: ")
    assert told.count("\n") == 1
    assert line in told


def test_a_command_without_arguments_shows_its_help() -> None:
    done = run("import sys; sys.argv = ['tether']\nfrom tether.cli import main; main()")
    assert "Commands:" in done.stdout + done.stderr


def test_a_mistyped_base_is_told_before_anything_heavy_is_imported() -> None:
    done = run(
        "import sys; sys.argv = ['tether', 'generate', 'x', '--base', './none']\n"
        "from tether.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'cv2', 'numpy', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr == "tether: no base at ./none: there is no such file or folder, and it is not a name on the hub\n"
    )
