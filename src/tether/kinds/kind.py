"""What a kind of condition is: one frozen object that holds everything the package knows about it.

A new kind is one module that makes a `Kind`. It is found through the entry point group `tether.kinds` of its package
(see `tether.kinds.table`), and nothing else has to change:

    [project.entry-points."tether.kinds"]
    sketch = "my_package.sketch:KIND"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from tether.errors import TetherError
from tether.kinds.measures.measure import Measure
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["Annotator", "Detect", "Flip", "Kind", "Metric", "Resize", "Vary", "mirror"]

Resize = Literal["smooth", "lines", "nearest"]
Detect = Callable[..., "np.ndarray"]
"""(uint8 `(H, W, 3)` RGB, **options) -> condition map, uint8 `(H, W, 3)`, or uint16 `(H, W)` for gray of 16 bits."""
Flip = Callable[["np.ndarray"], "np.ndarray"]
"""Condition map, uint8 `(H, W, 3)` -> the map of the horizontally mirrored image."""
Metric = Callable[["Image.Image", "Image.Image"], float]
"""Condition fidelity, (image, condition) -> from 0 (condition ignored) to 1 (condition followed)."""
Vary = Callable[["np.ndarray", "np.random.Generator"], "np.ndarray"]
"""(uint8 `(H, W, 3)` RGB, random generator) -> a randomly varied condition map, uint8 `(H, W, 3)`."""


def mirror(pixels: np.ndarray) -> np.ndarray:
    """A map `(H, W, 3)` mirrored left to right, its values unchanged."""
    return pixels[:, ::-1]


@dataclass(frozen=True)
class Annotator:
    """One way to make the condition map of an image.

    Attributes:
        detect: uint8 `(H, W, 3)` RGB and the options -> condition map, uint8 `(H, W, 3)` or uint16 `(H, W)`. It may
            raise a `TetherError`.
        options: what `detect` takes, by name.
        ready: raises a `TetherError` that says what to do when `detect` lacks something, such as weights; None when it
            always runs.
        weights: a hash of the user's own weights that `detect` runs; None when it runs none.
    """

    detect: Detect
    options: Mapping[str, Option] = field(default_factory=dict)
    ready: Callable[[], None] | None = None
    weights: Callable[[], str] | None = None

    def check_ready(self) -> None:
        """Raises a TetherError that says what to do when `detect` lacks something."""
        if self.ready is not None:
            self.ready()

    @property
    def is_ready(self) -> bool:
        """Whether `detect` has all that it needs."""
        try:
            self.check_ready()
        except TetherError:
            return False
        return True

    def settings(self, kind: str, options: Mapping[str, Any]) -> dict[str, float]:
        """All options with their values: those given, and defaults for the rest.

        Args:
            kind: what messages call the annotator.
            options: values by name, or by an older name.

        Raises:
            TetherError: for an unknown option or a value out of range.
        """
        values = {name: option.default for name, option in self.options.items()}
        names = {alias: name for name, option in self.options.items() for alias in option.aliases}
        for given, value in options.items():
            name = names.get(given, given)
            if name not in self.options:
                known = ", ".join(f"{known} ({option.help})" for known, option in self.options.items())
                raise TetherError(f"{kind} has no option {given!r}: it has {known or 'none'}")
            self.options[name].check(f"{kind} {name}", value)
            values[name] = value
        return values


@dataclass(frozen=True)
class Kind:
    """A kind of condition.

    Attributes:
        name: "canny".
        summary: one line for people.
        annotators: the ways to make its map from an image, by name; the first is the default. Empty when maps can only
            be given ready-made.
        resize: how its map is resized. "smooth": by area or Lanczos, as photos are. "lines": by what its colors show,
            see `tether.images.maps`: black and white stay so and thin lines stay thin, flat colors stay as they are,
            all else is smooth. "nearest": no new colors, for maps of classes.
        flip: its map -> the map of the horizontally mirrored image; None when that cannot be computed, so that
            training samples must not be mirrored.
        value_range: the values that the control's hint encoder accepts.
        metric: condition fidelity of an image, or None.
        measures: what `tether evaluate` measures it by, the most telling first; see `tether.kinds.measures`.
        vary: a random map of an image, for training; None when maps are always made with the annotator's options.
        names: a regular expression, matched as whole words, of how published controls name the kind.
        is_image: the condition is the image itself.
        pools_globally: the control averages its residuals over space (ControlNet 1.1 shuffle).
        needs_mask: the condition marks the pixels to inpaint with the lowest value of `value_range`.
        is_deep: a map that is gray of 16 bits keeps them up to the control.
        aliases: other names of the kind, such as "pose" of "openpose".

    Raises:
        TetherError: for a name, `resize` or `names` that is not valid.
    """

    name: str
    summary: str = ""
    annotators: Mapping[str, Annotator] = field(default_factory=dict)
    resize: Resize = "smooth"
    flip: Flip | None = mirror
    value_range: tuple[float, float] = (0.0, 1.0)
    metric: Metric | None = None
    measures: tuple[Measure, ...] = ()
    vary: Vary | None = None
    names: str = ""
    is_image: bool = False
    pools_globally: bool = False
    needs_mask: bool = False
    is_deep: bool = False
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise TetherError("a kind of condition needs a name")
        if self.resize not in get_args(Resize):
            raise TetherError(f"kind {self.name}: resize {self.resize!r} is not one of {', '.join(get_args(Resize))}")
        try:
            re.compile(self.names)
        except re.error as error:
            raise TetherError(f"kind {self.name}: names is not a valid regular expression: {error}") from None

    def annotator(self, name: str | None = None) -> Annotator:
        """One of its annotators, by default the first.

        Raises:
            TetherError: when there is none of that name.
        """
        if not self.annotators:
            raise TetherError(f"{self.name} has no annotator: pass a ready-made map (--condition)")
        if name is None:
            return next(iter(self.annotators.values()))
        if name not in self.annotators:
            raise TetherError(f"{self.name} has no annotator {name!r}: choose one of {', '.join(self.annotators)}")
        return self.annotators[name]
