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
        @classmethod
        def from_base(cls, base): ...

With `config` it can be saved and loaded too. Installed packages add families by the entry point group
`tether.controls`: `my-adapter = "my_package.adapter:MyAdapter"`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from tether.control.conditioning import Conditioning
from tether.control.injection import Sides
from tether.control.signal import Signal
from tether.errors import TetherError

__all__ = ["Control", "Steerable", "families", "family", "register", "several_kinds"]


def several_kinds(control: Control) -> TetherError:
    """The error where one kind of a control must be named."""
    return TetherError(
        f"control {control.name} is for several kinds ({', '.join(control.kinds)}): name one, as in "
        f"{control.name}:{control.kinds[0]}"
    )


class Steerable(Protocol):
    """What a control needs of the base that it steers; `tether.base.Base` is one.

    Attributes:
        name: its name in messages.
        denoiser: see `tether.base.Denoiser`; controls use its `spec`.
    """

    name: str

    @property
    def denoiser(self) -> Any: ...


class Control(nn.Module, ABC):
    """Base class of every control: a module whose parameters are what training a control trains.

    Attributes:
        family: the name it was registered under.
        per_step: whether the signal depends on latents or timestep. Where it does not, `signal` is called once a run.
        kind: the kind of its condition images ("canny", ...), or None where unknown, or where it has several.
        sides: the CFG branches that it is best used on, see `Injection.sides`; None where nothing is recommended.
        name: its name in messages.
        config: the arguments of `from_config` that make the same architecture again; they are saved as JSON.
    """

    family: ClassVar[str] = ""
    per_step: ClassVar[bool] = True
    kind: str | None = None
    sides: Sides | None = None
    name: str = "control"
    config: Mapping[str, Any] = MappingProxyType({})

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

        Returns:
            Tensors of batch B, by injection point of the denoiser (`DenoiserSpec.points`).
        """

    def forward(
        self,
        latents: Tensor,
        timestep: int | float | Tensor,
        conditioning: Conditioning,
        hint: Tensor,
        *,
        pooled: bool = True,
    ) -> Signal:
        """`signal`, so that hooks and compilers that wrap a module's call see it.

        Args:
            latents, timestep, conditioning, hint: as in `signal`.
            pooled: False asks a control that pools globally for its signal before that, if it can give it. Others need
                not look at it.
        """
        return self.signal(latents, timestep, conditioning, hint)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of condition images that it was trained for; a union has several, most controls one."""
        return () if self.kind is None else (self.kind,)

    def of_kind(self, kind: str) -> Control:
        """The control of one of its kinds. One that has a single kind is returned as it is.

        Raises:
            TetherError: when it has several kinds, and this is none of them.
        """
        return self

    def choose(self, kinds: Sequence[str]) -> Control:
        """This control as it acts on a batch whose samples are of these kinds; for training.

        Args:
            kinds: one for each sample, or a single one for all. A control of one kind does not look at them.

        Returns:
            A control that shares all modules with this one.

        Raises:
            TetherError: as `of_kind`.
        """
        return self

    def shallow(self, skips: int) -> Control:
        """A control that gives this one's signal at the first `skips` skip connections, for less work.

        It shares all modules with this one. By default the control itself, whose signal has these and more.
        """
        return self

    def wrap(self, denoiser: Any) -> Any:
        """The denoiser under this control; by default the denoiser itself, as the signal is all there is."""
        return denoiser

    @classmethod
    def from_base(cls, base: Steerable, **settings: Any) -> Self:
        """A new control to be trained for a base, in training mode.

        Raises:
            TetherError: when the family cannot control this base, or does not say how to make a new control.
        """
        raise TetherError(f"control family {cls.family!r} cannot make new controls: implement {cls.__name__}.from_base")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A control of the architecture in `config`, with initial weights; by default `cls(**config)`."""
        return cls(**config)

    @property
    def points(self) -> Mapping[str, int]:
        """Channels of its signal at each injection point; empty by default, when it is not known in advance."""
        return MappingProxyType({})

    def check_fits(self, base: Steerable) -> None:
        """Checks that the base has this control's injection points.

        Raises:
            TetherError: naming the control, the base and the first point that differs.
        """
        there = {point.name: point.channels for point in base.denoiser.spec.points}
        for point, channels in self.points.items():
            if there.get(point) != channels:
                found = f"has {there[point]}" if point in there else "has no such point"
                raise TetherError(
                    f"control {self.name} adds {channels} channels at {point}, but base {base.name} {found}: "
                    "use a control that was made for this kind of base"
                )

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

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return False

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them; does nothing by default."""

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations again."""

    def save(self, path: Path | str, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that `tether.load_control` opens, as a whole or not at all.

        Args:
            path: the folder; a control that is there is replaced, a folder with anything else in it is not.
            dtype: what the weights are cast to; by default they stay as they are.

        Raises:
            TetherError: when it cannot be written, a weight is NaN or infinite, or a folder is there that holds
                anything but a control, or is the working directory or above it.
        """
        from tether.control.store import write_folder

        write_folder(Path(path), self.state_dict(), self.saved_config(), kind=self.kind, sides=self.sides, dtype=dtype)

    def saved_config(self) -> dict[str, Any]:
        """The content of `config.json` in the folder that `save` writes.

        Raises:
            TetherError: when its class has no family name.
        """
        from tether.control.store import FAMILY

        if not self.family:
            raise TetherError(f"{type(self).__name__} has no family name: register it with tether.control.register")
        return {FAMILY: self.family, "settings": dict(self.config)}

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether a folder or file holds a control of this family; by default, whether `save` wrote it."""
        from tether.control.store import family_of_folder

        return family_of_folder(path) == cls.family

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        base: Steerable | None = None,
        kind: str | None = None,
        name: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The control in a folder or file that `recognizes` accepts; called by `tether.load_control`.

        Args:
            path: the folder or file.
            base: the base that it will be used with.
            kind: the kind of its condition images; by default as saved.
            name: what the user called it, where that says more than the path.
            dtype: what the weights are cast to.

        Raises:
            TetherError: when the folder is damaged or holds another architecture.
        """
        from tether.control.store import fill, read_folder

        stored = read_folder(path)
        try:
            control = cls.from_config(stored.config.get("settings", {}))
        except (TypeError, ValueError, KeyError) as error:
            raise TetherError(f"{path} has settings that {cls.__name__} does not accept: {error}") from None
        fill(control, stored.tensors, dtype, str(path))
        control.kind, control.sides = kind or stored.kind, stored.sides
        return control


_Class = TypeVar("_Class", bound=type[Control])
_FAMILIES: dict[str, type[Control]] = {}
"""The registry; `register` alone writes to it."""
_OWN = {"controlnet": "tether.control.controlnet", "union": "tether.control.union"}
"""Families of this package by name -> their module, imported when one is asked for."""
_GROUP = "tether.controls"


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
    """Every family by name: this package's, registered ones, and those of installed packages.

    An entry point that does not load gives a warning and is left out.
    """
    for module in _OWN.values():
        import_module(module)
    for point in entry_points(group=_GROUP):
        if point.name not in _FAMILIES:
            _load_entry_point(point)
    return dict(_FAMILIES)


def family(name: str) -> type[Control]:
    """The class of a family.

    Raises:
        TetherError: when no family has this name.
    """
    if name in _OWN:
        import_module(_OWN[name])
    if name not in _FAMILIES:
        known = families()
        if name not in known:
            close = get_close_matches(name, known, 1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise TetherError(f"unknown control family {name!r}{meant}: expected one of {', '.join(sorted(known))}")
    return _FAMILIES[name]


def _load_entry_point(point: Any) -> None:
    try:
        cls = point.load()
        if not (isinstance(cls, type) and issubclass(cls, Control)):
            raise TypeError(f"expected a subclass of tether.control.Control, found {cls!r}")
        register(point.name)(cls)
    except Exception as error:  # a broken package must not break the others
        line = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(f"control family {point.name!r} ({point.value}) does not load: {line}", stacklevel=3)
