"""Clients that stop, on connections of their own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from starlette.responses import Response

from tether.serving import Limits, Settings, create_app
from tether.serving.run import listening, uvicorn_server

MB = 2**20
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[Any]:
    """A server at `port`; it waits half a second for a client, and has routes whose answers are long and late."""
    settings = settings_at(tmp_path_factory.mktemp("connection") / "data", limits=Limits(idle=0.5, body=8 * MB))
    app = create_app(settings)
    app.add_api_route("/long", lambda: Response(bytes(32 * MB)))
    app.add_api_route("/slow", lambda: time.sleep(2))
    with listening("127.0.0.1", 0) as made:
        server = uvicorn_server(app, settings)
        thread = Thread(target=server.run, kwargs={"sockets": [made]})
        thread.start()
        server.port = made.getsockname()[1]  # type: ignore[attr-defined]
        yield server
        server.should_exit = True
        thread.join()


def seconds_until_closed(connection: socket.socket) -> float:
    started = time.monotonic()
    connection.settimeout(10)
    while connection.recv(2**16):
        pass
    return time.monotonic() - started


@pytest.mark.parametrize("sent", [b"", b"GET /heal", GET, b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + GET])
def test_a_client_whose_headers_do_not_come_is_dropped(server: Any, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
        assert seconds_until_closed(connection) < 5


def test_a_client_that_sends_its_headers_byte_by_byte_is_dropped(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        started = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - started < 10:
                connection.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - started < 5


def test_a_second_request_that_stops_is_dropped(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(GET + b"\r\n" + GET)
        assert seconds_until_closed(connection) < 5


def test_an_answer_that_is_not_read_is_not_kept(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(GET.replace(b"/healthz", b"/long") + b"\r\n")
        until = time.monotonic() + 10
        while not server.server_state.connections and time.monotonic() < until:
            time.sleep(0.01)
        while server.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        assert not server.server_state.connections


def test_an_answer_that_is_read_slowly_comes_whole(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
        connection.sendall(GET.replace(b"/healthz", b"/long") + b"Connection: close\r\n\r\n")
        connection.settimeout(10)
        read = 0
        while more := len(connection.recv(2**20)):
            read += more
            time.sleep(0.02)
        assert read > 32 * MB


def test_a_client_may_wait_longer_than_that_for_its_answer(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(GET.replace(b"/healthz", b"/slow") + b"\r\n")
        connection.settimeout(10)
        assert b"200 OK" in connection.recv(2**16)


@pytest.mark.parametrize(
    ("path", "length", "status"), [("/v1/jobs", 12 * MB, 413), ("/v1/none", 7 * MB, 404), ("/v1/limits", 7 * MB, 405)]
)
def test_who_sends_all_of_a_request_before_the_answer_reads_it(
    server: Any, path: str, length: int, status: int
) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(f"http://127.0.0.1:{server.port}{path}", bytes(length)))
    assert caught.value.code == status
