"""The interface of a control, and the registry of control families.

A control turns a condition image c_i into a *hint* once an image, and a hint into a `Signal` for the denoiser:

    hint   = encode(c_i)
    signal = signal(z_t, t, c_t, hint)          at every step, or once a run where `per_step` is False

ControlNet (arXiv:2302.05543) reads z_t and t, so its signal is computed at each step. An adapter such as T2I-Adapter
(arXiv:2302.08453) reads the condition alone and is run once. A family that changes the denoiser itself (LoRA-like
controls) overrides `wrap`.

A family is one class in one file:

    @register("my-adapter")
    class MyAdapter(Control):
        def encode(self, condition): ...
        def signal(self, latents, timestep, conditioning, hint): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from tether.control.conditioning import Conditioning
from tether.control.signal import Signal
from tether.errors import TetherError

__all__ = ["Control", "families", "family", "register"]


class Control(nn.Module, ABC):
    """Base class of every control: a module whose parameters are what training a control trains.

    Attributes:
        family: the name it was registered under.
        per_step: whether the signal depends on latents or timestep. Where it does not, `signal` is called once a run.
        kind: the kind of its condition images ("canny", ...), or None where unknown.
        name: its name in messages.
    """

    family: ClassVar[str] = ""
    per_step: ClassVar[bool] = True
    kind: str | None = None
    name: str = "control"

    @abstractmethod
    def encode(self, condition: Tensor) -> Tensor:
        """Condition `(B, C, H, W)`, in the value range of its kind -> hint; once an image, not once a step."""

    @abstractmethod
    def signal(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        """The signal of one denoising step at full strength.

        Args:
            latents: z_t, `(B, C, h, w)`.
            timestep: t; a number, a scalar tensor or `(B,)`.
            conditioning: c_t, of batch B.
            hint: from `encode`, of batch B or 1.
        """

    def forward(
        self, latents: Tensor, timestep: int | float | Tensor, conditioning: Conditioning, hint: Tensor
    ) -> Signal:
        """`signal`, so that hooks and compilers that wrap a module's call see it."""
        return self.signal(latents, timestep, conditioning, hint)

    def wrap(self, denoiser: Any) -> Any:
        """The denoiser under this control; by default the denoiser itself, as the signal is all there is."""
        return denoiser

    def check_fits(self, base: Any) -> None:
        """Raises a TetherError where this control was not made for `base`; by default every base fits."""

    @property
    def pools_globally(self) -> bool:
        """Whether the signal is averaged over space: the control says what, not where."""
        return False

    @property
    def condition_channels(self) -> int:
        """Channels C of the condition image."""
        return 3

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


_Class = TypeVar("_Class", bound=type[Control])
_FAMILIES: dict[str, type[Control]] = {}


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: makes a control family known under a name.

    Raises:
        TetherError: when another class has the name.
    """

    def decorate(cls: _Class) -> _Class:
        known = _FAMILIES.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TetherError(f"control family {name!r} exists already ({known.__module__}.{known.__qualname__})")
        cls.family = name
        _FAMILIES[name] = cls
        return cls

    return decorate


def families() -> dict[str, type[Control]]:
    """Every registered family by name."""
    return dict(_FAMILIES)


def family(name: str) -> type[Control]:
    """The class of a family.

    Raises:
        TetherError: when there is none of that name.
    """
    if name not in _FAMILIES:
        raise TetherError(f"unknown control family {name!r}: the families are {', '.join(sorted(_FAMILIES))}")
    return _FAMILIES[name]
