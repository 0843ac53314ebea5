"""The locked models that Tether steers."""

from tether.base.base import Base
from tether.base.controls import ControlNet
from tether.base.load import load_base
from tether.base.text import TextStates

__all__ = ["Base", "ControlNet", "TextStates", "load_base"]
