"""One process trains in a folder at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tether.errors import TetherError
from tether.training.lock import locked

OTHER = (
    "import sys; from pathlib import Path; from tether.training.lock import locked\nwith locked(Path(sys.argv[1])): {}"
)


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER.format("print('in', flush=True); sys.stdin.read()"), str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(TetherError, match="is being trained by another process"), locked(tmp_path / "run"):
            pass
        other.kill()
        other.wait()
    with locked(tmp_path / "run"):
        pass


def test_only_the_main_process_of_a_run_holds_its_folder(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path, wanted=False):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TetherError, match="cannot be written"), locked(tmp_path / "file"):
        pass
