from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

_PROGRAM = Path(__file__).with_name("tiny.py")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """`tiny.py` as a module."""
    spec = importlib.util.spec_from_file_location("tiny", _PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Exactness is promised for the same number of threads; one is also the fastest for models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def start() -> Any:
    """Starts `tiny.py OUT SETTING=VALUE ...` as a process of its own; what still runs at the end is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def run(out: Path, environment: dict[str, str] | None = None, **settings: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(_PROGRAM), str(out), *(f"{name}={value}" for name, value in settings.items())]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | (environment or {})
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


Start = Callable[..., subprocess.Popen[bytes]]
