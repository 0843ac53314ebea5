"""The app: an ASGI application around a `Service`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from logging import ERROR
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Scope

from tether.errors import TetherError
from tether.sampling import Request as DrawingRequest
from tether.serving.annotations import Annotation
from tether.serving.api import REQUEST_SCHEMA, router
from tether.serving.choices import router as choices
from tether.serving.errors import Refused, busy, invalid
from tether.serving.guard import Guard, error_response
from tether.serving.images_api import router as images
from tether.serving.log import log
from tether.serving.page import add_page
from tether.serving.service import Drawing, Service
from tether.serving.settings import Settings
from tether.serving.store import JobStore
from tether.serving.webui import router as webui

__all__ = ["create_app"]

TITLE, VERSION = "Tether", "1"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid"}


def create_app(settings: Settings, drawing: Callable[[Settings, JobStore], Drawing] | None = None) -> FastAPI:
    """The server as an ASGI application; it draws between its startup and its shutdown.

    `app.state.service` is what other APIs and pages of the same process use.

    Args:
        settings: of the server.
        drawing: who draws, where it is not this process; see `Service`.

    Raises:
        TetherError: when a folder or a database of the settings cannot be used.
    """
    service = Service(settings, drawing)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.stop)

    app = FastAPI(title=TITLE, version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(router)
    app.include_router(choices)
    app.include_router(images)
    app.include_router(webui)
    _add_health(app, service)
    add_page(app)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(TetherError, _wrong)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(SQLAlchemyError, _no_database)
    app.openapi = lambda: _openapi(app)
    app.add_middleware(
        Guard,
        settings=settings,
        observe=lambda *seen: _observe(service, *seen),
        unexpected=lambda *failed: _unexpected(service, *failed),
    )
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, tags=["health"])
    async def healthz() -> str:
        """200 while the process answers."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, tags=["health"], responses={503: {"description": "Not yet."}})
    def readyz() -> Response:
        """200 when jobs are accepted and drawn; 503 and a line that says why not."""
        why = service.why_not_ready()
        return PlainTextResponse(f"{why or 'ready'}\n", 200 if why is None else 503)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["health"])
    def metrics() -> Response:
        """Measures in Prometheus' text format."""
        service.metrics.listeners.set(service.hub.listeners)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _observe(service: Service, scope: Scope, status: int, seconds: float) -> None:
    """Measures and logs an answer; of a route its pattern, of methods those of HTTP, so that there are few: each is
    kept as long as the process lives."""
    route = getattr(scope.get("route"), "path", "other")
    method = scope["method"] if scope["method"] in METHODS else "other"
    service.metrics.http_seconds.labels(method, route, str(status)).observe(seconds)
    if route not in ("/healthz", "/readyz", "/metrics"):
        fields = {"method": scope["method"][:20], "path": scope["path"][:200], "status": status}
        log("http", **fields, seconds=round(seconds, 4))


async def _refused(request: Request, error: Any) -> JSONResponse:
    request.app.state.service.metrics.refused.labels(error.code).inc()
    return error_response(error)


async def _wrong(request: Request, error: Any) -> JSONResponse:
    service: Service = request.app.state.service
    return await _refused(request, invalid(None, service.catalog.without_paths(str(error))))


async def _not_valid(request: Request, error: Any) -> JSONResponse:
    """Of parameters in path, query and headers."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or None
    return await _refused(request, invalid(field, str(first["msg"])))


async def _http(request: Request, error: Any) -> JSONResponse:
    code = CODES.get(error.status_code, "refused")
    answer = await _refused(request, Refused(error.status_code, code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


async def _no_database(request: Request, error: Any) -> JSONResponse:
    log("database", level=ERROR, error=error)
    return await _refused(request, busy("the database does not answer", 5, status=503))


def _unexpected(service: Service, scope: Scope, error: Exception) -> Refused:
    log("error", level=ERROR, error=error, path=scope["path"])
    service.metrics.refused.labels("internal").inc()
    return Refused(500, "internal", "internal error: see the server's log")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the schemas of the bodies that it does not read itself."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name, model in ((REQUEST_SCHEMA, DrawingRequest), (Annotation.__name__, Annotation)):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {name: schema}
        app.openapi_schema = document
    return app.openapi_schema
