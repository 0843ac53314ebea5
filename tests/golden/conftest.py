from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent


def load_script(name: str) -> ModuleType:
    """A script of this folder as a module."""
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def drawing() -> ModuleType:
    """`draw.py`."""
    return load_script("draw")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the golden images were drawn with."""
    folder = tmp_path_factory.mktemp("golden")
    load_script("models").build_models(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_training() -> ModuleType:
    """`tiny_training.py`."""
    return load_script("tiny_training")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The golden facts were recorded on one thread; sums over several are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
