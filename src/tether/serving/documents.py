"""What the OpenAPI document says of routes that read their bodies themselves."""

from __future__ import annotations

from typing import Any

from tether.serving.views import ErrorBody

__all__ = ["body_of", "form_of", "refusals"]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers that are refusals: those that every route has, and some more."""
    return {status: {"model": ErrorBody} for status in (401, 403, 421, *statuses)}


def body_of(schema: dict[str, Any], files: str = "") -> dict[str, Any]:
    """A body that is JSON, or with `files` also a form with that JSON in its part `request` and files.

    Args:
        schema: of the JSON.
        files: the names that files may have.
    """
    content = {"application/json": {"schema": schema}}
    if files:
        form = {
            "type": "object",
            "properties": {"request": schema},
            "additionalProperties": {"type": "string", "format": "binary", "description": files},
        }
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def form_of(fields: dict[str, Any], files: tuple[str, ...], required: list[str]) -> dict[str, Any]:
    """A body that is a form of fields and files."""
    properties = fields | {name: {"type": "string", "format": "binary"} for name in files}
    form = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}
