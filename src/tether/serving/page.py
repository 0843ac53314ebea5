"""The page at `/`: static files that call the native API.

They are public, also where a token is needed: they hold no data, and the page asks for the token itself.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles

__all__ = ["PREFIX", "add_page", "is_public"]

PREFIX = "/page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""Of the files by suffix: what the machine's own table says may be wrong, and browsers are told not to guess."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Scripts and styles are these files alone, and no text is ever read as HTML."""


def is_public(path: str) -> bool:
    """Whether a path is of the page."""
    return path == "/" or path.startswith(f"{PREFIX}/")


class _Files(StaticFiles):
    def file_response(self, full_path: str | os.PathLike[str], *arguments: Any, **values: Any) -> Response:
        answer = super().file_response(full_path, *arguments, **values)
        answer.headers["content-security-policy"] = POLICY
        answer.headers["cache-control"] = "no-cache"
        if answer.status_code == 200:
            answer.headers["content-type"] = f"{TYPES[PurePath(full_path).suffix]}; charset=utf-8"
        return answer


def add_page(app: FastAPI) -> None:
    """Mounts the page at `/` and its files at `/page`."""
    served = _Files(directory=str(files("tether.serving") / "static"))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return await served.get_response("index.html", request.scope)

    app.mount(PREFIX, served)
