"""The description of a scene: solids and mannequins with colors and materials, on a floor, before a background.

Units: a solid is about 1 high; x is to the right, y up, z away from the camera; the floor is y = 0. Rendering
depends on the spec alone, so the same spec gives the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["COLORS", "MATERIALS", "SHAPES", "CameraSpec", "MannequinSpec", "SceneSpec", "SolidSpec", "recolor"]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 42, 42),
    "orange": (242, 134, 34),
    "yellow": (246, 208, 48),
    "green": (52, 164, 70),
    "cyan": (58, 198, 208),
    "blue": (44, 90, 214),
    "purple": (134, 66, 188),
    "pink": (244, 138, 184),
    "brown": (130, 82, 46),
    "black": (40, 40, 44),
    "white": (240, 240, 240),
    "grey": (146, 146, 150),
}
"""Named colors, sRGB in 0..255."""

MATERIALS = ("matte", "shiny", "checkered")
SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")


@dataclass(frozen=True)
class SolidSpec:
    """A solid standing on the floor at (x, z), `size` = half its width, turned by `yaw` radians."""

    shape: str
    color: str
    material: str
    x: float
    z: float
    size: float
    yaw: float


@dataclass(frozen=True)
class MannequinSpec:
    """A mannequin at (x, z), `height` tall, facing the camera at yaw 0, in a named pose.

    `jitter` seeds small changes of the pose's angles.
    """

    pose: str
    color: str
    material: str
    x: float
    z: float
    height: float
    yaw: float
    jitter: int


@dataclass(frozen=True)
class CameraSpec:
    """The camera's position, its downward pitch (radians), and the tangent of half its field of view."""

    height: float
    distance: float
    pitch: float
    half_view: float


@dataclass(frozen=True)
class SceneSpec:
    """A whole scene; `light` points from the scene to the light."""

    solids: tuple[SolidSpec, ...]
    mannequins: tuple[MannequinSpec, ...]
    floor: str
    background: str
    light: tuple[float, float, float]
    camera: CameraSpec

    @property
    def objects(self) -> tuple[SolidSpec | MannequinSpec, ...]:
        """Solids, then mannequins; object k has instance number 2 + k."""
        return (*self.solids, *self.mannequins)


def recolor(spec: SceneSpec, index: int, color: str) -> SceneSpec:
    """The same scene with object `index` (of `spec.objects`) in another named color.

    Raises:
        KeyError: if the color is not in `COLORS`.
        IndexError: if there is no such object.
    """
    if color not in COLORS:
        raise KeyError(color)
    objects = list(spec.objects)
    objects[index] = replace(objects[index], color=color)
    solids = tuple(o for o in objects if isinstance(o, SolidSpec))
    mannequins = tuple(o for o in objects if isinstance(o, MannequinSpec))
    return replace(spec, solids=solids, mannequins=mannequins)
