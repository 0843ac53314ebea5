"""What is refused before a job is accepted: by name of the field, before anything large is read."""

from __future__ import annotations

import base64
import io
import re
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.sampling import ControlRequest, Request
from tether.sampling.engines import resolved
from tether.sampling.request import RULES
from tether.serving import Limits, Models, Settings
from tether.serving.acceptance import accept, stored_request
from tether.serving.catalog import Catalog
from tether.serving.errors import Refused
from tether.serving.structure import FORMATS

from .conftest import as_base64, png

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # about odd metadata

BLACK = as_base64(Image.new("RGB", (8, 8)))
EDGES = {"ref": "edges", "condition": BLACK}


@pytest.fixture
def settings(settings_at: Callable[..., Settings], tmp_path: Path) -> Settings:
    return settings_at(tmp_path, limits=Limits(upload_pixels=10_000, pixels=128 * 128))


def accepted(settings: Settings, values: dict[str, Any]) -> Request:
    return stored_request(accept(values, settings, Catalog(settings.models)).text)


def refused(settings: Settings, values: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        accept(values, settings, Catalog(settings.models))
    assert "\n" not in caught.value.message
    return caught.value


def test_what_is_kept_is_the_request_with_the_operators_defaults(settings: Settings) -> None:
    request = accepted(
        settings, {"prompt": "x", "seed": 3, "controls": [EDGES], "init": f"data:image/png;base64,{BLACK}"}
    )
    assert (request.base, request.seed, request.device) == ("tiny", 3, "cpu")
    assert request.controls[0].condition is not None
    assert request.init is not None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"prompt": 3}, "prompt"),
        ({"negative_prompt": None}, "negative_prompt"),
        ({"steps": 0}, "steps"),
        ({"steps": 101}, "steps"),
        ({"steps": "101"}, "steps"),
        ({"count": 9}, "count"),
        ({"count": "9"}, "count"),
        ({"count": 2, "seed": [1, 2, 3]}, "count"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"guidance_scale": "much"}, "guidance_scale"),
        ({"scheduler": "fast"}, "scheduler"),
        ({"spacing": "wide"}, "spacing"),
        ({"scheduler": "ddim", "sigmas": "karras"}, "sigmas"),
        ({"eta": 0.5}, "eta"),
        ({"size": [64]}, "size.1"),
        ({"size": [4096, 4096]}, "size"),
        ({"size": [8, 8192]}, "size"),
        ({"size": [-8, -8]}, "size"),
        ({"fit": "squeeze"}, "fit"),
        ({"mask": BLACK}, "mask"),
        ({"init": BLACK, "steps": 1, "denoising_strength": 0.5}, "steps"),
        ({"init": 5}, "init"),
        ({"init": "no base64!"}, "init"),
        ({"init": base64.b64encode(b"no image").decode()}, "init"),
        ({"init": ""}, "init"),
        ({"controls": {}}, "controls"),
        ({"controls": [EDGES] * 5}, "controls"),
        ({"controls": ["edges"]}, "controls.0"),
        ({"controls": [{"ref": "edges"}]}, "controls.0.condition"),
        ({"controls": [EDGES, EDGES | {"strength": -1}]}, "controls.1.strength"),
        ({"controls": [EDGES | {"window": [0.8, 0.2]}]}, "controls.0.window"),
        ({"controls": [EDGES | {"weighting": "heavy"}]}, "controls.0.weighting"),
        ({"controls": [EDGES | {"mask": "?"}]}, "controls.0.mask"),
        ({"controls": [EDGES | {"strenght": 1}]}, "controls.0.strenght"),
        ({"controls": [{"ref": "edges", "photo": BLACK, "kind": "cany"}]}, "controls.0.kind"),
        ({"controls": [{"ref": "edges", "photo": BLACK, "kind": "canny", "annotator": "x"}]}, "controls.0.annotator"),
        (
            {"controls": [{"ref": "edges", "photo": BLACK, "kind": "canny", "options": {"low": -5}}]},
            "controls.0.options",
        ),
        ({"prompt": "a <lora:x:1> cat"}, "prompt"),
        ({"prompt": "(a:999)"}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"device": "cuda"}, "device"),
        ({"engine": "fast"}, "engine"),
        ({"dtype": "float8"}, "dtype"),
        ({"stepz": 4}, "stepz"),
        ({"self": 4}, None),
        ({"versions": {"x": "y" * 20_000}}, "request"),
        ({"controls": [EDGES | {"source": "y" * 20_000}]}, "controls.0"),
    ],
)
def test_a_refusal_names_the_field(settings: Settings, values: dict[str, Any], field: str | None) -> None:
    error = refused(settings, {"prompt": "x"} | values)
    assert (error.status, error.field) == (422, field)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"loras": ["a:" + "1" * 1_000_000 + "x"]}, "request"),
        ({"loras": ["edges:" + "9" * 400]}, "loras.0"),
        ({"controls": [EDGES | {"strength": "-".join(["1" * 400] * 2) + "@" + "1" * 400}]}, "controls.0.strength"),
    ],
)
def test_a_text_without_end_is_refused_at_once(settings: Settings, values: dict[str, Any], field: str) -> None:
    started = time.perf_counter()
    error = refused(settings, {"prompt": "x"} | values)
    assert (error.status, error.field) == (422, field)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../tiny", "owner/name", "http://host/x", "~/x", ".", "", "file.safetensors"]
)
@pytest.mark.parametrize("field", ["base", "vae", "controls.0.ref", "loras.0", "embeddings.0"])
def test_no_field_can_name_a_path_a_repository_or_an_address(settings: Settings, name: str, field: str) -> None:
    values: dict[str, Any] = {"prompt": "x"}
    place = {
        "base": {"base": name},
        "vae": {"vae": name},
        "controls.0.ref": {"controls": [EDGES | {"ref": name}]},
        "loras.0": {"loras": [name]},
        "embeddings.0": {"embeddings": [name]},
    }
    error = refused(settings, values | place[field])
    assert error.status == 422
    assert error.field == field


def test_every_field_of_a_request_that_is_a_text_is_a_name_or_harmless() -> None:
    """A new field that could name a file must be added to the catalog's checks, and to this list."""
    named = {"base", "vae", "loras", "embeddings", "ref"}
    harmless = {"prompt", "negative_prompt", "scheduler", "device", "engine", "versions", "source", "weighting"}
    harmless |= {"fingerprints", "strength", "kind", "annotator", "options"}
    images = {"init", "mask", "photo", "condition"}
    for model in (Request, ControlRequest):
        for name, field in model.model_fields.items():
            if re.search(r"\b(str|Image|Path|Any)\b", str(field.annotation)):
                assert name in named | harmless | images, f"{name} is new: can it name a file?"


def test_the_models_of_a_request_are_those_of_the_operators_folders(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    (folder / "style.safetensors").touch()
    (folder / ".hidden.safetensors").touch()
    (folder / "notes.txt").touch()
    catalog = Catalog(Models(loras=(folder,)))
    assert list(catalog.entries("loras")) == ["style"]
    assert catalog.locate("loras", "style") == str(folder / "style.safetensors")
    assert catalog.without_paths(f"{folder / 'style.safetensors'} is damaged") == "style is damaged"


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with next to no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize("size", [(200, 200), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_an_image_with_too_many_pixels_is_refused_by_its_header(settings: Settings, size: tuple[int, int]) -> None:
    error = refused(settings, {"prompt": "x", "init": base64.b64encode(bomb(*size)).decode()})
    assert (error.status, error.field) == (413, "init")


def test_broken_images_are_refused(settings: Settings) -> None:
    rng = np.random.default_rng(0)
    whole = png(Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)))
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 99, 200)).save(buffer, "TIFF")
    broken = [whole[:100], whole[:2000], b"\x89PNG", b"", whole[8:], buffer.getvalue()[:60], b"GIF89a" + b"\xff" * 50]
    broken += [b"BM" + b"\xff" * 60, b"RIFF" + b"\0" * 40, b"P6 9999999999 2 255\n", b"<svg xmlns='x'/>", b"%PDF-1.4"]
    for content in broken:
        error = refused(settings, {"prompt": "x", "init": base64.b64encode(content).decode()})
        assert error.status in (413, 422)
        assert error.field == "init"


def test_any_bytes_of_an_image_changed_give_an_image_or_a_refusal(settings: Settings) -> None:
    rng = np.random.default_rng(1)
    for format in FORMATS:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, format)
        for _ in range(40):
            content = bytearray(buffer.getvalue())
            for at in rng.integers(0, min(len(content), 200), 4):
                content[at] = rng.integers(0, 256)
            with suppress(Refused):
                accepted(settings, {"prompt": "x", "init": base64.b64encode(content).decode()})


DRAWN = {"versions": {"torch": "1.0"}, "fingerprints": {"tiny": "1:x"}, "index": 1, "count": 2}


def test_a_drawn_request_is_drawn_anew_by_its_rules_and_tells_nothing_of_then(settings: Settings) -> None:
    for given, rules in (({}, 1), ({"rules": 3}, 3)):
        request = accepted(settings, {"prompt": "x"} | DRAWN | given)
        assert (request.versions, request.fingerprints, request.index) == ({}, {}, 0)
        assert request.rules == rules
    assert accepted(settings, {"prompt": "x"}).rules == RULES


def test_what_a_request_was_drawn_with_is_passed_over(settings_at: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_at(tmp_path, engine="auto")
    for given in ({"device": "cuda", "engine": "compile"} | DRAWN, {"engine": resolved("auto"), "device": "cpu"}):
        request = accepted(settings, {"prompt": "x"} | given)
        assert (request.device, request.engine) == ("cpu", "auto")
    assert refused(settings, {"prompt": "x", "engine": "compile"}).field == "engine"


def test_a_long_name_is_looked_for_in_no_time(settings: Settings) -> None:
    started = time.perf_counter()
    with pytest.raises(TetherError, match="no base"):
        Catalog(settings.models).find("bases", "ab" * 10_000_000)
    assert time.perf_counter() - started < 1
