"""Engines: how a denoiser and its controls are computed. One file an engine, found by name.

An engine is given the denoiser and the controls of a run, and gives them back as it computes them (compiled, converted,
or as they are). It never sees the sampling loop.
"""

from __future__ import annotations

from tether.sampling.engines.eager import Eager
from tether.sampling.engines.engine import Engine, check_engine, engine, engines, register

__all__ = ["Eager", "Engine", "check_engine", "engine", "engines", "register"]
