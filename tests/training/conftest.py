from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tether.datasets.build import build_dataset

_PROGRAM = Path(__file__).with_name("tiny.py")
_PATIENCE = 180.0  # seconds, for trainings of seconds


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """`tiny.py` as a module."""
    spec = importlib.util.spec_from_file_location("tiny", _PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built data set of 24 circles with canny maps."""
    folder = tmp_path_factory.mktemp("circles") / "data"
    build_dataset("circles", folder, "canny", size=64, count=24, workers=0)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Exactness is promised for the same number of threads; one is also the fastest for models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Training:
    """A training in a process of its own."""

    def __init__(self, server: Server, pid: int) -> None:
        self.server, self.pid = server, pid
        self._code: int | None = None

    def running(self) -> bool:
        """Whether it has not ended; it may be about to."""
        if self._code is not None:
            return False
        status = Path(f"/proc/{self.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """The exit code, negative where a signal ended it: SIGABRT where it has not ended after minutes."""
        if self._code is None:
            late = time.monotonic() + _PATIENCE
            while self.running():
                time.sleep(0.01)
                if time.monotonic() > late:
                    os.kill(self.pid, signal.SIGABRT)  # faulthandler shows where it hangs
                    break
            self._code = self.server.ask({"wait": self.pid})
        return self._code


class Server:
    """`tiny.py`, waiting for orders."""

    def __init__(self) -> None:
        variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True
        )

    def ask(self, task: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, out: Path, environment: dict[str, str] | None = None, **settings: Any) -> Training:
        return Training(self, self.ask({"out": str(out), "settings": settings, "environment": environment or {}}))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    if not hasattr(os, "fork") or not Path("/proc/self/stat").exists():
        pytest.skip("needs Linux")
    running = Server()
    yield running
    running.process.kill()
    running.process.wait()
