"""Tether steers a locked text-to-image diffusion model with an image: edges, depth, pose, a doodle.

    base = tether.load_base()
    canny = tether.ControlNet.load("canny")
    pipe = tether.Pipeline(base, [canny])
    images = pipe("a red apple, 3d emoji", conditions=[tether.annotate("canny", photo)], seed=7)

It implements *Adding Conditional Control to Text-to-Image Diffusion Models* (arXiv:2302.05543).
Names are imported when they are first used, so that `import tether` and `tether --help` never wait for PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether._lazy import lazy
from tether._moved import install

if TYPE_CHECKING:
    from tether.base import Base, load_base
    from tether.control import ControlledBlock, ControlNet, Injection, attach, load_control
    from tether.errors import TetherError
    from tether.kinds import annotate
    from tether.sampling import Pipeline, Request, Session

__all__ = [
    "Base",
    "ControlNet",
    "ControlledBlock",
    "Injection",
    "Pipeline",
    "Request",
    "Session",
    "TetherError",
    "annotate",
    "attach",
    "load_base",
    "load_control",
]

__version__ = "0.1.0"

install()  # modules by the names that they had before they moved

_HOMES = {
    "Base": "tether.base",
    "ControlNet": "tether.control",
    "ControlledBlock": "tether.control",
    "Injection": "tether.control",
    "Pipeline": "tether.sampling",
    "Request": "tether.sampling",
    "Session": "tether.sampling",
    "TetherError": "tether.errors",
    "annotate": "tether.kinds",
    "attach": "tether.control",
    "load_base": "tether.base",
    "load_control": "tether.control",
}


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
