"""Who is answered, and how much is received."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from tether.errors import TetherError
from tether.serving import Limits, Settings, create_app
from tether.serving.errors import Refused
from tether.serving.guard import RELEASE, Guard

from .conftest import HERE

TOKEN = "a-token-that-is-long"
SHOWN = {"authorization": f"Bearer {TOKEN}"}


def never(scope: Any, error: Exception) -> Refused:
    raise error


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[TestClient]:
    """A server with a token that never draws."""
    app = create_app(settings_at(tmp_path_factory.mktemp("guard"), token=TOKEN, host="0.0.0.0"))
    yield TestClient(app, base_url="http://server.example")
    app.state.service.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[TestClient]:
    """A server without a token, with small limits, that never draws."""
    limits = Limits(body=4096, bodies=8192, queue=2)
    app = create_app(settings_at(tmp_path_factory.mktemp("local"), limits=limits))
    yield TestClient(app, base_url=HERE)
    app.state.service.close()


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize("shown", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(TOKEN)])
def test_who_shows_the_token_is_answered(guarded: TestClient, shown: str) -> None:
    assert guarded.get("/v1/jobs", headers={"Authorization": shown}).status_code == 200


@pytest.mark.parametrize(
    "shown", [None, "", TOKEN, "Bearer", "Bearer x", f"Bearer {TOKEN}x", basic("x"), "Basic ?", "Digest x"]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/metrics", "/openapi.json", "/none"])
def test_who_does_not_is_refused_everywhere(guarded: TestClient, shown: str | None, path: str) -> None:
    answer = guarded.get(path, headers={} if shown is None else {"Authorization": shown})
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]


def test_health_needs_no_token(guarded: TestClient) -> None:
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").status_code == 503  # it never opened its base


@pytest.mark.parametrize("token", [None, "short", "ünïcode-token-long-enough"])
def test_beyond_loopback_a_long_token_is_needed(tmp_path: Path, token: str | None) -> None:
    with pytest.raises(TetherError, match="token"):
        Settings(data=tmp_path, host="0.0.0.0", token=token)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:7860", "[::1]:7860", "127.0.0.1:99"])
def test_a_loopback_name_is_answered_without_a_token(local: TestClient, host: str) -> None:
    assert local.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example", "192.168.0.9", ""])
def test_another_name_of_this_machine_is_not(local: TestClient, host: str) -> None:
    assert local.get("/v1/jobs", headers={"Host": host}).status_code == 421


def test_another_web_site_is_refused_and_no_site_may_read(local: TestClient) -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        answer = local.post("/v1/jobs", json={"prompt": "x"}, headers={"Origin": origin})
        assert answer.status_code == 403
    own = local.get("/v1/jobs", headers={"Origin": HERE})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


def test_every_answer_has_the_security_headers(local: TestClient) -> None:
    for path in ("/v1/jobs", "/none", "/healthz"):
        headers = local.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"


def test_a_long_body_is_refused_with_and_without_its_length(local: TestClient) -> None:
    body = b'{"prompt":"' + b"x" * 5000 + b'"}'
    whole = local.post("/v1/jobs", content=body)
    parts = local.post("/v1/jobs", content=iter([body[:3000], body[3000:]]))
    for answer in (whole, parts):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b"\xff", b"[" * 4000, b'{"a":' * 600, b'{"seed": NaN}', b'{"seed": 1e999}']
    + [b'{"prompt": "\\ud800"}', b'{"prompt": "\\u0000"}', b'{"seed": ' + b"9" * 4000 + b"}", b'{"\\ud800": 1}'],
)
def test_what_is_no_json_is_422(local: TestClient, body: bytes) -> None:
    answer = local.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_other_types_and_broken_forms_are_refused(local: TestClient) -> None:
    assert local.post("/v1/jobs", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert local.post("/v1/jobs", content=b"--x\r\nrubbish", headers={"Content-Type": kind}).status_code == 422
    answer = local.post("/v1/jobs", data={"request": "{}"}, files={"/etc/passwd": b"x"})
    assert answer.status_code == 422
    assert local.post("/v1/jobs", data={"prompt": "x"}, files={"init": b"x"}).status_code == 422


def test_a_full_queue_is_429_with_a_time(local: TestClient) -> None:
    codes = [local.post("/v1/jobs", json={"prompt": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in codes] == [202, 202, 429]
    assert int(codes[-1].headers["retry-after"]) >= 1
    # One that was accepted before is found all the same.
    assert local.get("/metrics").text.count('tether_jobs{state="queued"} 2.0') == 1


def test_methods_that_clients_make_up_are_counted_as_one(local: TestClient) -> None:
    """What is measured is kept as long as the process lives: it must not grow with what is sent."""
    for number in range(5):
        assert local.request(f"MADEUP{number}", "/v1/jobs").status_code == 405
    assert "MADEUP" not in local.get("/metrics").text
    assert 'method="other"' in local.get("/metrics").text


def test_a_stream_that_there_is_no_room_for_is_refused_before_its_job_is_accepted(local: TestClient) -> None:
    service = local.app.state.service  # type: ignore[attr-defined]
    before, open_streams = service.store.counts(), service.open_streams
    service.open_streams = service.settings.limits.listeners
    answer = local.post("/v1/images/generations", json={"prompt": "x", "stream": True})
    assert (answer.status_code, service.store.counts()) == (503, before)
    service.open_streams = open_streams
    local.post("/v1/images/generations", json={"prompt": 3, "stream": True})  # refused: its stream does not count
    assert service.open_streams == open_streams


def test_fields_of_a_form_are_texts_that_can_be_kept(local: TestClient) -> None:
    answer = local.post("/v1/images/edits", data={"prompt": "a\0b"}, files={"image": b"x"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "prompt")


def asgi(guard: Any, body: list[bytes], *, silent: bool = False) -> list[Any]:
    """What an app that reads its body sees: the messages, or what was raised."""
    left = list(body)

    async def receive() -> dict[str, Any]:
        if silent:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard(scope, receive, send))
    return left


def test_a_client_that_stops_in_the_middle_and_all_bodies_together_are_bounded(tmp_path: Path) -> None:
    raised: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            await receive()
        except Exception as error:
            raised.append(error)

    limits = Limits(body=2048, bodies=3000, idle=0.05)
    guard = Guard(app, Settings(data=tmp_path, limits=limits), lambda *seen: None, never)
    asgi(guard, [b"x", b"y"], silent=True)
    asgi(guard, [b"x" * 1500, b"y" * 1500])
    guard._received += 2000  # of others
    asgi(guard, [b"x" * 1500, b"y"])
    assert [getattr(error, "status", error) for error in raised] == [408, 413, 503]
    assert guard._received == 2000


def test_a_body_that_is_not_in_memory_any_more_counts_no_more(tmp_path: Path) -> None:
    counted = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        counted.append(guard._received)
        scope[RELEASE]()
        counted.append(guard._received)

    guard = Guard(app, Settings(data=tmp_path), lambda *seen: None, never)
    asgi(guard, [b"x" * 1500])
    assert [*counted, guard._received] == [1500, 0, 0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"host": "["}, 421), ({"origin": "http://["}, 403), ({"host": "[", **SHOWN}, 200)],
)
def test_names_that_are_none_are_refused_without_an_error(
    local: TestClient, guarded: TestClient, headers: dict[str, str], status: int
) -> None:
    who = guarded if "authorization" in headers else local
    assert who.get("/v1/limits", headers=headers).status_code == status


def test_a_failure_of_the_app_is_an_answer_like_others(settings_at: Callable[..., Settings], tmp_path: Path) -> None:
    app = create_app(settings_at(tmp_path / "data"))

    @app.get("/breaks")
    def breaks() -> None:
        raise ValueError("secret")

    with TestClient(app, base_url=HERE) as client:
        answer = client.get("/breaks")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "secret" not in answer.text
        assert answer.headers["x-frame-options"] == "DENY"
        assert 'tether_http_seconds_count{method="GET",route="/breaks",status="500"} 1.0' in client.get("/metrics").text


def test_a_database_that_does_not_answer_is_503_with_a_time_to_come_again(
    settings_at: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("select", {}, Exception("the server closed the connection"))

    app = create_app(settings_at(tmp_path / "data"))
    with TestClient(app, base_url=HERE) as client:
        for name in ("waiting", "get", "jobs"):
            monkeypatch.setattr(app.state.service.store, name, away)
        asked = [client.get(path) for path in ("/v1/jobs", f"/v1/jobs/{'0' * 32}")]
        asked.append(client.post("/v1/jobs", json={"prompt": "x"}))
        assert [answer.status_code for answer in asked] == [503] * 3
        assert all(int(answer.headers["retry-after"]) > 0 for answer in asked)
        monkeypatch.undo()
        assert client.get("/v1/jobs/%00").status_code == 404


def test_options_are_set_beside_the_event_loop(local: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = []

    def find(what: str, name: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            beside.append(name)

    monkeypatch.setattr(local.app.state.service.catalog, "find", find)  # type: ignore[attr-defined]
    assert local.post("/sdapi/v1/options", json={"sd_model_checkpoint": "another"}).status_code == 200
    assert beside == ["another"]
    local.app.state.webui_options = None  # type: ignore[attr-defined]
