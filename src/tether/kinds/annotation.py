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


def annotatable(name: str) -> Kind:
    """The kind of a name, if its condition can be made from an image.

    Raises:
        TetherError: when the kind is unknown, or its maps can only be given ready-made.
    """
    kind = kind_of(name)
    if not kind.annotators and not kind.is_image:
        raise TetherError(
            f"{name} has no annotator: choose one of {', '.join(annotator_names())}, or pass a ready-made map "
            "(--condition)"
        )
    return kind


def annotate(kind: str, image: Image.Image, /, annotator: str | None = None, **options: float) -> Image.Image:
    """Makes the condition map of an image.

    Args:
        kind: the name of a kind that has annotators, or whose condition is the image itself.
        image: any PIL image, converted by `tether.images.to_rgb`; it is annotated at its own size.
        annotator: which of the kind's annotators; by default the first.
        options: the annotator's own options.

    Returns:
        An RGB image of the same size.

    Raises:
        TetherError: when the kind, the annotator or an option is unknown, or an option's value is out of range.
    """
    return make_map(kind, image, annotator, options)


def make_map(kind: str, image: Image.Image, annotator: str | None, options: Mapping[str, float]) -> Image.Image:
    """`annotate` with the options as a mapping, for callers that were given one."""
    import numpy as np
    from PIL import Image

    from tether.images import to_rgb

    found = annotatable(kind)
    if not found.annotators:
        if options or annotator:
            raise TetherError(f"{kind} has no options: its condition is the image itself")
        return to_rgb(image)
    chosen = found.annotator(annotator)
    settings = chosen.settings(kind, options)
    return Image.fromarray(chosen.detect(np.asarray(to_rgb(image)), **settings))
