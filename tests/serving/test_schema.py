"""Requests that are made from the OpenAPI document by schemathesis; `benchmarks/fuzz.py` sends more of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def test_every_route_answers_what_its_document_says() -> None:
    """Right and wrong requests: no error of the server, no other status, no answer that does not come."""
    command = [sys.executable, str(SCRIPT), "--requests", "200", "--examples", "4"]
    found = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0, found.stdout + found.stderr
