"""What a request asks to leave out, as far as its engine, base and controls allow.

See `tether.base.text_once`, `tether.base.merging` and `tether.sampling.reuse`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from tether.base import Base
from tether.base.deep import check_skips
from tether.base.denoiser import UNetDenoiser
from tether.base.merging import tokens_merged
from tether.base.text_once import text_once
from tether.control.control import Control
from tether.sampling.engines import Eager, Engine
from tether.sampling.request import Request
from tether.sampling.reuse import Deep

__all__ = ["deep_of", "engine_for", "less_work"]


def engine_for(request: Request, engine: Engine) -> tuple[Engine, str | None]:
    """The engine that draws a request, and a line for people where it is not the one that was asked for."""
    missing = {
        "deep_every": request.deep_every > 1 and not engine.splits,
        "merge_tokens": request.merge_tokens > 0 and not engine.runs_modules,
    }
    asked = [name for name, is_missing in missing.items() if is_missing]
    if not asked:
        return engine, None
    return Eager(), f"drawn by eager: {' and '.join(asked)} need it"


def deep_of(request: Request, base: Base, controls: Sequence[Control]) -> tuple[Deep | None, str | None]:
    """How the deep part of a base is reused, and a line for people where it is asked for and cannot be.

    Raises:
        TetherError: when the base has not as many skip connections.
    """
    if request.deep_every == 1:
        return None, None
    denoiser = base.denoiser
    if type(denoiser) is not UNetDenoiser or any(one.wrap(denoiser) is not denoiser for one in controls):
        return None, "deep_every has no effect: it needs a U-Net that no control changes"
    check_skips(denoiser, request.deep_skips)
    return Deep(request.deep_every, request.deep_skips, request.deep_window), None


@contextmanager
def less_work(request: Request, engine: Engine, networks: Sequence[nn.Module], latents: Tensor) -> Iterator[None]:
    """While it lasts, networks compute less, as the request says and as far as the engine allows.

    Args:
        request: the request.
        engine: that runs the networks.
        networks: denoiser and controls.
        latents: `(B, C, h, w)` of the run.
    """
    if not engine.runs_modules:
        yield
        return
    height, width = latents.shape[-2:]
    with text_once(networks), tokens_merged(networks, request.merge_tokens, (height, width)):
        yield
