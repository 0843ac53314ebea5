"""Server-sent events (the HTML standard, section 9.2) of one job.

    event: queued      {"position": 2, ...}
    event: running     {"progress": {"step": 3, "steps": 20}, ..., "preview": "data:image/png;base64,..."}
    event: done        the job; also failed, cancelled. It is the last one.

`data` is the job as `GET /v1/jobs/{id}` gives it. A comment is sent when nothing happens for a while, so that a gone
client is noticed.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tether.serving.hub import Hub
from tether.serving.store import ENDED
from tether.serving.views import JobView, ProgressView

__all__ = ["EventStream", "follow"]

PING = 15.0
"""Seconds of silence after which a comment is sent."""


async def follow(
    job: str, view: Callable[[], Awaitable[JobView | None]], hub: Hub, preview: bool
) -> AsyncIterator[bytes]:
    """The events of a job, until it has ended or the server stops.

    Args:
        job: its id.
        view: the job as it is now; None when it is not kept any more.
        hub: wakes this up.
        preview: with previews.
    """
    last, seen = "", None
    with hub.listen(job, preview) as listener:
        while not hub.closed:
            live = hub.live(job)
            if live is not None and seen is not None and seen.state == "running":  # a step: the rest is as it was
                seen = seen.model_copy(update={"progress": ProgressView(step=live.step, steps=live.steps)})
            else:
                seen = await view()
            if seen is None:
                return
            picture = live.preview if preview and live is not None and seen.state == "running" else None
            data = seen.model_dump_json(exclude_none=True)
            if picture is not None:
                url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
                data = f'{data[:-1]},"preview":"{url}"}}'
            if data != last:
                yield f"event: {seen.state}\ndata: {data}\n\n".encode()
                last = data
            if seen.state in ENDED:
                return
            if not await listener.wait(PING):
                yield b": still here\n\n"


class EventStream(Response):
    """An answer that goes on.

    Args:
        content: the events.
        idle: seconds that the client may take to read what was sent; then the stream ends.
        on_end: called once, however it ends.
    """

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], idle: float, on_end: Callable[[], None]) -> None:
        self.status_code, self.background = 200, None
        self._content, self._idle, self._on_end = content, idle, on_end
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._until_gone, receive, tasks.cancel_scope)
                await self._stream(send)
                tasks.cancel_scope.cancel()
        finally:
            self._on_end()

    async def _until_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _stream(self, send: Send) -> None:
        """Sends what there is; a client that does not read it in time is left."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        with anyio.move_on_after(self._idle) as limit:
            await send(start)
            async for event in self._content:
                limit.deadline = anyio.current_time() + self._idle
                await send({"type": "http.response.body", "body": event, "more_body": True})
                limit.deadline = float("inf")
            limit.deadline = anyio.current_time() + self._idle
            await send({"type": "http.response.body", "body": b""})
