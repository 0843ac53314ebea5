"""What a client asks for -> a request that this server draws, or a refusal that names the field.

An accepted request is complete: names of models are in the catalog, its seeds are fixed, its images can be decoded. It
is kept as JSON, with images as they were sent, and drawn from that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from secrets import randbelow
from typing import Any

from PIL import Image

from tether.base.prompt_syntax import parse_prompt
from tether.errors import TetherError
from tether.kinds import annotatable, kind_of
from tether.sampling.checks import MAX_SIDE
from tether.sampling.engines import resolved
from tether.sampling.request import ControlRequest, Request, parse_lora
from tether.serving.catalog import Catalog
from tether.serving.errors import invalid
from tether.serving.settings import Settings
from tether.serving.uploads import image_bytes, read_image

__all__ = ["Accepted", "accept", "check_annotator", "check_own_size", "digest_of", "field_of", "stored_request"]

NEW_SEEDS = 2**32
"""A random seed is below this, as in other programs."""
FIXED = ("device", "engine")
"""Fields that the operator decides."""
OF_DRAWN = ("versions", "fingerprints", "index")
"""Fields that tell how an image was drawn: of one that is drawn anew they are found anew."""
LONG = ("prompt", "negative_prompt", "init", "photo", "condition", "mask")
"""Fields with limits of their own."""
LISTED = ("photo", "condition")
"""Fields that may have an image for each image that is drawn."""
IMAGES = 4
"""All images of a request together have at most so many times the pixels that one may have."""
MAX_REST = 16_384
"""Bytes of JSON of all other fields, of a request and of each control."""


@dataclass(frozen=True)
class Accepted:
    """A request that will be drawn.

    Attributes:
        text: its JSON, as it is kept.
        request: the request.
    """

    text: str
    request: Request


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of what a client sent, for `Idempotency-Key`."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def accept(values: dict[str, Any], settings: Settings, catalog: Catalog) -> Accepted:
    """Checks a request and completes it.

    Args:
        values: the JSON of a `Request`; a seed that is left out, or null, is drawn here.
        settings: limits and defaults.
        catalog: the models that may be named.

    Raises:
        Refused: 422 for a value that cannot be right or is above a limit, 413 for an image with too many pixels.
    """
    values = {name: value for name, value in values.items() if not (name == "seed" and value is None)}
    _check_sizes(values, settings)
    _check_lengths(values)  # before any text is searched
    _check_loras(values)
    values = _with_defaults(values, settings)
    images = _decoded(values, settings)
    request = _built(values, images)
    _check_limits(request, settings)
    _check_names(request, catalog)
    _check_texts(request)
    if request.versions:
        values["rules"] = request.rules  # where it does not say them, that it was drawn does
    for name in OF_DRAWN:
        values.pop(name, None)
    request = request.model_copy(update={"versions": {}, "fingerprints": {}, "index": 0})
    if "seed" not in values:
        values["seed"] = randbelow(NEW_SEEDS)
        request = request.model_copy(update={"seed": values["seed"]})
    return Accepted(json.dumps(values), request)


def stored_request(text: str) -> Request:
    """A request that was accepted.

    Raises:
        TetherError: when it is damaged.
    """
    try:
        return Request(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise TetherError(f"the request that was kept is damaged: {error}") from None


def _check_sizes(values: dict[str, Any], settings: Settings) -> None:
    """How much there is, before anything is decoded."""
    limits = settings.limits
    for name, most in (("controls", limits.controls), ("loras", limits.adapters), ("embeddings", limits.adapters)):
        given = values.get(name, [])
        if not isinstance(given, list):
            raise invalid(name, f"expected a list, not a {type(given).__name__}")
        if len(given) > most:
            raise invalid(name, f"{len(given)} {name}: the limit is {most}")
    for index, control in enumerate(values.get("controls", [])):
        if not isinstance(control, dict):
            raise invalid(f"controls.{index}", f"expected an object, not a {type(control).__name__}")
    for name in ("prompt", "negative_prompt"):
        if isinstance(values.get(name), str) and len(values[name]) > limits.prompt:
            raise invalid(name, f"{len(values[name])} characters: the limit is {limits.prompt}")
    for name, most in (("count", limits.count), ("steps", limits.steps)):
        if isinstance(values.get(name), int) and values[name] > most:
            raise invalid(name, f"{values[name]}: the limit is {most}")


def _check_loras(values: dict[str, Any]) -> None:
    for index, lora in enumerate(values.get("loras", [])):
        try:
            parse_lora(lora)
        except (TetherError, TypeError) as error:
            raise invalid(f"loras.{index}", str(error)[:300]) from None


def _with_defaults(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """With the operator's values where the request is silent; a copy down to the controls.

    A request that was drawn (it has versions) says with what: that is passed over.
    """
    taken = {"device": (settings.device,), "engine": (settings.engine, resolved(settings.engine, settings.device))}
    for name in FIXED if not values.get("versions") else ():
        if values.get(name) not in (None, *taken[name]):
            raise invalid(name, f"this server draws with {getattr(settings, name)}: leave {name} out")
    fixed = {name: getattr(settings, name) for name in FIXED}
    defaults = {"base": settings.base, "dtype": settings.dtype}
    controls = [dict(control) for control in values.get("controls", [])]
    return defaults | values | fixed | {"controls": controls}


def _decoded(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The images of a request by place, a list where there is one; in `values` they become plain base64."""
    reader = _Reader(settings.limits.upload_pixels)
    images: dict[str, Any] = {}
    places: list[tuple[dict[str, Any], str, str]] = [(values, name, name) for name in ("init", "mask")]
    for index, control in enumerate(values["controls"]):
        places += [(control, name, f"controls.{index}.{name}") for name in ("photo", "condition", "mask")]
    for target, name, where in places:
        given = target.get(name)
        if given is None:
            continue
        if isinstance(given, list) and name in LISTED:
            if len(given) > settings.limits.count:
                raise invalid(where, f"{len(given)} images: the limit is {settings.limits.count}")
            read = [reader(one, f"{where}.{k}") for k, one in enumerate(given)]
            images[where], target[name] = [image for image, _ in read], [text for _, text in read]
        else:
            images[where], target[name] = reader(given, where)
    return images


class _Reader:
    """Reads images while all of a request together have not too many pixels."""

    def __init__(self, most: int) -> None:
        self.most, self.left = most, IMAGES * most

    def __call__(self, value: Any, where: str) -> tuple[Image.Image, str]:
        content = image_bytes(value, where)
        image = read_image(content, where, min(self.most, self.left))
        self.left -= image.width * image.height
        return image, base64.b64encode(content).decode()


def _check_lengths(values: dict[str, Any]) -> None:
    """Refuses texts that are no images and very long: every PNG would carry them."""
    texts = [("request", {name: value for name, value in values.items() if name not in (*LONG, "controls")})]
    texts += [
        (f"controls.{k}", {name: value for name, value in control.items() if name not in LONG})
        for k, control in enumerate(values.get("controls", []))
    ]
    for where, rest in texts:
        if len(json.dumps(rest)) > MAX_REST:
            raise invalid(where, f"more than {MAX_REST:,} bytes besides prompts and images")


def _built(values: dict[str, Any], images: dict[str, Any]) -> Request:
    """The request; its images are not decoded a second time."""
    controls = []
    for index, control in enumerate(values["controls"]):
        where = f"controls.{index}."
        own = {name.removeprefix(where): image for name, image in images.items() if name.startswith(where)}
        controls.append(_refusing(ControlRequest, control | own, where))
    own = {name: image for name, image in images.items() if "." not in name}
    return _refusing(Request, values | own | {"controls": controls})


def _refusing(cls: Any, values: dict[str, Any], where: str = "") -> Any:
    try:
        return cls(**values)
    except (TetherError, TypeError, ValueError, ArithmeticError) as error:
        line = str(error) or type(error).__name__
        raise invalid(field_of(line, cls.model_fields, where), line.splitlines()[0][:300]) from None


def field_of(line: str, fields: Iterable[str], where: str = "") -> str | None:
    """The field that a message of `Request` or `ControlRequest` is about: what stands before its colon, or in quotes
    after "unknown key", or else the first field that it mentions."""
    unknown = re.match(r"unknown key '([^']+)'", line)
    if unknown is not None:
        return where + unknown[1][:80]
    before = re.match(r"([a-z_]+(?:\.\w+)*): ", line)
    known = list(fields)
    if before is not None and before[1].partition(".")[0] in known:
        return where + before[1]
    said = line.partition(": ")[2] if line.startswith("control ") else line
    named = [word for word in re.findall(r"[a-z_]+", said) if word in known]
    return where + named[0] if named else where.rstrip(".") or None


def _check_limits(request: Request, settings: Settings) -> None:
    limits = settings.limits
    if request.size is not None:
        width, height = request.size
        if min(width, height) < 1 or max(width, height) > MAX_SIDE or width * height > limits.pixels:
            raise invalid("size", f"{width}x{height} pixels: the limit is {limits.pixels:,}, {MAX_SIDE:,} a side")
    for name, most in (("count", limits.count), ("steps", limits.steps)):
        if getattr(request, name) > most:
            raise invalid(name, f"{getattr(request, name)}: the limit is {most}")


def check_own_size(size: tuple[int, int], most: int) -> None:
    """Refuses a size that a request did not name, so that it is the base's own.

    Raises:
        Refused: 422.
    """
    if size[0] * size[1] > most:
        raise invalid("size", f"the base's own {size[0]}x{size[1]} pixels are above the limit of {most:,}: give a size")


def _check_names(request: Request, catalog: Catalog) -> None:
    """Every field that names a model."""
    named: list[tuple[str, str, str]] = [("base", "bases", request.base)]
    if request.vae is not None:
        named.append(("vae", "vaes", request.vae))
    named += [(f"controls.{k}.ref", "controls", control.ref) for k, control in enumerate(request.controls)]
    named += [(f"loras.{k}", "loras", parse_lora(text)[0]) for k, text in enumerate(request.loras)]
    named += [(f"embeddings.{k}", "embeddings", name) for k, name in enumerate(request.embeddings)]
    for field, what, name in named:
        try:
            catalog.find(what, name)
        except TetherError as error:
            raise invalid(field, str(error)) from None


def _check_texts(request: Request) -> None:
    """Prompts, and what annotators take."""
    for field in ("prompt", "negative_prompt"):
        try:
            parse_prompt(getattr(request, field), "nested" if request.rules > 1 else "simple")
        except TetherError as error:
            raise invalid(field, str(error)) from None
    for index, control in enumerate(request.controls):
        if control.kind is not None:
            check_annotator(control.kind, control.annotator, control.options, f"controls.{index}.")


def check_annotator(kind: str, annotator: str | None, options: dict[str, float], where: str = "") -> None:
    """Refuses a kind that has no map of an image, an annotator that it does not have, and options out of range.

    Raises:
        Refused: 422.
    """
    field = "kind"
    try:
        if annotator and kind_of(kind).annotators:
            field = "annotator"
        found = annotatable(kind, annotator)
        if found.annotators:
            field = "options"
            found.annotator(annotator).settings(kind, options)
        elif annotator or options:
            raise TetherError(f"{kind} has no options: its condition is the image itself")
    except TetherError as error:
        raise invalid(where + field, str(error)) from None
