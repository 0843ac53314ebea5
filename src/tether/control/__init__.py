"""Conditional control for text-to-image diffusion: the paper's idea in plain PyTorch.

`ControlledBlock` is the idea for one block of any network, `ControlNet` for the encoder of a diffusion
model's denoiser, and `Injection` and `combine` say how its residuals are added while sampling.
"""

from __future__ import annotations

from tether.control.block import ControlledBlock, attach, attached, detach
from tether.control.controlnet import AddedConditions, ControlNet, predict_noise
from tether.control.hint import HintEncoder
from tether.control.injection import Control, Injection, combine
from tether.control.signal import Residuals
from tether.control.zero import ZeroConv2d, ZeroLinear

__all__ = [
    "AddedConditions",
    "Control",
    "ControlNet",
    "ControlledBlock",
    "HintEncoder",
    "Injection",
    "Residuals",
    "ZeroConv2d",
    "ZeroLinear",
    "attach",
    "attached",
    "combine",
    "detach",
    "predict_noise",
]
