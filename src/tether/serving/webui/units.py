"""A unit of the ControlNet extension -> a control of a request."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from tether.errors import TetherError
from tether.images import FitRule, fit, to_mask, to_rgb
from tether.kinds import annotate, find_kind, fit_map
from tether.serving.acceptance import check_annotator
from tether.serving.errors import invalid
from tether.serving.settings import Limits
from tether.serving.uploads import image_bytes, read_image
from tether.serving.webui.names import CONTROL_MODES, RESIZE_MODES, Module, choice, find_module, plain_name

__all__ = ["as_png", "control_of", "detected", "number", "whole"]

OLD_NAMES = {
    "input_image": "image",
    "mask_image": "mask",
    "guidance": "guidance_end",
    "lowvram": "low_vram",
    "preprocessor": "module",
}
"""Older names of keys -> the names now."""
TAKEN = {
    "enabled", "module", "model", "weight", "image", "mask", "resize_mode", "processor_res", "threshold_a",
    "threshold_b", "guidance_start", "guidance_end", "pixel_perfect", "control_mode", "effective_region_mask",
    "save_detected_map",
}  # fmt: skip
WITHOUT_EFFECT = {
    "low_vram", "hr_option", "is_ui", "input_mode", "use_preview_as_input", "generated_image", "batch_images",
    "output_dir", "loopback",
}  # fmt: skip
"""Keys of the extension's own page, or that change no picture here."""
RESOLUTION = 512
"""Of an annotator, where the client names none."""
ROUNDED = 64
"""Sides of what is annotated are multiples of this, as in the extension."""


def control_of(
    unit: dict[str, Any], size: tuple[int, int], init: Image.Image | None, limits: Limits, field: str
) -> dict[str, Any]:
    """The fields of a `ControlRequest`.

    Args:
        unit: as a client sends it.
        size: width and height that are drawn.
        init: the picture of image-to-image, for a unit without one.
        limits: of uploads.
        field: where the unit is, for messages.

    Raises:
        Refused: when a value cannot be right, or asks for what Tether does not do.
    """
    unit = {OLD_NAMES.get(key, key): value for key, value in unit.items()}
    for key, value in unit.items():
        if key not in TAKEN | WITHOUT_EFFECT and value not in (None, False, "", 0, "Unknown", []):
            raise invalid(f"{field}.{key}", f"{key[:60]} is not supported: leave it out")
    module = find_module(unit.get("module"), f"{field}.module")
    model = plain_name(str(unit.get("model") or "None"))
    if model.casefold() == "none":
        raise invalid(f"{field}.model", "a unit needs a model: GET /controlnet/model_list")
    rule = choice(_or(unit.get("resize_mode"), 1), RESIZE_MODES, f"{field}.resize_mode")
    image = _image(unit, module, init, limits, field)
    values: dict[str, Any] = {
        "ref": model,
        "strength": number(unit, "weight", 1.0, 0, 2, field),
        "window": [number(unit, "guidance_start", 0.0, 0, 1, field), number(unit, "guidance_end", 1.0, 0, 1, field)],
        **choice(_or(unit.get("control_mode"), 0), CONTROL_MODES, f"{field}.control_mode"),
    }
    if unit.get("effective_region_mask"):
        where = f"{field}.effective_region_mask"
        region = read_image(image_bytes(unit["effective_region_mask"], where), where, limits.upload_pixels)
        values["mask"] = as_png(fit(to_mask(region), *size, rule))
    return values | _condition(unit, module, image, size, rule, limits, field)


def _condition(
    unit: dict[str, Any],
    module: Module,
    image: Image.Image,
    size: tuple[int, int],
    rule: FitRule,
    limits: Limits,
    field: str,
) -> dict[str, Any]:
    """The condition map, annotated at the client's resolution; or the photo, to be annotated at the drawn size."""
    if module.kind is None:
        return {"condition": as_png(fit_map(image, None, size, rule)), "invert": module.invert}
    options = module.options([unit.get("threshold_a"), unit.get("threshold_b")])
    if unit.get("pixel_perfect") or module.annotator is None:
        photo = fit(to_rgb(image), *size, rule)
        known = {} if module.annotator is None else {"annotator": module.annotator, "options": options}
        return {"photo": as_png(photo), "kind": module.kind, **known}
    resolution = number(unit, "processor_res", RESOLUTION, -1, 2048, field)
    made = detected(module, image, resolution, options, field, limits.pixels)
    return {"condition": as_png(fit_map(made, module.kind, size, rule)), "invert": False}


def detected(
    module: Module, image: Image.Image, resolution: float, options: dict[str, float], field: str, most: int
) -> Image.Image:
    """The map of an image whose shorter side is brought to a resolution first, as the extension does; one that is not
    positive is the default.

    Raises:
        Refused: when that has more than `most` pixels, or the annotator refuses.
    """
    if module.kind is None:
        return Image.fromarray(255 - np.asarray(to_rgb(image))) if module.invert else to_rgb(image)
    resolution = RESOLUTION if resolution <= 0 else max(ROUNDED, resolution)
    scale = resolution / min(image.size)
    width, height = (max(ROUNDED, round(side * scale / ROUNDED) * ROUNDED) for side in image.size)
    if max(width, height) > 16 * min(width, height):
        raise invalid(field, f"an image of {image.width}x{image.height} pixels is too long to annotate")
    if width * height > most:
        said = f"the map would have {width}x{height} pixels: the limit is {most:,}; give a smaller processor_res"
        raise invalid(field, said)
    check_annotator(module.kind, module.annotator, options, f"{field}.")
    try:
        return annotate(module.kind, fit(to_rgb(image), width, height, "stretch"), module.annotator, **options)
    except TetherError as error:
        raise invalid(field, str(error)) from None


def _image(unit: dict[str, Any], module: Module, init: Image.Image | None, limits: Limits, field: str) -> Image.Image:
    """The unit's image. A mask that is painted counts as the image unless the module is for inpainting: it is what was
    drawn on the extension's canvas."""
    image, mask = unit.get("image"), unit.get("mask")
    if isinstance(image, list):
        if len(image) != 1:
            raise invalid(f"{field}.image", f"{len(image)} images: expected one")
        image = image[0]
    if isinstance(image, dict):
        image, mask = image.get("image"), mask or image.get("mask")
    needs_mask = module.kind is not None and find_kind(module.kind).needs_mask
    if mask and needs_mask:
        raise invalid(
            f"{field}.mask", "a unit for inpainting has no mask of its own: give init_images and mask to img2img"
        )
    if mask:
        painted = read_image(image_bytes(mask, f"{field}.mask"), f"{field}.mask", limits.upload_pixels)
        levels = np.asarray(to_mask(painted))
        if not ((levels <= 5).all() or (levels >= 250).all()):
            return to_rgb(painted, "black")
    if image:
        return read_image(image_bytes(image, f"{field}.image"), f"{field}.image", limits.upload_pixels)
    if init is None:
        raise invalid(f"{field}.image", "a unit of text-to-image needs an image")
    return init


def number(values: dict[str, Any], name: str, default: float, least: float, most: float, field: str = "") -> float:
    """A number in a range; missing or null is the default.

    Raises:
        Refused: 422.
    """
    value = _or(values.get(name), default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        where = f"{field}.{name}".strip(".")
        raise invalid(where, f"{str(value)[:40]!r}: expected a number from {least:g} to {most:g}")
    return value


def whole(values: dict[str, Any], name: str, default: int, least: int, most: int, field: str = "") -> int:
    """The same of a whole number, which may be written 2.0.

    Raises:
        Refused: 422.
    """
    value = number(values, name, default, least, most, field)
    if value != int(value):
        raise invalid(f"{field}.{name}".strip("."), f"{value}: expected a whole number from {least} to {most}")
    return int(value)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def as_png(image: Image.Image) -> str:
    """A PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
