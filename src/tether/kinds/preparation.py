"""Image and kind -> image and condition at the size that is drawn: one order for every user of the package.

    fit the image to the size  ->  annotate it there  ->  pad the map

An image is fitted first, because an annotator's thin lines found at another size would not survive the resizing, and
because a control should see the same lines in use that it was trained on. It is padded last, because the edge of a
border is not an edge of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether.errors import TetherError
from tether.kinds.annotation import annotatable, make_map
from tether.kinds.kind import Flip, mirror
from tether.kinds.table import find_kind, guess_kind, kind_of, kinds

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from tether.images import FitRule

__all__ = ["Prepared", "fit_map", "flip_map", "flip_of", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """An image and its condition.

    Attributes:
        photo: the image as it was annotated, RGB or grayscale; with the fit "pad", without the border. For a
            ready-made map, the map itself.
        condition: the condition, RGB or gray of 16 bits, of exactly the size.
    """

    photo: Image.Image
    condition: Image.Image


def prepare(
    photo: Image.Image,
    kind: str | None,
    size: tuple[int, int],
    *,
    fit: FitRule = "crop",
    annotator: str | None = None,
    options: Mapping[str, float] | None = None,
    rng: np.random.Generator | None = None,
) -> Prepared:
    """Fits an image to a size and makes its condition there.

    Args:
        photo: any PIL image.
        kind: the kind of condition; None when `photo` is a ready-made map, which is only fitted.
        size: width and height in pixels.
        fit: how an image of another shape is fitted: "stretch", "crop" or "pad". A map's border is black.
        annotator: which of the kind's annotators; by default the first.
        options: the annotator's options; by default its defaults.
        rng: draws a random variation where the kind has one, unless annotator or options are given: for training.

    Raises:
        TetherError: when the kind cannot be annotated, or for an unknown fit, annotator or option.
    """
    from tether import images

    if kind is None:
        condition = fit_map(photo, None, size, fit)
        return Prepared(condition, condition)
    varied = None if rng is None or annotator or options is not None else annotatable(kind).vary
    inner = images.inner_size(photo, *size) if fit == "pad" else size
    photo = images.to_rgb(photo) if images.is_transparent(photo) else photo
    photo = images.fit(photo, *inner, "stretch" if fit == "pad" else fit)
    if varied is None or rng is None:
        condition = make_map(kind, photo, annotator, options or {})
    else:
        import numpy as np
        from PIL import Image

        condition = Image.fromarray(varied(np.asarray(images.to_rgb(photo)), rng))
    return Prepared(photo, fit_map(condition, kind, size, "pad"))


def fit_map(image: Image.Image, kind: str | None, size: tuple[int, int], fit: FitRule = "crop") -> Image.Image:
    """Fits a condition map to a size by its kind's rule; transparency and the border of "pad" are black.

    A condition that is a photograph itself lies on white.

    Args:
        image: the map, any PIL image.
        kind: its kind; for an unknown one, or None, its colors decide, as for "lines".
        size: width and height in pixels.
        fit: "stretch", "crop" or "pad".

    Returns:
        An RGB image; or gray of 16 bits, mode "I;16", where map and kind have them.

    Raises:
        TetherError: for an unknown fit.
    """
    from tether import images

    known = find_kind(kind)
    if known.is_deep and image.mode == "I;16":
        return images.fit_deep(image, *size, fit)
    if known.resize == "lines":
        return images.fit_condition(image, *size, fit)
    rgb = images.to_rgb(image, "white" if known.is_image else "black")
    return images.fit(rgb, *size, fit, pad_color=(0, 0, 0), nearest=known.resize == "nearest")


def flip_of(name: str) -> Flip | None:
    """What mirrors the maps of a condition, or None when they cannot be mirrored.

    An unknown name that contains that of a kind whose colors say left or right ("my-pose") is not mirrored: its colors
    are not known.
    """
    if name in kinds():
        return kind_of(name).flip
    guessed = guess_kind(name)
    return mirror if guessed is None or kind_of(guessed).flip is mirror else None


def flip_map(image: Image.Image, kind: str) -> Image.Image:
    """The condition map of the horizontally mirrored image, RGB.

    Raises:
        TetherError: when maps of the kind cannot be mirrored.
    """
    import numpy as np
    from PIL import Image

    from tether.images import to_rgb

    flip = flip_of(kind)
    if flip is None:
        raise TetherError(f"a map of {kind} cannot be mirrored: its colors may tell left from right")
    return Image.fromarray(np.ascontiguousarray(flip(np.asarray(to_rgb(image, "black")))))
