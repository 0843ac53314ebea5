"""Bodies of requests -> values: JSON, or a form with JSON and files."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from tether.serving.errors import Refused, invalid
from tether.serving.guard import RELEASE
from tether.serving.uploads import parse_json, place

__all__ = ["forget", "read_values"]

MAX_FILES = 16
REQUEST = "request"


async def read_values(request: Request, what: str = "the body") -> dict[str, Any]:
    """The values of a request, with uploaded files at their places in base64.

    Raises:
        Refused: 415 for another type, 422 for what cannot be read.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _of_form(request)
    if kind != "application/json":
        raise Refused(415, "media_type", f"{kind[:80]} is not read here: send application/json or multipart/form-data")
    body = await request.body()
    return await run_in_threadpool(parse_json, body, what)


def forget(request: Request) -> None:
    """Releases a body that has been read, when its answer comes much later: it no longer counts towards
    `Limits.bodies`."""
    vars(request).pop("_body", None)  # Starlette keeps it for whoever asks again
    request.scope[RELEASE]()


async def _of_form(request: Request) -> dict[str, Any]:
    most = request.app.state.service.settings.limits.body
    try:
        form = await request.form(max_files=MAX_FILES, max_fields=4, max_part_size=most)
    except HTTPException as error:
        raise invalid(None, f"the form cannot be read: {str(error.detail)[:120]}") from None
    try:
        text = form.get(REQUEST, "{}")
        content = text if isinstance(text, str) else await text.read()
        values = await run_in_threadpool(parse_json, content, f"the part {REQUEST}")
        files: dict[str, list[bytes]] = {}
        for name, part in form.multi_items():
            if name == REQUEST:
                continue
            if not isinstance(part, UploadFile):
                raise invalid(name[:80], f"the form has fields besides {REQUEST}: put them into its JSON")
            files.setdefault(name, []).append(await part.read())
        for name, contents in files.items():
            await run_in_threadpool(place, values, name, contents)
        return values
    finally:
        await form.close()
