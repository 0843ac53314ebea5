"""Engines: how a denoiser and its controls are computed. One file an engine, found by name.

An engine is given the denoiser and the controls of a run, and gives them back as it computes them (compiled, converted,
or as they are). It never sees the sampling loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tether.sampling.engines.engine import Engine, check_engine, engine, engines, register, resolved

if TYPE_CHECKING:
    from tether.sampling.engines.eager import Eager

__all__ = ["Eager", "Engine", "check_engine", "engine", "engines", "register", "resolved"]


def __getattr__(name: str) -> Any:
    if name == "Eager":
        from tether.sampling.engines.eager import Eager

        return Eager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
