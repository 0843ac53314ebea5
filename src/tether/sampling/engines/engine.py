"""The interface of an engine and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from tether.base.denoiser import Denoiser
from tether.control.control import Control
from tether.errors import TetherError

__all__ = ["Engine", "check_engine", "engine", "engines", "register"]


class Engine(ABC):
    """Computes denoisers and controls."""

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


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: makes an engine known under a name."""

    def decorate(cls: _Class) -> _Class:
        _ENGINES[name] = cls
        return cls

    return decorate


def engines() -> list[str]:
    """The names of the engines."""
    return sorted(_ENGINES)


def check_engine(name: str) -> None:
    """Raises a TetherError when there is no engine of this name."""
    if name not in _ENGINES:
        raise TetherError(f"unknown engine {name!r}: choose one of {', '.join(engines())}")


def engine(name: str) -> Engine:
    """An engine by name.

    Raises:
        TetherError: when there is none of that name.
    """
    check_engine(name)
    return _ENGINES[name]()
