"""Requests that are drawn as one batch: each has its own prompts, seeds and condition maps, all else is the same.

Arithmetic on another batch size rounds differently, so an image may differ by one level of 255 from the one that its
request gives alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from PIL import Image

from tether.base import Base
from tether.sampling.guidance import Guidance
from tether.sampling.prompts import guidance_of
from tether.sampling.request import Request

__all__ = ["alike", "as_one", "guidance_together"]

OWN = {"prompt", "negative_prompt", "seed", "count", "index", "versions", "fingerprints", "controls"}
"""Fields that each request of a batch has its own of; of its controls, those of `OWN_OF_CONTROLS`."""
OWN_OF_CONTROLS = {"condition", "photo", "kind", "annotator", "options", "source", "invert", "mask"}


def alike(request: Request) -> str:
    """Equal for requests that can be drawn as one batch; "" for one that has to be drawn alone.

    With `init`, a mask, `low_memory`, a control by need (which measures the whole batch), or by the rules of older
    versions, a request is drawn alone.
    """
    masked = request.mask is not None or any(control.mask is not None for control in request.controls)
    by_need = any(control.tolerance for control in request.controls)
    if request.init is not None or masked or by_need or request.low_memory or request.rules == 1:
        return ""
    shared = request.model_dump(mode="json", exclude=OWN | {"init", "mask"})
    controls = [control.model_dump(mode="json", exclude=OWN_OF_CONTROLS) for control in request.controls]
    return hashlib.sha256(json.dumps([shared, controls], sort_keys=True).encode()).hexdigest()


def as_one(requests: Sequence[Request]) -> Request:
    """One request for the images of several prepared ones, in their order, with a map an image; its prompt is that of
    the first."""
    first, *others = requests
    if not others:
        return first
    seeds = [seed for request in requests for seed in request.seeds]
    controls = [
        control.without_photo().model_copy(
            update={"condition": [image for request in requests for image in _maps(request, k)]}
        )
        for k, control in enumerate(first.controls)
    ]
    return first.model_copy(update={"seed": seeds, "count": len(seeds), "index": 0, "controls": controls})


def _maps(request: Request, control: int) -> list[Image.Image]:
    maps = request.controls[control].conditions
    return maps * request.count if len(maps) == 1 else maps


def guidance_together(requests: Sequence[Request], base: Base, size: tuple[int, int]) -> Guidance | None:
    """The text of each image of a batch; None when the prompts have different lengths, so that they cannot be stacked
    without padding that a request alone does not have.

    Raises:
        TetherError: as `guidance_of`.
    """
    each = [guidance_of(request, base, size) for request in requests]
    if len({one.conditional.tokens.shape[1] for one in each}) > 1:
        return None
    return Guidance.joined(each)
