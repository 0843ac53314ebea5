"""Conditional control for text-to-image diffusion: the paper's idea in plain PyTorch (arXiv:2302.05543).

`ControlledBlock` is the idea for one block of any network, `ControlNet` for the encoder of a diffusion model's
denoiser. `Injection` says how a control's `Signal` is added while sampling; `Control` is the interface of every family.
"""

from __future__ import annotations

from tether.control.block import ControlledBlock, attach, attached, detach
from tether.control.conditioning import Conditioning
from tether.control.control import Control, families, family, register
from tether.control.controlnet import ControlNet
from tether.control.hint import HintEncoder
from tether.control.injection import Injection
from tether.control.signal import Signal
from tether.control.zero import ZeroConv2d, ZeroLinear

__all__ = [
    "Conditioning",
    "Control",
    "ControlNet",
    "ControlledBlock",
    "HintEncoder",
    "Injection",
    "Signal",
    "ZeroConv2d",
    "ZeroLinear",
    "attach",
    "attached",
    "detach",
    "families",
    "family",
    "register",
]
