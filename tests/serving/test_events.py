"""Streams of events: a slow or gone client holds nothing up, and costs nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from threading import Thread
from typing import Any

from tether.serving.events import EventStream, follow
from tether.serving.hub import Hub, Live
from tether.serving.views import JobView, ProgressView


def view(state: Any, step: int | None = None) -> JobView:
    progress = None if step is None else ProgressView(step=step, steps=9)
    return JobView(id="a", number=1, state=state, prompt="x", count=1, created=0, progress=progress)


async def one_after_another(events: AsyncIterator[bytes], seen: list[bytes]) -> None:
    async for event in events:
        seen.append(event)


def test_one_that_listens_late_hears_the_latest_step_alone() -> None:
    async def main() -> list[bytes]:
        hub, seen, now = Hub(), list[bytes](), [view("running", 0)]
        hub.begin("a")

        async def current() -> JobView:
            return now[0]

        events = follow("a", current, hub, preview=False)
        seen.append(await anext(events))
        for step in range(1, 8):  # all of them while the client does not read
            now[0] = view("running", step)
            hub.report("a", Live(step, 9))
        seen.append(await anext(events))
        now[0] = view("done")
        hub.end("a")
        hub.changed()
        await one_after_another(events, seen)
        assert hub.listeners == 0
        return seen

    steps = [json.loads(event.split(b"data: ")[1]).get("progress", {}).get("step") for event in asyncio.run(main())]
    assert steps == [0, 7, None]


def test_a_step_is_told_without_a_look_into_the_database() -> None:
    """Sixteen clients that follow a batch would cost as many looks a step, while it is drawn."""
    looks = 0

    async def main() -> list[bytes]:
        hub, now = Hub(), [view("queued")]

        async def current() -> JobView:
            nonlocal looks
            looks += 1
            return now[0]

        events = follow("a", current, hub, preview=False)
        seen = [await anext(events)]
        now[0] = view("running", 0)
        hub.begin("a")
        hub.changed()
        seen.append(await anext(events))
        for step in range(1, 5):
            hub.report("a", Live(step, 9))
            seen.append(await anext(events))
        assert looks == 2
        now[0] = view("done")
        hub.end("a")
        hub.changed()
        await one_after_another(events, seen)
        return seen

    events = [json.loads(event.split(b"data: ")[1]) for event in asyncio.run(main())]
    assert [event["state"] for event in events] == ["queued", *["running"] * 5, "done"]
    assert [event["progress"]["step"] for event in events[1:-1]] == [0, 1, 2, 3, 4]
    assert looks == 3


def test_previews_are_asked_for_by_those_who_want_them() -> None:
    async def main() -> bytes:
        hub = Hub()
        hub.begin("a")

        async def current() -> JobView:
            return view("running", 1)

        plain = follow("a", current, hub, preview=False)
        await anext(plain)
        assert not hub.wants_preview("a")
        events = follow("a", current, hub, preview=True)
        await anext(events)
        assert hub.wants_preview("a")
        assert not hub.wants_preview("b")
        hub.report("a", Live(1, 9, b"png"))
        seen = await anext(events)
        await plain.aclose()
        await events.aclose()
        return seen

    data = json.loads(asyncio.run(main()).split(b"data: ")[1])
    assert data["preview"] == "data:image/png;base64,cG5n"


def test_streams_end_when_the_server_stops_or_the_job_is_deleted() -> None:
    async def main() -> int:
        hub, seen = Hub(), list[bytes]()

        async def current() -> JobView:
            return view("queued")

        async def gone() -> None:
            return None

        stopper = Thread(target=hub.close)
        events = follow("a", current, hub, preview=False)
        seen.append(await anext(events))
        stopper.start()
        await one_after_another(events, seen)
        await one_after_another(follow("a", gone, Hub(), preview=False), seen)
        return len(seen)

    assert asyncio.run(main()) == 1


async def forever() -> AsyncIterator[bytes]:
    while True:
        yield b"data: x\n\n"
        await asyncio.sleep(0)


def test_a_client_that_does_not_read_is_left() -> None:
    ends: list[int] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # its buffer is full

    stream = EventStream(forever(), idle=0.05, on_end=lambda: ends.append(1))
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, receive, send), 10))
    assert ends == [1]


def test_a_client_that_is_gone_is_noticed() -> None:
    ends: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        pass

    stream = EventStream(forever(), idle=60, on_end=lambda: ends.append(1))
    asyncio.run(asyncio.wait_for(stream({"type": "http"}, receive, send), 10))
    assert ends == [1]
