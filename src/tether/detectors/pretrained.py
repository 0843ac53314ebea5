"""Models of transformers with the user's own weights: opened by path or by name on the hub, fed as their files say.

Images are prepared here by the settings of `preprocessor_config.json`, so that no image processor, and no torchvision,
is needed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from tether.detectors.store import detector_of, location
from tether.errors import TetherError
from tether.files.folder import read_json
from tether.files.hub import find

__all__ = ["opened", "prepared"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, for models whose files say nothing."""
SIDE = 512
LONGEST = 4
"""The longer side of what a model sees is at most so many times its `shortest_edge`."""
SETTINGS = "preprocessor_config.json"


def opened(name: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """A detector's model, kept until another one is opened, and the settings of its images.

    Args:
        name: of the detector.
        kind: the class of transformers that opens it.

    Raises:
        TetherError: when there is no model, or it is not one of that class.
    """
    return _opened(str(location(name)), name, kind)


@lru_cache(maxsize=2)
def _opened(ref: str, name: str, kind: str) -> tuple[Any, dict[str, Any]]:
    import transformers

    expects = detector_of(name).expects
    folder = find(ref, f"model for the detector {name}", weights="*model*")
    if not (folder / "config.json").is_file():
        raise TetherError(f"{folder} has no config.json: expected {expects}")
    try:
        model = getattr(transformers, kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:  # transformers raises many kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TetherError(f"{folder} cannot be opened as {expects}: {line[:200]}") from None
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    return model.eval(), settings


def prepared(pixels: np.ndarray, settings: dict[str, Any]) -> Tensor:
    """uint8 `(H, W, 3)` RGB as a model wants it, float32 `(1, 3, h, w)`.

    Args:
        pixels: the image.
        settings: of its image processor: size, whether it keeps the shape, multiples, mean and deviation.
    """
    tall, wide = pixels.shape[:2]
    height, width = _size(tall, wide, settings)
    shrinks = height <= tall and width <= wide
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    image = np.asarray(cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method), np.float32)
    if settings.get("do_rescale", True):
        image = image * np.float32(settings.get("rescale_factor", 1 / 255))
    if settings.get("do_normalize", not _is_glpn(settings)):
        mean, deviation = settings.get("image_mean", MEAN), settings.get("image_std", DEVIATION)
        image = (image - np.asarray(mean, np.float32)) / np.asarray(deviation, np.float32)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def _is_glpn(settings: dict[str, Any]) -> bool:
    """Whether settings are those of GLPN, whose images have multiples of a number as sides, and values in [0, 1]."""
    return "size_divisor" in settings and "size" not in settings


def _size(height: int, width: int, settings: dict[str, Any]) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    wanted = settings.get("size", SIDE)
    multiple = int(settings.get("ensure_multiple_of") or 1)
    if not settings.get("do_resize", True):
        return height, width
    if _is_glpn(settings):
        divisor = int(settings["size_divisor"])
        return max(divisor, height // divisor * divisor), max(divisor, width // divisor * divisor)
    if isinstance(wanted, dict) and "height" not in wanted:
        shortest = wanted.get("shortest_edge", math.inf if wanted.get("longest_edge") else SIDE)
        # Of an image that is long and narrow the longer side would be enormous.
        longest = wanted.get("longest_edge") or LONGEST * shortest
        scale = min(shortest / min(height, width), longest / max(height, width))
        tall, wide = height * scale, width * scale
    else:
        tall, wide = (wanted["height"], wanted["width"]) if isinstance(wanted, dict) else (wanted, wanted)
        if settings.get("keep_aspect_ratio"):  # DPT's rule: the side that changes less decides
            scale = sorted((tall / height, wide / width), key=lambda scale: abs(1 - scale))[0]
            tall, wide = height * scale, width * scale
    return max(multiple, round(tall / multiple) * multiple), max(multiple, round(wide / multiple) * multiple)
