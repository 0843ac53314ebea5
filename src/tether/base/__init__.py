"""The locked models that Tether steers."""

from tether.base.base import Base
from tether.base.load import load_base
from tether.base.text import TextStates
from tether.control.opened import ControlNet

__all__ = ["Base", "ControlNet", "TextStates", "load_base"]
