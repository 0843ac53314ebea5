"""Old module names give the modules at their new places."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from tether._moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_gives_the_module_at_its_new_place(old: str, new: str) -> None:
    module = import_module(new)
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new}"):
        found = import_module(old)
    assert found is module
    assert module.__name__ == new
    assert module.__spec__ is not None
    assert module.__spec__.name == new


def test_modules_below_a_moved_package_are_the_same_objects() -> None:
    code = "import tether.annotators.canny as old, tether.kinds.canny as new; assert old is new"
    subprocess.run([sys.executable, "-c", code], check=True)
