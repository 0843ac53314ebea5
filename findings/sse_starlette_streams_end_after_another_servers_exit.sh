#!/usr/bin/env bash
# Surprise: once one uvicorn server of a process was asked to exit, sse-starlette's streams on every later server of that
# process end without an event.
#
# Importing sse_starlette replaces `uvicorn.Server.handle_exit` for the whole process. The replacement sets
# `AppStatus.should_exit`, a class attribute that nothing sets back. A server that is started afterwards, as in tests, in
# notebooks or in a program that serves twice, answers 200, and its `EventSourceResponse` is cut before its first event if
# that takes a moment. The same generator in Starlette's own `StreamingResponse` gives all events.
#
# Versions: sse-starlette 3.7.0, starlette 1.10.0, uvicorn 0.54.0. Seen:
#   handle_exit replaced: True
#   first server: 3 events; second server: EventSourceResponse 0 events, StreamingResponse 3 events
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sse-starlette==3.7.0 starlette==1.10.0 uvicorn==0.54.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import asyncio
import http.client
import signal
import threading
import time
import urllib.request

import uvicorn

plain = uvicorn.Server.handle_exit

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

replaced = uvicorn.Server.handle_exit is not plain


async def numbers():
    for number in range(3):
        await asyncio.sleep(1)
        yield {"data": str(number)}


async def lines():
    async for one in numbers():
        yield f"data: {one['data']}\r\n\r\n"


async def sse(request):
    return EventSourceResponse(numbers())


async def stream(request):
    return StreamingResponse(lines(), media_type="text/event-stream")


def events_of_a_server(*paths):
    """Events on each path of a server that is started, asked, and told to exit as by Ctrl-C."""
    app = Starlette(routes=[Route("/sse", sse), Route("/stream", stream)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    found = []
    for path in paths:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            assert answer.status == 200
            try:
                found.append(answer.read().count(b"data:"))
            except http.client.IncompleteRead as cut:
                found.append(cut.partial.count(b"data:"))
    server.handle_exit(signal.SIGINT, None)
    thread.join()
    return found


first, second = events_of_a_server("/sse"), events_of_a_server("/sse", "/stream")
print(f"handle_exit replaced: {replaced}")
print(f"first server: {first[0]} events; second server: EventSourceResponse {second[0]} events, "
      f"StreamingResponse {second[1]} events")
raise SystemExit(0 if (replaced, first, second) == (True, [3], [0, 3]) else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py"
