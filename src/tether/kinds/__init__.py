"""Photo -> condition image. One file a family; each is imported when it is first used.

    edges = annotate("canny", photo, low=80, high=160)

A family is a module with `OPTIONS` (a `dict` of `Option`) and `detect(pixels, **options) -> pixels`, on uint8
`(H, W, 3)` RGB.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from tether.errors import TetherError

if TYPE_CHECKING:
    from types import ModuleType

    from PIL import Image

__all__ = ["AS_THEY_ARE", "annotate", "annotator", "annotator_names"]

FAMILIES = {"canny": "tether.kinds.canny", "scribble": "tether.kinds.scribble"}


AS_THEY_ARE = ("inpaint", "ip2p", "tile")
"""Kinds of control whose condition is the picture itself."""


def annotator_names() -> list[str]:
    """The kinds of condition that photos can be turned into."""
    return sorted(FAMILIES)


def annotator(kind: str) -> ModuleType:
    """The module of a kind.

    Raises:
        TetherError: when the kind is unknown.
    """
    if kind not in FAMILIES:
        close = get_close_matches(kind, FAMILIES, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise TetherError(
            f"no annotator for {kind!r}: {meant}choose one of {', '.join(annotator_names())}; a map made "
            "elsewhere is given as it is (--condition)"
        )
    return import_module(FAMILIES[kind])


def annotate(kind: str, image: Image.Image, /, **options: float) -> Image.Image:
    """Turns a photo into a condition image.

    Args:
        kind: one of `annotator_names()`, or of `AS_THEY_ARE`, which leave the picture as it is.
        image: any PIL image, by `tether.images.to_rgb`; it is annotated at its own size.
        options: the kind's own options; see its module.

    Returns:
        An RGB image of the same size.

    Raises:
        TetherError: when the kind or an option is unknown, or an option's value is out of range.
    """
    import numpy as np
    from PIL import Image

    from tether.images import to_rgb

    if kind in AS_THEY_ARE:
        if options:
            raise TetherError(f"{kind} has no options: its condition is the picture itself")
        return to_rgb(image)
    module = annotator(kind)
    settings = {name: option.default for name, option in module.OPTIONS.items()}
    for name, value in options.items():
        if name not in module.OPTIONS:
            known = ", ".join(f"{known} ({option.help})" for known, option in module.OPTIONS.items())
            raise TetherError(f"{kind} has no option {name!r}: it has {known}")
        module.OPTIONS[name].check(f"{kind} {name}", value)
        settings[name] = value
    return Image.fromarray(module.detect(np.asarray(to_rgb(image)), **settings))
