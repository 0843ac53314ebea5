"""The interface of an engine and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, TypeVar

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.base.denoiser import Denoiser
    from tether.control.control import Control

__all__ = ["AUTO", "Engine", "check_engine", "engine", "engines", "register", "resolved"]

AUTO = "auto"
"""Stands for the fastest engine that is installed: OpenVINO on the CPU, else PyTorch."""


class Engine(ABC):
    """Computes denoisers and controls.

    Attributes:
        notes: lines for people about what it could not compute; whoever shows them takes them out.
        runs_modules: whether it runs PyTorch's modules as they are, so that they can be changed for a run.
        splits: whether the denoisers that it gives have `split`, so that deep features can be used again.
    """

    runs_modules: ClassVar[bool] = False
    splits: ClassVar[bool] = False

    def __init__(self) -> None:
        self.notes: list[str] = []

    def taken_notes(self) -> list[str]:
        """The notes, which are gone then."""
        taken, self.notes = getattr(self, "notes", []), []
        return taken

    @abstractmethod
    def prepare(self, denoiser: Denoiser, controls: Sequence[Control]) -> tuple[Denoiser, Sequence[Control]]:
        """The denoiser and the controls of a run, as this engine computes them.

        What an engine cannot compute it gives back as it is.

        Args:
            denoiser: the base's.
            controls: of the run, in its order; the same number comes back.
        """


_Class = TypeVar("_Class", bound=type[Engine])
_ENGINES: dict[str, type[Engine]] = {}
_OWN = {name: f"tether.sampling.engines.{name}" for name in ("compile", "eager", "openvino")}
"""Engines of this package by name -> their module, imported when one is asked for."""


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: makes an engine known under a name."""

    def decorate(cls: _Class) -> _Class:
        _ENGINES[name] = cls
        return cls

    return decorate


def engines() -> list[str]:
    """The names of the engines."""
    return sorted({*_OWN, *_ENGINES})


def check_engine(name: str) -> None:
    """Raises a TetherError when there is no engine of this name."""
    if name not in (AUTO, *_ENGINES, *_OWN):
        raise TetherError(f"unknown engine {name!r}: choose one of {', '.join([AUTO, *engines()])}")


def resolved(name: str, device: str = "cpu") -> str:
    """The name of an engine, for `AUTO` too.

    Args:
        name: checked.
        device: where it computes.
    """
    if name != AUTO:
        return name
    return "openvino" if device.partition(":")[0] == "cpu" and find_spec("openvino") is not None else "eager"


def engine(name: str, device: str = "cpu") -> Engine:
    """An engine by name; arguments as of `resolved`.

    Raises:
        TetherError: when there is none of that name, or what it needs is not installed.
    """
    check_engine(name)
    name = resolved(name, device)
    if name not in _ENGINES:
        import_module(_OWN[name])
    return _ENGINES[name]()
