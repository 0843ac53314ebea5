"""OpenAI's images API over the same jobs: /v1/images/generations and /v1/images/edits.

In an edit, `mask` is transparent where the image is made anew, and `markup` is a transparent picture of what was drawn
over the image: its strokes become a control, of a scribble where there is one.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image, ImageChops
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from tether.images import is_transparent
from tether.serving.bodies import MAX_FILES, forget, read_values
from tether.serving.catalog import SHIPPED_BASE
from tether.serving.documents import body_of, form_of, refusals
from tether.serving.errors import Refused, invalid
from tether.serving.events import EventStream
from tether.serving.hub import Live
from tether.serving.service import Service
from tether.serving.store import Job
from tether.serving.uploads import check_texts, read_image
from tether.serving.waiting import ended, steps_of
from tether.serving.webui.units import as_png

__all__ = ["router"]

router = APIRouter(prefix="/v1/images", tags=["images"])
QUALITIES = {"low": 10, "medium": 20, "auto": 20, "standard": 20, "high": 40, "hd": 40}
"""Quality -> steps."""
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
TAKEN = {"prompt", "model", "n", "size", "quality", "response_format", "output_format", "output_compression", "stream"}
TAKEN |= {"partial_images", "background"}
WITHOUT_EFFECT = {"user", "safety_identifier", "moderation", "input_fidelity"}
"""What changes no image here: who asks, and how strictly another service would look at it."""
MARKS = ("scribble", "softedge", "lineart", "canny")
"""The kinds of controls that strokes can steer, the best first."""
EDITED = 0.75
"""`denoising_strength` of an edit without a mask; with one, the transparent part is made wholly anew."""
MAX_PARTIAL = 3
NO_TOKENS = {"image_tokens": 0, "text_tokens": 0}
_TEXT: dict[str, Any] = {"type": "string"}
_FIELDS: dict[str, Any] = {
    "prompt": _TEXT,
    "model": _TEXT,
    "n": {"type": "integer", "minimum": 1},
    "size": {"type": "string", "pattern": r"^(auto|\d{1,4}x\d{1,4})$"},
    "quality": {"enum": list(QUALITIES)},
    "response_format": {"enum": ["b64_json"]},
    "output_format": {"enum": list(FORMATS)},
    "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
    "background": {"enum": ["auto", "opaque"]},
    "stream": {"type": "boolean"},
    "partial_images": {"type": "integer", "minimum": 0, "maximum": MAX_PARTIAL},
}
_GENERATION = {"type": "object", "properties": _FIELDS, "required": ["prompt"]}
_ANSWERS = refusals(404, 408, 409, 413, 415, 422, 429, 503) | {
    200: {"content": {"application/json": {}, "text/event-stream": {}}, "description": "The images, or their events."}
}
USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "input_tokens_details": NO_TOKENS}


@router.post("/generations", openapi_extra=body_of(_GENERATION), responses=_ANSWERS)
async def generations(request: Request) -> Response:
    """Draws from a prompt."""
    return await _answered(request, await read_values(request), {}, "image_generation")


@router.post(
    "/edits", openapi_extra=form_of(_FIELDS, ("image", "mask", "markup"), ["image", "prompt"]), responses=_ANSWERS
)
async def edits(request: Request) -> Response:
    """Draws an image anew: all of it, what the mask shows, and along what is drawn over it."""
    values, files = await _form(request)
    service: Service = request.app.state.service
    base = values.get("model") or service.settings.base
    change = await service.read(_change, service, files, base)
    files.clear()
    return await _answered(request, values, change, "image_edit")


async def _answered(request: Request, values: dict[str, Any], change: dict[str, Any], kind: str) -> Response:
    service: Service = request.app.state.service
    native, how = _native(values, service)
    if how["stream"]:
        service.stream_begins()
        try:
            job, _ = await service.read(service.submit, native | change)
        except BaseException:
            service.stream_ended()
            raise
        change.clear()
        forget(request)
        return EventStream(_events(service, job, how, kind), service.settings.limits.idle, service.stream_ended)
    job, _ = await service.read(service.submit, native | change)
    change.clear()
    forget(request)
    # A client that has waited too long sends its request again.
    found = await ended(service, job.id, request.is_disconnected)
    return JSONResponse(await run_in_threadpool(_result, service, found, how))


def _native(values: dict[str, Any], service: Service) -> tuple[dict[str, Any], dict[str, Any]]:
    """The native request, and how the answer is wanted."""
    for name, value in values.items():
        if name not in TAKEN | WITHOUT_EFFECT and value is not None:
            raise invalid(name[:80], f"{name[:60]} is not supported: leave it out")
    quality = values.get("quality") or "auto"
    if quality not in tuple(QUALITIES):
        raise invalid("quality", f"{str(quality)[:40]!r} is not supported: choose one of {', '.join(QUALITIES)}")
    if (values.get("response_format") or "b64_json") != "b64_json":
        raise invalid("response_format", "images are answered as b64_json alone")
    if (values.get("background") or "auto") not in ("auto", "opaque"):
        raise invalid("background", "images are opaque: leave background out")
    format = values.get("output_format") or "png"
    if format not in tuple(FORMATS):
        raise invalid("output_format", f"{str(format)[:40]!r} is not supported: choose one of {', '.join(FORMATS)}")
    stream = values.get("stream") in (True, "true", "True", "1")
    count = _whole(values, "n", 1, 1, service.settings.limits.count)
    if stream and count > 1:
        raise invalid("n", "one image is streamed at a time: leave n out")
    native = {"prompt": values.get("prompt"), "count": count, "steps": QUALITIES[quality], "size": _size(values)}
    model = values.get("model")
    how = {
        "stream": stream,
        "format": format,
        "quality": quality if quality in ("low", "medium", "high") else "auto",
        "compression": _whole(values, "output_compression", 100, 0, 100),
        "partial": _whole(values, "partial_images", 0, 0, MAX_PARTIAL),
    }
    return native | ({} if model is None else {"base": model}), how


def _whole(values: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = values.get(name)
    value = default if value is None else value
    if isinstance(value, str) and re.fullmatch(r"\d{1,4}", value):  # of a form
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(name, f"{str(value)[:40]!r}: expected a whole number from {least} to {most}")
    return value


def _size(values: dict[str, Any]) -> list[int] | None:
    size = values.get("size") or "auto"
    if size == "auto":
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(size))
    if match is None:
        raise invalid("size", f"{str(size)[:40]!r} is not a size: write auto or WIDTHxHEIGHT")
    return [int(match[1]), int(match[2])]


async def _form(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields and the files of a form; one file a name.

    Raises:
        Refused: 422.
    """
    most = request.app.state.service.settings.limits.body
    try:
        form = await request.form(max_files=MAX_FILES, max_fields=32, max_part_size=most)
    except HTTPException as error:
        raise invalid(None, f"the form cannot be read: {str(error.detail)[:120]}") from None
    values: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    try:
        for name, part in form.multi_items():
            name = name.removesuffix("[]")
            if name in files or name in values:
                raise invalid(name[:80], "it is given several times: expected one")
            if not isinstance(part, UploadFile):
                check_texts(part, name)
                values[name] = part
            elif name in ("image", "mask", "markup"):
                files[name] = await part.read()
            else:
                raise invalid(name[:80], "a file is image, mask or markup")
    finally:
        await form.close()
    return values, files


def _change(service: Service, files: dict[str, bytes], base: str) -> dict[str, Any]:
    """The fields of a native request for the files of an edit."""
    masked = "mask" in files
    if "image" not in files:
        raise invalid("image", "give the image that is edited")
    most = service.settings.limits.upload_pixels
    read = {name: read_image(content, name, most) for name, content in files.items()}
    values: dict[str, Any] = {
        "init": base64.b64encode(files["image"]).decode(),
        "denoising_strength": 1.0 if masked else EDITED,
    }
    if masked:
        values["mask"] = as_png(ImageChops.invert(_alpha(read["mask"], "mask")))
    if "markup" in files:
        strokes = _alpha(read["markup"], "markup").convert("RGB")
        values["controls"] = [{"ref": _marks(service, base), "condition": as_png(strokes), "invert": False}]
    return values


def _alpha(image: Image.Image, field: str) -> Image.Image:
    if not is_transparent(image):
        raise invalid(field, f"{field} has no transparent part: expected a PNG with alpha")
    return image.convert("RGBA").getchannel("A")


def _marks(service: Service, base: str) -> str:
    """The control for strokes: a shipped one for the shipped base alone, which no other fits."""
    entries = service.catalog.entries("controls").values()
    fitting = [entry for entry in entries if not entry.shipped or base == SHIPPED_BASE]
    for kind in MARKS:
        for entry in fitting:
            if entry.kind == kind:
                return entry.name
    raise invalid("markup", f"there is no control for strokes here: it takes one of {', '.join(MARKS)}")


def _result(service: Service, job: Job, how: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer."""
    if job.state != "done":
        raise Refused(409, "cancelled", f"job {job.id} was cancelled", accepted=True)
    images, size = [], "auto"
    for index in range(job.images):
        with Image.open(service.folders.image(job.id, index)) as image:
            size = f"{image.width}x{image.height}"
        images.append({"b64_json": _encoded(service, job, index, how)})
    return {"created": int(job.created), "data": images, "size": size, "usage": USAGE} | _common(how)


def _common(how: dict[str, Any]) -> dict[str, Any]:
    quality = {} if how["quality"] == "auto" else {"quality": how["quality"]}
    return {"background": "opaque", "output_format": how["format"]} | quality


def _encoded(service: Service, job: Job, index: int, how: dict[str, Any]) -> str:
    """An image in the format that was asked for; a PNG carries its request."""
    path = service.folders.image(job.id, index)
    if how["format"] == "png":
        return base64.b64encode(path.read_bytes()).decode()
    with Image.open(path) as image:
        return _as(image.convert("RGB"), how)


def _as(image: Image.Image, how: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[how["format"]], quality=max(1, how["compression"]))
    return base64.b64encode(buffer.getvalue()).decode()


async def _events(service: Service, job: Job, how: dict[str, Any], kind: str) -> AsyncIterator[bytes]:
    """Partial images, spread over the steps, then the image. A client that goes while its job waits cancels it."""
    sent, left = 0, True
    common = {"created_at": int(job.created), "size": "auto", "background": "opaque"}
    common |= {"output_format": how["format"], "quality": how["quality"]}
    try:
        async for one in steps_of(service, job.id):
            if isinstance(one, Job):
                result = await run_in_threadpool(_result, service, one, how)
                done = {"b64_json": result["data"][0]["b64_json"], "usage": USAGE, "size": result["size"]}
                yield _event(f"{kind}.completed", common | done)
            elif one.preview is not None and _is_due(one, sent, how["partial"]):
                with Image.open(io.BytesIO(one.preview)) as image:
                    seen = _as(image.convert("RGB").resize((8 * image.width, 8 * image.height)), how)
                yield _event(f"{kind}.partial_image", common | {"b64_json": seen, "partial_image_index": sent})
                sent += 1
        left = False
    except Refused as error:
        left = False
        yield _event("error", {"error": {"code": error.code, "message": error.message}})
    finally:
        if left:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(_cancel_if_queued, service, job.id)


def _cancel_if_queued(service: Service, id: str) -> None:
    found = service.store.get(id)
    if found is not None and found.state == "queued" and not service.draining:
        service.cancel(id)


def _is_due(live: Live, sent: int, wanted: int) -> bool:
    """Whether the next of some partial images, spread over the steps, is due."""
    return sent < wanted and live.step * (wanted + 1) >= (sent + 1) * live.steps


def _event(name: str, values: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | values)}\n\n".encode()
