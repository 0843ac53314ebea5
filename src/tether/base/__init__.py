"""The locked models that Tether steers."""

from tether.base.base import Base
from tether.base.denoiser import Denoiser, DenoiserSpec, InjectionPoint, UNetDenoiser
from tether.base.load import load_base
from tether.base.noise import NoiseProcess, noise_process
from tether.base.text import TextEncoders
from tether.control.controlnet import ControlNet

__all__ = [
    "Base",
    "ControlNet",
    "Denoiser",
    "DenoiserSpec",
    "InjectionPoint",
    "NoiseProcess",
    "TextEncoders",
    "UNetDenoiser",
    "load_base",
    "noise_process",
]
