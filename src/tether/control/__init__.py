"""Conditional control for text-to-image diffusion: the paper's idea in plain PyTorch (arXiv:2302.05543).

`ControlledBlock` is the idea for one block, and `attach` puts blocks of any network under control with it. `Control` is
the interface of controls of diffusion models and `ControlNet` its first family; `Injection` says how a control's
`Signal` is added while sampling. Names are imported when they are first used: the core needs PyTorch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether._lazy import lazy

if TYPE_CHECKING:
    from tether.control.attachment import Attached, attach
    from tether.control.block import ControlledBlock
    from tether.control.conditioning import Conditioning
    from tether.control.control import Control, families, family, register
    from tether.control.controlnet import ControlNet
    from tether.control.hint import HintEncoder
    from tether.control.injection import Injection
    from tether.control.load import load_control
    from tether.control.signal import Signal
    from tether.control.union import UnionControlNet
    from tether.control.zero import ZeroConv2d, ZeroLinear

__all__ = [
    "Attached",
    "Conditioning",
    "Control",
    "ControlNet",
    "ControlledBlock",
    "HintEncoder",
    "Injection",
    "Signal",
    "UnionControlNet",
    "ZeroConv2d",
    "ZeroLinear",
    "attach",
    "families",
    "family",
    "load_control",
    "register",
]

_HOMES = {
    "Attached": ".attachment",
    "Conditioning": ".conditioning",
    "Control": ".control",
    "ControlNet": ".controlnet",
    "ControlledBlock": ".block",
    "HintEncoder": ".hint",
    "Injection": ".injection",
    "Signal": ".signal",
    "UnionControlNet": ".union",
    "ZeroConv2d": ".zero",
    "ZeroLinear": ".zero",
    "attach": ".attachment",
    "families": ".control",
    "family": ".control",
    "load_control": ".load",
    "register": ".control",
}


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
