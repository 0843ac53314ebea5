"""A short start for commands that draw: diffusers without the packages that drawing has no use for.

To import one U-Net, diffusers imports every transformer it has, transformers, peft, accelerate and PyTorch's compiler:
three quarters of what `import` costs a short command. All of these are optional there. So in a process of the command
line they are hidden while the few modules that drawing needs are imported, and are there again afterwards, for whoever
imports them by name. What diffusers built without them stays so until the process ends, its pipelines for example;
`import tether` in a program of your own changes nothing.

TETHER_LEAN=0 turns this off. So do installed packages that add controls or kinds, which may need anything, and an
error: then diffusers is imported as ever.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["DEFERRED", "HIDDEN", "install"]

HIDDEN = ("accelerate", "peft", "transformers")
"""Packages that diffusers does without."""
DEFERRED = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.controlnets",
    "diffusers.models.transformers",
    "diffusers.models.unets",
)
"""Packages that import all of their modules; here, when something in them is asked for that is none of those."""
WANTED = (
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.controlnets.controlnet",
)
PLUGINS = ("tether.controls", "tether.kinds")


def install(short_lived: bool = True) -> None:
    """Makes the first import of diffusers in this process a lean one, and garbage collection rare.

    Args:
        short_lived: whether the process is; in others garbage is collected as ever.
    """
    if short_lived:
        gc.set_threshold(100_000, 50, 100)  # an import makes many objects and little garbage
    if os.environ.get("TETHER_LEAN") != "0" and "diffusers" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds diffusers, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or _has_plugins():
            return spec
        spec.loader = _Lean(spec.loader)
        return spec


def _has_plugins() -> bool:
    """Whether other packages add controls or kinds."""
    points = (point for group in PLUGINS for point in importlib.metadata.entry_points(group=group))
    return any(not point.value.startswith("tether.") for point in points)


class _Lean(Loader):
    """Imports diffusers and the modules that are wanted of it while the rest is out of the way."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            with ExitStack() as stack:
                for name in HIDDEN:
                    stack.enter_context(_hidden(name))
                stack.enter_context(_without_compiler())
                stack.enter_context(_without_listing())
                stack.enter_context(_deferred())
                self.real.exec_module(module)
                for name in WANTED:
                    import_module(name)
        except Exception:  # another version of diffusers, which needs more: as if nothing had been tried
            for name in [one for one in sys.modules if one.startswith("diffusers.")]:
                del sys.modules[name]
            sys.modules[module.__name__] = module
            self.real.exec_module(module)


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """A package that is not imported yet cannot be, and nothing finds it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """The two decorators of PyTorch's compiler that diffusers applies to its own classes do nothing.

    One lets a compiled graph call a class as it is, the other keeps the offloading of groups of layers out of graphs.
    """
    import torch

    name = "torch._dynamo"
    if name in sys.modules:
        yield
        return
    stub: Any = ModuleType(name)
    stub.allow_in_graph = lambda one: one
    stub.disable = lambda fn=None, *_, **__: fn if fn is not None else (lambda one: one)
    sys.modules[name] = torch._dynamo = stub
    try:
        yield
    finally:
        del sys.modules[name], torch._dynamo


@contextmanager
def _without_listing() -> Iterator[None]:
    """The list of every installed file is empty: diffusers looks for packages in it whose names are not as imported."""
    listed, importlib.metadata.distributions = importlib.metadata.distributions, lambda **_: []
    try:
        yield
    finally:
        importlib.metadata.distributions = listed


@contextmanager
def _deferred() -> Iterator[None]:
    """The packages of `DEFERRED` are found without being run."""
    finder = _DeferringFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _DeferringFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferring(spec.loader)
        return spec


class _Deferring(Loader):
    """Runs a package when an attribute is asked for that it does not have yet."""

    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        def __getattr__(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            vars(module).pop("__getattr__", None)
            self.real.exec_module(module)
            return getattr(module, name)

        vars(module)["__getattr__"] = __getattr__
