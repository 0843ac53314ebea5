"""Modules that compute otherwise for a while: their `forward` is replaced, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["Forward", "other_forwards"]

Forward = Callable[..., Any]


@contextmanager
def other_forwards(modules: Iterable[nn.Module], make: Callable[[Forward], Forward]) -> Iterator[None]:
    """While it lasts, each module runs `make(its forward)`. One that is replaced already, by another run, is left."""
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for module in modules:
            own = module.__dict__.get("forward")  # hooks of accelerate are there too
            if not getattr(own, "is_for_a_while", False):
                forward = make(module.forward)
                forward.is_for_a_while = True  # type: ignore[attr-defined]
                module.forward = forward
                changed.append((module, own))
        yield
    finally:
        for module, own in changed:
            if own is None:
                del module.forward
            else:
                module.forward = own
