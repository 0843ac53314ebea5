"""Opened bases and controls, kept for the next request.

LoRA and embeddings change a base. They are applied to a copy of it whose weights share memory with the base until they
are changed, so that the base itself stays as it was, to the bit.
"""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from torch import nn

from tether.base import Base, load_base
from tether.control.control import Control, several_kinds
from tether.control.load import load_control
from tether.errors import TetherError
from tether.sampling.moved import fingerprint_of
from tether.sampling.request import Request, parse_lora

__all__ = ["BaseKey", "Opened", "Opener", "Recent", "check_device", "copy_on_write"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A mapping that keeps the values that were used last.

    Args:
        most: how many of them, at least 1.
    """

    def __init__(self, most: int) -> None:
        self.most = max(most, 1)
        self.values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not kept; the ones used longest ago go before it is made."""
        if key not in self.values:
            self._make_room()
            made = make()
            self._make_room()
            self.values[key] = made
        self.values.move_to_end(key)
        return self.values[key]

    def _make_room(self) -> None:
        while len(self.values) >= self.most:
            self.values.popitem(last=False)
            gc.collect()  # hooks tie the networks of a base in low memory to each other


@dataclass(frozen=True)
class BaseKey:
    """What a base is opened with."""

    ref: str
    vae: str | None
    dtype: str
    prediction_type: str | None
    device: str
    low_memory: bool
    loras: tuple[str, ...]
    embeddings: tuple[str, ...]

    @staticmethod
    def of(request: Request) -> BaseKey:
        """What a request's base is opened with."""
        return BaseKey(
            request.base,
            request.vae,
            request.dtype,
            request.prediction_type,
            request.device,
            request.low_memory,
            tuple(request.loras),
            tuple(request.embeddings),
        )

    @property
    def adapted(self) -> bool:
        """Whether LoRA or embeddings are applied."""
        return bool(self.loras or self.embeddings)


@dataclass
class Opened:
    """A base with the controls that were opened for it; a control may share weights with its base.

    Attributes:
        base: the base.
        mark: fingerprints of the files that the base was opened from.
        controls: by reference.
        marks: fingerprints of the controls' files, by reference.
    """

    base: Base
    mark: tuple[str | None, ...] = ()
    controls: Recent[str, Control] = field(default_factory=lambda: Recent(8))
    marks: dict[str, str | None] = field(default_factory=dict)


class Opener:
    """Opens bases and controls, and keeps those used last; those whose files have changed are opened again.

    Args:
        most: how many bases to keep.
        notify: called with a line about what was opened, for people.
        locate: see `tether.sampling.Session`.
    """

    def __init__(
        self, most: int, notify: Callable[[str], None], locate: Callable[[str, str], str] = lambda table, name: name
    ) -> None:
        self.notify, self.locate = notify, locate
        self.opened: Recent[BaseKey, Opened] = Recent(most)

    def base(self, key: BaseKey) -> Base:
        """A base, with its LoRA and embeddings.

        Raises:
            TetherError: as `load_base`, `add_lora` and `add_embedding`.
        """
        return self._opened(key).base

    def control(self, ref: str, key: BaseKey) -> Control:
        """A control for a base.

        Raises:
            TetherError: as `load_control`, and when it does not fit the base.
        """
        opened = self._opened(key)
        base = opened.base
        # On the device of the weights, not of the computation, so that an untrained control can share them.
        device = base.unet.device
        mark = fingerprint_of("control", ref, self.locate)
        if ref in opened.controls.values and opened.marks.get(ref) != mark:
            del opened.controls.values[ref]
            self.notify(f"{ref}: its files have changed, it is opened again")
        opened.marks[ref] = mark
        return opened.controls.get(ref, lambda: self._load_control(ref, base, device))

    def _load_control(self, ref: str, base: Base, device: torch.device) -> Control:
        control = load_control(self.locate("controls", ref), base=base, dtype=base.dtype, device=device)
        control.name = ref
        if len(control.kinds) > 1:
            raise several_kinds(control)
        return control

    def _opened(self, key: BaseKey) -> Opened:
        models = [("base", key.ref), *([] if key.vae is None else [("autoencoder", key.vae)])]
        models += [("LoRA", parse_lora(text)[0]) for text in key.loras]
        models += [("embedding", ref) for ref in key.embeddings]
        mark = tuple(fingerprint_of(what, ref, self.locate) for what, ref in models)
        if key in self.opened.values and self.opened.values[key].mark != mark:
            del self.opened.values[key]
            self.notify(f"{key.ref}: files that it was opened from have changed, it is opened again")
        if key not in self.opened.values and key.adapted and not key.low_memory:
            plain = self.base(replace(key, loras=(), embeddings=()))
            return self.opened.get(key, lambda: Opened(self._adapted(copy_on_write(plain), key), mark))
        # With low memory the base without adapters is not kept beside the one with them.
        return self.opened.get(key, lambda: Opened(self._adapted(self._load(key), key), mark))

    def _adapted(self, base: Base, key: BaseKey) -> Base:
        """The base, changed in place by its LoRA, embeddings and low memory."""
        from tether.base.embedding import add_embedding
        from tether.base.lora import add_lora

        for text in key.loras:
            ref, strength = parse_lora(text)
            add_lora(base, self.locate("loras", ref), strength)
        for ref in key.embeddings:
            self.notify(f"{ref}: write {add_embedding(base, self.locate('embeddings', ref))}")
        if not key.low_memory:
            return base
        from tether.base.memory import reduce_memory  # loads accelerate

        return reduce_memory(base, key.device)

    def _load(self, key: BaseKey) -> Base:
        check_device(key.device)
        base = load_base(
            self.locate("bases", key.ref),
            vae=None if key.vae is None else self.locate("vaes", key.vae),
            device="cpu" if key.low_memory else key.device,
            dtype=getattr(torch, key.dtype),
            prediction_type=key.prediction_type,
            light=True,
        )
        if base.family != "bundled":
            self.notify(f"{key.ref}: {base.words}")
        return base


def check_device(device: str) -> None:
    """Raises a TetherError when this machine does not have a device."""
    try:
        if torch.empty(0, device=device).is_meta:
            raise NotImplementedError
    except (RuntimeError, AssertionError, NotImplementedError):
        raise TetherError(f"there is no device {device!r} here: choose another, for example cpu") from None


def copy_on_write(base: Base) -> Base:
    """A copy of a base with modules and tokenizers of its own, whose tensors share memory with the base's.

    What changes the copy must write new tensors, as `add_lora` and `add_embedding` do.
    """
    shared: dict[int, object] = {}
    for module in base.modules():
        for parameter in module.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in module.buffers():
            shared[id(buffer)] = buffer.detach()
    return copy.deepcopy(base, shared)
