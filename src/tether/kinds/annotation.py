"""Image -> condition map, at the image's own size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tether.errors import TetherError
from tether.kinds.kind import Kind
from tether.kinds.table import annotator_names, kind_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["annotatable", "annotate", "make_map"]


def annotatable(name: str, annotator: str | None = None) -> Kind:
    """The kind of a name, if its condition can be made from an image.

    Args:
        name: of the kind.
        annotator: that is to make it; by default its first.

    Raises:
        TetherError: when kind or annotator is unknown, the kind's maps can only be given ready-made, or the annotator
            lacks its weights.
    """
    kind = kind_of(name)
    if not kind.annotators and not kind.is_image:
        raise TetherError(
            f"{name} has no annotator: choose one of {', '.join(annotator_names())}, or pass a ready-made map "
            "(--condition)"
        )
    if kind.annotators:
        kind.annotator(annotator).check_ready()
    return kind


def annotate(kind: str, image: Image.Image, /, annotator: str | None = None, **options: float) -> Image.Image:
    """Makes the condition map of an image.

    Args:
        kind: the name of a kind that has annotators, or whose condition is the image itself.
        image: any PIL image, converted by `tether.images.to_rgb`; it is annotated at its own size.
        annotator: which of the kind's annotators; by default the first.
        options: the annotator's own options.

    Returns:
        An image of the same size: RGB, or for kinds such as depth gray of 16 bits, mode "I;16".

    Raises:
        TetherError: when the kind, the annotator or an option is unknown, or an option's value is out of range.
    """
    return make_map(kind, image, annotator, options)


def make_map(kind: str, image: Image.Image, annotator: str | None, options: Mapping[str, float]) -> Image.Image:
    """`annotate` with the options as a mapping, for callers that were given one."""
    import numpy as np
    from PIL import Image

    from tether.images import to_rgb

    found = kind_of(kind)
    if not found.annotators:
        annotatable(kind)
        if options or annotator:
            raise TetherError(f"{kind} has no options: its condition is the image itself")
        return to_rgb(image)
    chosen = found.annotator(annotator)
    settings = chosen.settings(kind, options)
    chosen.check_ready()
    return Image.fromarray(chosen.detect(np.asarray(to_rgb(image)), **settings))
