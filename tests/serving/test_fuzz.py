"""Values that no client should send: every one is accepted or refused, none is an error of the server."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tether.serving import Limits, Settings, create_app
from tether.serving.acceptance import accept
from tether.serving.annotations import annotated
from tether.serving.catalog import Catalog
from tether.serving.errors import Refused
from tether.serving.images_api import _native
from tether.serving.service import Service
from tether.serving.uploads import parse_json
from tether.serving.webui.payload import Options, wanted

from .conftest import HERE, as_base64

IMAGE = as_base64(Image.new("RGB", (8, 8), (200, 10, 10)))
CONTROL = {"ref": "edges", "photo": IMAGE, "kind": "canny", "options": {"low": 10}, "strength": 0.5, "window": [0, 1]}
NATIVE = {
    "prompt": "x", "seed": [1, 2], "count": 2, "steps": 3, "size": [64, 64], "controls": [CONTROL], "init": IMAGE,
    "mask": IMAGE, "loras": [], "scheduler": "ddim", "eta": 0.5, "guidance_scale": 2.0, "versions": {"torch": "2"},
    "denoising_strength": 0.9, "clip_skip": 1, "rules": 2,
}  # fmt: skip
UNIT = {"module": "canny", "model": "edges", "image": {"image": IMAGE, "mask": IMAGE}, "weight": 1, "control_mode": 1}
UNIT |= {"resize_mode": 1, "processor_res": 64, "threshold_a": 9, "guidance_start": 0.1, "effective_region_mask": IMAGE}
WEBUI = {
    "prompt": "x", "seed": 3, "steps": 3, "width": 64, "height": 64, "cfg_scale": 2, "sampler_name": "DDIM", "eta": 1,
    "scheduler": "automatic", "batch_size": 1, "n_iter": 1, "init_images": [IMAGE], "mask": IMAGE, "mask_blur": 2,
    "denoising_strength": 0.9, "inpainting_fill": 1, "resize_mode": 0, "override_settings": {"sd_vae": "None"},
    "alwayson_scripts": {"controlnet": {"args": [UNIT]}}, "styles": [], "subseed_strength": 0,
}  # fmt: skip
ANNOTATE = {"image": IMAGE, "kind": "canny", "annotator": "opencv", "options": {"low": 1}, "size": [8, 8], "fit": "pad"}
OPENAI = {"prompt": "x", "n": 1, "size": "64x64", "quality": "low", "output_format": "png", "partial_images": 1}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324, "", " ", "x", "0",
    "-1", "1e9", "nan", "../x", "\x1b[0m", "é" * 9, "a" * 3000, "(" * 500, "<lora:x:1>", "data:image/png;base64,",
    "AAAA", IMAGE, [], {}, [[]], [None], [1, 2], [IMAGE], [IMAGE] * 3, {"": 1}, {"a": {"b": [1]}}, {"image": IMAGE},
    [[[[[[1]]]]]], "karras",
]  # fmt: skip

TRIES = int(os.environ.get("TETHER_FUZZ", "300"))
"""Of each API; more when asked for."""


@pytest.fixture(scope="module")
def settings(settings_at: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_at(tmp_path_factory.mktemp("fuzz"), limits=Limits(upload_pixels=10_000, pixels=128 * 128))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*at, key)
        yield from places(each, (*at, key))


def changed(value: Any, rng: random.Random) -> Any:
    """A value with some of what is inside replaced, deleted or added."""
    made = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(made)) or [("x",)])
        inside = made
        for key in way:
            inside = inside[key]
        match rng.randrange(5), inside:
            case 0, dict():
                del inside[last]
            case 1, dict():
                inside[rng.choice(["x", "self", "", "strength", "é", "controls", "__class__"])] = copy.deepcopy(
                    rng.choice(ODD)
                )
            case _:
                inside[last] = copy.deepcopy(rng.choice(ODD))
    return made


@pytest.mark.parametrize("what", ["native", "webui", "annotate", "openai"])
def test_odd_values_are_accepted_or_refused(what: str, settings: Settings) -> None:
    catalog, rng = Catalog(settings.models), random.Random(what)

    def native(values: Any) -> None:
        accept(values, settings, catalog)

    def webui(values: Any) -> None:
        read = wanted(values, Options(), settings.limits, from_image=rng.random() < 0.7)
        native(read.values)

    def openai(values: Any) -> None:
        service: Any = type("Service", (), {"settings": settings})
        native(_native(values, service)[0])

    starts = {
        "native": (NATIVE, native),
        "webui": (WEBUI, webui),
        "annotate": (ANNOTATE, lambda values: annotated(values, settings)),
        "openai": (OPENAI, openai),
    }
    start, run = starts[what]
    run(copy.deepcopy(start))  # as it is, it is right
    accepted = 0
    for _ in range(TRIES):
        values = changed(start, rng)
        with suppress(Refused):
            run(parse_json(json.dumps(values)))
            accepted += 1
    assert accepted > 0


def test_any_bytes_are_json_or_refused() -> None:
    rng = random.Random(1)
    text = json.dumps(NATIVE).encode()
    for _ in range(300):
        body = bytearray(text[: rng.randrange(len(text))] if rng.random() < 0.5 else text)
        for _ in range(rng.randint(0, 4)):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        with suppress(Refused):
            parse_json(bytes(body))


def test_no_route_answers_an_odd_request_with_an_error_of_the_server(
    settings_at: Callable[..., Settings], tmp_path: Path
) -> None:
    """Every route of the OpenAPI document, with odd parameters and bodies; the server does not draw."""
    app = create_app(settings_at(tmp_path, limits=Limits(queue=1)))
    service: Service = app.state.service
    job = service.submit({"prompt": "x"})[0].id  # the queue is full: what would wait for a job is refused
    client, rng = TestClient(app, base_url=HERE, raise_server_exceptions=False), random.Random(2)
    odd = ["", "x", "-1", "99999999999999999999", "../..", "%00", "é", "nan", job]
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            for _ in range(6):
                url = path.replace("{id}", rng.choice(odd)).replace("{index}", rng.choice(odd))
                if url.endswith("/events"):
                    continue  # it goes on until its job ends
                query = {name: rng.choice(odd) for name in ("limit", "before", "preview") if rng.random() < 0.5}
                kind = rng.choice(["application/json", "multipart/form-data; boundary=b", "text/plain", ""])
                body = rng.choice(
                    [b"", b"{}", b"[]", b"{", b'{"image": "x"}', b"--b\r\n\r\n--b--", json.dumps(ODD[:5]).encode()]
                )
                sent = {"params": query, "headers": {"Content-Type": kind}}
                answer = client.request(method, url, **sent, **({"content": body} if method == "post" else {}))
                assert answer.status_code < 500 or answer.status_code == 503, (method, url, kind, body, answer.text)
    service.close()
