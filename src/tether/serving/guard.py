"""What stands before every route: who may ask, from where, and how much is received.

Without a token the server answers this machine alone, and only under a loopback name, so that a web site that makes its
own name point here (DNS rebinding) gets nothing. A browser says which site a request comes from (`Origin`): another
site's is refused, with and without a token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tether.serving.errors import Refused, busy, too_large
from tether.serving.page import is_public
from tether.serving.settings import Settings, is_loopback
from tether.serving.views import ErrorBody, ErrorView

__all__ = ["RELEASE", "Guard", "error_response"]

RELEASE = "tether.release"
"""Key of a scope: a function to be called when a body is not in memory any more, though its answer has not come."""

OPEN = ("/healthz", "/readyz")
"""Paths that need no token: what watches a server has none."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise."""


def error_response(error: Refused) -> JSONResponse:
    """The answer to a request that is refused."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.accepted:
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="tether", Basic realm="tether"'
    body = ErrorBody(error=ErrorView(code=error.code, message=error.message, field=error.field))
    return JSONResponse(body.model_dump(exclude_none=True), error.status, headers)


class Guard:
    """ASGI middleware around the whole app.

    Args:
        app: the app.
        settings: token and limits.
        observe: called with method, status and seconds of each answer that begins, and its scope.
        unexpected: what is answered when the app fails.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        observe: Callable[[Scope, int, float], None],
        unexpected: Callable[[Scope, Exception], Refused],
    ) -> None:
        self._app, self._settings, self._observe, self._unexpected = app, settings, observe, unexpected
        self._received = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan" or self._refusal(scope) is None:
                await self._app(scope, receive, send)
            else:  # a WebSocket
                await send({"type": "websocket.close", "code": 1008})
            return
        started, has_begun = time.perf_counter(), False
        body = _Body(receive, self)

        async def answer(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                if message["status"] >= 400:
                    await body.drop(Headers(scope=scope))
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                self._observe(scope, message["status"], time.perf_counter() - started)
            await send(message)

        refusal = self._refusal(scope) or self._too_long(scope)
        if refusal is not None:
            await error_response(refusal)(scope, receive, answer)
            return
        scope[RELEASE] = body.release
        try:
            await self._app(scope, body, answer)
        except Exception as error:
            refused = self._unexpected(scope, error)
            if has_begun:
                raise
            await error_response(refused)(scope, receive, answer)
        finally:
            body.release()

    def _refusal(self, scope: Scope) -> Refused | None:
        """Why a request is not answered at all."""
        headers, settings = Headers(scope=scope), self._settings
        host = headers.get("host", "")
        if settings.token is None and not is_loopback(_hostname(host)):
            return Refused(421, "wrong_host", "this server answers this machine alone, as localhost or 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host:
            return Refused(403, "other_origin", "the request comes from another web site")
        if settings.token is None or scope["path"] in OPEN or is_public(scope["path"]):
            return None
        if not _shows(headers.get("authorization", ""), settings.token):
            return Refused(401, "unauthorized", "show the token: Authorization: Bearer TOKEN")
        return None

    def _too_long(self, scope: Scope) -> Refused | None:
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._settings.limits.body:
            return self._too_large()
        return None

    def _too_large(self) -> Refused:
        return too_large(f"the request is too long: the limit is {self._settings.limits.body:,} bytes")

    def _count(self, body: _Body, more: int) -> None:
        """Counts what was received.

        Raises:
            Refused: when it is too much, of one request or of all.
        """
        body.length += more
        self._received += more
        if body.length > self._settings.limits.body:
            raise self._too_large()
        if self._received > self._settings.limits.bodies:
            raise busy("too many large requests at once", 1, status=503)


class _Body:
    """`receive` that counts, and does not wait forever for a client in the middle of its request."""

    def __init__(self, receive: Receive, guard: Guard) -> None:
        self._receive, self._guard = receive, guard
        self.length, self._complete = 0, False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            with anyio.fail_after(self._guard._settings.limits.idle):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, "timeout", "the request stopped in the middle") from None
        if message["type"] == "http.request":
            self._guard._count(self, len(message.get("body", b"")))
            self._complete = not message.get("more_body", False)
        return message

    async def drop(self, headers: Headers) -> None:
        """Receives what is left of a request that is refused, at most twice what a request may have: many clients read
        no answer before they have sent all, and break off with the connection."""
        if self._complete or "expect" in headers or not {"content-length", "transfer-encoding"} & set(headers):
            return  # a client that asks whether to send has not begun
        limits, dropped = self._guard._settings.limits, 0
        with anyio.move_on_after(limits.idle):
            while not self._complete and dropped < 2 * limits.body:
                message = await self._receive()
                dropped += len(message.get("body", b""))
                self._complete = not message.get("more_body", False)

    def release(self) -> None:
        """What was received counts no more."""
        self._guard._received -= self.length
        self.length = 0


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _shows(given: str, token: str) -> bool:
    """Whether an Authorization header shows the token: as bearer, or as the password of any user. The time that it
    takes says nothing about the token."""
    scheme, _, value = given.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())
