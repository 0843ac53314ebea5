"""Modules that have moved: an import by the old name gives the module at its new place, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "install"]

MOVED = {
    "tether.annotators": "tether.kinds",
    "tether.base.checkpoints": "tether.files.checkpoints",
    "tether.base.clip_vocabulary": "tether.formats.clip_vocabulary",
    "tether.base.control_file": "tether.control.files",
    "tether.base.controls": "tether.control.controlnet",
    "tether.base.convert": "tether.conversion",
    "tether.base.hub": "tether.files.hub",
    "tether.base.landing": "tether.files.materialize",
    "tether.base.pickles": "tether.files.pickles",
    "tether.base.recognise": "tether.formats.recognize",
    "tether.base.transfer": "tether.control.transfer",
    "tether.base.writing": "tether.files.writing",
    "tether.control.residuals": "tether.control.signal",
    "tether.datasets.builtin": "tether.datasets.synthetic.builtin",
    "tether.datasets.cache": "tether.datasets.latents.cache",
    "tether.datasets.cached": "tether.datasets.latents.samples",
    "tether.datasets.circles": "tether.datasets.synthetic.circles",
    "tether.datasets.crops": "tether.datasets.latents.crops",
    "tether.datasets.emoji": "tether.datasets.synthetic.emoji",
    "tether.datasets.encoders": "tether.datasets.latents.encoders",
    "tether.datasets.samples": "tether.datasets.prepare",
    "tether.datasets.scenes": "tether.datasets.synthetic.scenes",
    "tether.sampling.denoise": "tether.sampling.loop",
    "tether.sampling.schedulers": "tether.sampling.samplers",
}
"""Old name -> new name."""


class _Finder(MetaPathFinder, Loader):
    """Finds the old names, and the modules below them."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if _new_name(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = _new_name(spec.name)
        assert new is not None
        warnings.warn(f"{spec.name} has moved to {new}", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None  # the import system has put the old name's on it
        module.__spec__ = self._specs.pop(module.__spec__.name)


def _new_name(name: str) -> str | None:
    """The new name of a module that has moved."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        old = ".".join(parts[:count])
        if old in MOVED:
            return ".".join([MOVED[old], *parts[count:]])
    return None


def install() -> None:
    """Makes the old names importable; once a process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
