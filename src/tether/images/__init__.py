"""Files <-> images <-> tensors: the only place where 8-bit RGB and image files are handled.

The functions on tensors are imported when they are first used, so that reading an image never waits for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tether.images.fit import FitRule, fit, fit_deep, inner_size
from tether.images.maps import fit_condition, open_map
from tether.images.mask import to_mask
from tether.images.read import image_size, is_transparent, open_image, read_metadata, to_rgb
from tether.images.sheet import contact_sheet
from tether.images.write import save_image, save_png

if TYPE_CHECKING:
    from tether.images.tensors import from_pixels, to_condition, to_pixels

__all__ = [
    "FitRule",
    "contact_sheet",
    "fit",
    "fit_condition",
    "fit_deep",
    "from_pixels",
    "image_size",
    "inner_size",
    "is_transparent",
    "open_image",
    "open_map",
    "read_metadata",
    "save_image",
    "save_png",
    "to_condition",
    "to_mask",
    "to_pixels",
    "to_rgb",
]


def __getattr__(name: str) -> Any:
    if name in ("from_pixels", "to_condition", "to_pixels"):
        return getattr(import_module("tether.images.tensors"), name)
    raise AttributeError(f"module 'tether.images' has no attribute {name!r}")
