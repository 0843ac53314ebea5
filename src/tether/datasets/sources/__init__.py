"""Readers for the layouts that training data comes in, one file a layout, and `open_source`, which picks one."""

from tether.datasets.sources.open import BUILTIN, open_source

__all__ = ["BUILTIN", "open_source"]
