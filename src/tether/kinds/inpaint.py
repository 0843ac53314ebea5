"""Inpainting (ControlNet 1.1): the condition is the image in [0, 1], and -1 in the pixels to inpaint.

As a file, for data sets, those pixels are transparent. `tether generate` takes the mask itself: `--init` and `--mask`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Kind
from tether.kinds.measures import HOLE

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["KIND", "masked"]


def masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An image with the pixels to inpaint transparent, and black, RGBA.

    Args:
        image: any PIL image.
        mask: white where it is to be inpainted; see `tether.images.to_mask`. One of another size is stretched.
    """
    import numpy as np
    from PIL import Image

    from tether.images import fit, to_mask, to_rgb

    holes = np.asarray(fit(to_mask(mask), image.width, image.height, "stretch")) >= 128
    pixels = np.dstack([np.asarray(to_rgb(image)), np.where(holes, 0, 255).astype(np.uint8)])
    pixels[holes] = 0
    return Image.fromarray(pixels)


KIND = Kind(
    "inpaint",
    "the image, -1 in the pixels to inpaint",
    value_range=(-1.0, 1.0),
    is_image=True,
    needs_mask=True,
    measures=HOLE,
    names=r"inpaint(ing)?",
)
