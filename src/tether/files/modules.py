"""Python files that users name: studies, losses. Their code is run."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from tether.errors import TetherError

__all__ = ["module_of_file"]


def module_of_file(path: Path, what: str) -> ModuleType:
    """Runs a Python file as a module.

    It is entered into `sys.modules`, where dataclasses look the types of their fields up.

    Args:
        path: the file.
        what: what it should define, for the error: "study".

    Raises:
        TetherError: when there is no such file, or its code raises an exception.
    """
    if not path.is_file():
        raise TetherError(f"there is no {what} at {path}")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = spec_from_file_location(f"tether_file_{place}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TetherError(f"{path} is not a Python file: give a {what} in a file that ends in .py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise TetherError(f"{path} does not load: {type(error).__name__}: {error}") from error
    return module
