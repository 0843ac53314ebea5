"""Scribbles: thick white strokes on black.

"auto" takes a doodle in light ink on dark paper for what it is (`tether.kinds.doodle`), and draws everything else, dark
ink on light paper too, by "xdog", where an image is darker than its surroundings:

    D(x)    = G_5 * x - G_0.5 * x                        a difference of two Gaussians, of each color channel
    d       = min D + color (max D - min D)              over the three channels
    line    = 2 d > threshold
    strokes = lines without specks, dilated by a round pen of `thickness` pixels

Drawing by a difference of Gaussians is from Winnemöller, Kyprianidis and Olsen, "XDoG: An eXtended
difference-of-Gaussians compendium including advanced image stylization", Computers & Graphics 36(6), 2012. Deviations
and threshold are those of `scribble_xdog` in ControlNet 1.1, which works at 512 pixels: here the deviations grow with
the image's shorter side, and are the same at 512. It takes the minimum over the channels, `color` 0, and so misses the
edge between one saturated color and another, or white; `color` 1 draws such edges too. The pen makes a scribble of the
lines: none is thinner than it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.kinds.kind import Annotator, Kind
from tether.kinds.measures import STROKES
from tether.kinds.option import Option

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["KIND", "detect", "fidelity", "random_scribble", "scribble_map", "without_specks"]

OPTIONS = {
    "threshold": Option(32, 1, 255, "how much darker than its surroundings a line is"),
    "thickness": Option(3, 1, 32, "width of the pen in pixels"),
    "color": Option(
        1, 0, 1, "0 draws what is darker in red, green and blue, 1 what is darker in any of them", aliases=("colour",)
    ),
}
FINE, COARSE, SIDE = 0.5, 5.0, 512
"""Standard deviations of the two Gaussians in pixels of an image whose shorter side is `SIDE`."""
WAVER = 4.0
"""Standard deviation in pixels, at `SIDE`, of how far a wavering hand is off."""
SPECK = 3e-5
"""Lines of a smaller share of the image's pixels are noise."""


def scribble_map(pixels: np.ndarray, threshold: float = 32, thickness: float = 3, color: float = 1) -> np.ndarray:
    """Strokes of uint8 `(H, W, 3)` RGB: uint8 `(H, W)`, 0 or 255."""
    import cv2
    import numpy as np

    scale = min(pixels.shape[:2]) / SIDE
    # In float32 throughout: the original code doubles in uint8, where the strongest lines wrap around and vanish.
    values = pixels.astype(np.float32)
    coarse = cv2.GaussianBlur(values, (0, 0), COARSE * scale)
    difference = coarse - cv2.GaussianBlur(values, (0, 0), FINE * scale)
    red, green, blue = cv2.split(difference)
    darker = cv2.max(cv2.max(red, green), blue)
    if color < 1:
        darker = (1 - color) * cv2.min(cv2.min(red, green), blue) + color * darker
    lines = without_specks(2 * darker > threshold, SPECK * darker.size)
    side = round(thickness)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(lines, pen) * np.uint8(255)


def detect(pixels: np.ndarray, threshold: float, thickness: float, color: float) -> np.ndarray:
    """Strokes as a condition map, uint8 `(H, W, 3)`."""
    import cv2

    return cv2.cvtColor(scribble_map(pixels, threshold, thickness, color), cv2.COLOR_GRAY2RGB)


def random_scribble(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scribble by a pen of random width, uint8 `(H, W, 3)`, half of them outlines in a hand that wavers.

    So a control trained on them keeps to a drawing's outlines, not to its every pixel. It is not the kind's `vary`:
    data sets of scribbles are built by the annotator at its default options, and stay what they were.
    """
    import cv2
    import numpy as np

    pen = int(rng.integers(1, 5))
    if rng.random() < 0.5:
        return detect(pixels, 20 * 3 ** rng.uniform(), pen, 1)
    height, width = pixels.shape[:2]
    scale = min(height, width) / SIDE
    by = [
        cv2.resize(rng.normal(0, WAVER * scale, (9, 9)), (width, height), interpolation=cv2.INTER_CUBIC) for _ in "xy"
    ]
    y, x = np.mgrid[:height, :width]
    across, down = ((at + moved).astype(np.float32) for at, moved in zip((x, y), by, strict=True))
    blurred = cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), COARSE * scale * rng.uniform(0.8, 1.6))
    moved = cv2.remap(blurred, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    low = rng.uniform(12, 40)
    lines = cv2.dilate(cv2.Canny(moved, low, 2.5 * low), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pen, pen)))
    return lines[..., None].repeat(3, axis=2)


def detect_auto(pixels: np.ndarray, threshold: float, thickness: float, color: float) -> np.ndarray:
    """The strokes of a doodle in light ink, or else those of XDoG, as a condition map, uint8 `(H, W, 3)`.

    The options are XDoG's: another value than the default of one of them chooses it.
    """
    from tether.kinds.doodle import doodle_map, has_light_ink, looks_drawn

    given = {"threshold": threshold, "thickness": thickness, "color": color}
    is_default = all(value == OPTIONS[name].default for name, value in given.items())
    if is_default and has_light_ink(pixels) and looks_drawn(pixels):
        return doodle_map(pixels, thickness)[..., None].repeat(3, axis=2)
    return detect(pixels, threshold, thickness, color)


def detect_doodle(pixels: np.ndarray, thickness: float) -> np.ndarray:
    """The strokes of a doodle as a condition map, uint8 `(H, W, 3)`."""
    from tether.kinds.doodle import doodle_map

    return doodle_map(pixels, thickness)[..., None].repeat(3, axis=2)


def fidelity(image: Image.Image, condition: Image.Image) -> float:
    """`edge_f1` of the middle lines of an image's scribble at default options and of a condition's white strokes.

    A condition of another size is resized to the image's.
    """
    import numpy as np

    from tether.kinds.edges import edge_f1, middle_lines, white_pixels

    found = scribble_map(np.asarray(image.convert("RGB")))
    return edge_f1(middle_lines(found), middle_lines(white_pixels(condition, image.size)))


def without_specks(lines: np.ndarray, least: float) -> np.ndarray:
    """Lines `(H, W)` as 0 and 1, without those of fewer than `least` pixels."""
    import cv2
    import numpy as np

    _, labels, about, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8), connectivity=8)
    kept = about[:, cv2.CC_STAT_AREA] >= least
    kept[0] = False  # label 0 is the background
    return kept[np.asarray(labels, np.int32)].astype(np.uint8)


KIND = Kind(
    "scribble",
    "thick white strokes on black",
    annotators={
        "auto": Annotator(detect_auto, OPTIONS),
        "xdog": Annotator(detect, OPTIONS),
        "doodle": Annotator(detect_doodle, {"thickness": OPTIONS["thickness"]}),
    },
    resize="lines",
    metric=fidelity,
    measures=STROKES,
    names=r"(fake)?scribble|sketch|doodle",
)
