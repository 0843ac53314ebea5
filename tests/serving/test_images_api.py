"""OpenAI's images API, driven by the `openai` package."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from tether.images import fit, open_image
from tether.serving import Settings, create_app
from tether.serving.run import listening, uvicorn_server
from tether.serving.waiting import steps_of

from .conftest import png

TOKEN = "a-token-that-is-long"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[openai.OpenAI]:
    """A client of a server with a token, in a thread of its own."""
    settings = settings_at(tmp_path_factory.mktemp("images") / "data", token=TOKEN)
    with listening("127.0.0.1", 0) as made:
        server = uvicorn_server(create_app(settings), settings)
        thread = Thread(target=server.run, kwargs={"sockets": [made]})
        thread.start()
        yield openai.OpenAI(api_key=TOKEN, base_url=f"http://127.0.0.1:{made.getsockname()[1]}/v1", max_retries=0)
        server.should_exit = True
        thread.join()


def read(text: str | None) -> Image.Image:
    assert text is not None
    return open_image(io.BytesIO(base64.b64decode(text)))


def test_images_are_generated(api: openai.OpenAI) -> None:
    answer = api.images.generate(prompt="a cube", model="tiny", n=2, size="64x64", quality="low")
    assert answer.data is not None
    assert [read(one.b64_json).size for one in answer.data] == [(64, 64), (64, 64)]
    assert (answer.size, answer.output_format) == ("64x64", "png")


def test_other_formats_are_what_they_say(api: openai.OpenAI) -> None:
    answer = api.images.generate(prompt="a cube", quality="low", output_format="jpeg", output_compression=80)
    assert answer.data is not None
    content = base64.b64decode(answer.data[0].b64_json or "")
    assert content.startswith(b"\xff\xd8\xff")


def test_partial_images_come_before_the_image(api: openai.OpenAI) -> None:
    events = list(api.images.generate(prompt="a cube", quality="low", stream=True, partial_images=2))
    names = [event.type for event in events]
    assert names[-1] == "image_generation.completed"
    assert names[:-1] == ["image_generation.partial_image"] * (len(names) - 1)
    assert len(names) <= 3  # a client that is slow misses some
    assert read(events[-1].b64_json).size == (64, 64)


def test_an_edit_keeps_what_the_mask_covers(api: openai.OpenAI, photo: Image.Image) -> None:
    start = fit(photo, 64, 64)
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    answer = api.images.edit(
        image=("a.png", png(start)), mask=("m.png", png(mask)), prompt="a ball", size="64x64", quality="low"
    )
    assert answer.data is not None
    edited = np.asarray(read(answer.data[0].b64_json))
    assert (edited[:, 40:] == np.asarray(start)[:, 40:]).all()
    assert (edited[:, :24] != np.asarray(start)[:, :24]).any()


def test_what_is_drawn_over_the_image_steers_it(api: openai.OpenAI, photo: Image.Image) -> None:
    start = png(fit(photo, 64, 64))
    markup = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    markup.paste((255, 0, 0, 255), (10, 10, 14, 54))
    common: dict[str, Any] = {"image": ("a.png", start), "prompt": "a ball", "size": "64x64", "quality": "low"}
    api.images.edit(markup=("u.png", png(markup)), **common)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx2.Client(base_url=str(api.base_url).removesuffix("/v1/"), headers=headers) as client:
        job = client.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]
        assert client.get(f"/v1/jobs/{job['id']}/request").json()["controls"][0]["ref"] == "edges"
        drawn = open_image(io.BytesIO(client.get(job["maps"][0]).content))
    assert (np.asarray(drawn)[..., 0] == np.asarray(markup.getchannel("A"))).all()
    with pytest.raises(openai.UnprocessableEntityError, match="no transparent part"):
        api.images.edit(markup=("u.png", start), **common)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": "gpt-image-1"}, "base"),
        ({"n": 99}, "n"),
        ({"size": "huge"}, "size"),
        ({"size": "9999x9999"}, "size"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "svg"}, "output_format"),
        ({"response_format": "url"}, "response_format"),
        ({"style": "vivid"}, "style"),
        ({"n": 2, "stream": True}, "n"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(api: openai.OpenAI, values: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        api.images.generate(**{"prompt": "x"} | values)
    assert caught.value.body["field"] == field  # type: ignore[index]


def test_a_wrong_token_is_an_authentication_error(api: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        api.with_options(api_key="another-token-of-length").images.generate(prompt="x")


@pytest.mark.parametrize("stopping", [False, True])
def test_a_job_that_was_cancelled_or_put_back_is_not_asked_for_again(
    api: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    """With the retries that the package does by itself."""
    root = str(api.base_url).removesuffix("/v1/")
    native = httpx2.Client(base_url=root, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
    before = native.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]["number"]

    def cancel() -> None:
        while (job := native.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0])["number"] == before:
            time.sleep(0.01)
        native.delete(f"/v1/jobs/{job['id']}")

    if stopping:
        monkeypatch.setattr("tether.serving.images_api.ended", stopped)
    else:
        Thread(target=cancel).start()
    with pytest.raises(openai.InternalServerError if stopping else openai.ConflictError):
        api.with_options(max_retries=2).images.generate(prompt="x", quality="high", n=8)
    assert native.get("/v1/jobs", params={"limit": 1}).json()["jobs"][0]["number"] == before + 1


async def stopped(service: Any, *_: Any) -> None:
    service.hub.closed = True
    try:
        async for _ in steps_of(service, service.store.jobs(1)[0].id):
            pass
    finally:
        service.hub.closed = False


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_waits_is_cancelled_when_its_client_goes(api: openai.OpenAI, stream: bool) -> None:
    root = str(api.base_url).removesuffix("/v1/")
    native = httpx2.Client(base_url=root, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
    busy = native.post("/v1/jobs", json={"prompt": "x", "steps": 100, "count": 8}).json()["id"]
    if stream:
        api.images.generate(prompt="gone", quality="low", stream=True).close()
    else:
        with pytest.raises(openai.APITimeoutError):
            api.with_options(timeout=0.5).images.generate(prompt="gone", quality="low")
    job = next(one for one in native.get("/v1/jobs").json()["jobs"] if one["prompt"] == "gone")
    until = time.monotonic() + 30
    while (state := native.get(f"/v1/jobs/{job['id']}").json()["state"]) == "queued" and time.monotonic() < until:
        time.sleep(0.05)
    native.delete(f"/v1/jobs/{busy}")
    assert state == "cancelled"
