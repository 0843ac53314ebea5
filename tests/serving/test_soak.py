"""More work than the server can do; `benchmarks/soak.py` does this for minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_under_overload_what_is_accepted_is_drawn_once_and_right() -> None:
    command = [sys.executable, str(SCRIPT), "--seconds", "8"]
    found = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0, found.stdout + found.stderr
