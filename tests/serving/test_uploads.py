"""Files that no client should send, on every route that takes an image: each is refused, whatever it claims or hides.

How long each takes, on its slowest route: `pytest tests/serving/test_uploads.py -s`.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tether.images import open_image
from tether.images.read import FORMATS, WEB_FORMATS
from tether.serving import Settings, create_app
from tether.serving.structure import FORMATS as CLIENT_FORMATS
from tether.serving.structure import MAX_BLOCKS, MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS, check_structure
from tether.serving.uploads import MAX_VALUES, read_image

from .conftest import HERE, as_base64, png

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # about odd metadata
MB = 2**20


@pytest.fixture(scope="module")
def idle(settings_at: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with the limits that it has by default, that does not draw."""
    app = create_app(settings_at(tmp_path_factory.mktemp("uploads")))
    yield TestClient(app, base_url=HERE)
    app.state.service.close()


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(width: int, height: int, extra: bytes = b"", *, data: bytes = bytes(72)) -> bytes:
    """A gray PNG by its specification: what its header says, and what is in it, need not agree."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def scans(side: int, number: int) -> bytes:
    """A progressive JPEG of zeros whose first frequencies are sent over and over: each scan goes over all pixels."""
    dc, ac = b"\0" + bytes([1, *[0] * 15]) + b"\0", b"\x10" + bytes([1, *[0] * 15]) + b"\xe0"  # one symbol, of one bit
    frame = segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    blocks = (side // 8) ** 2
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8)
    again = segment(0xDA, b"\1\1\0\1\1\0") + bytes(-(-15 * max(1, blocks // 2**14) // 8))  # runs of 2**14 empty blocks
    tables = segment(0xDB, b"\0" + b"\1" * 64) + frame + segment(0xC4, dc) + segment(0xC4, ac)
    return b"\xff\xd8" + tables + first + again * number + b"\xff\xd9"


def gif_with(extensions: bytes) -> bytes:
    whole = saved(Image.new("L", (8, 8)), "GIF")
    at = 13 + (3 << (whole[10] & 7) + 1)
    return whole[:at] + extensions + whole[at:]


def avif_and_tga(width: int, height: int) -> bytes:
    """An AVIF of 16x16 pixels whose first box is long enough to be the header of a TGA of another size."""
    whole = saved(Image.new("RGB", (16, 16), (255, 0, 0)), "AVIF")
    old, new = int.from_bytes(whole[:4], "big"), 0x0A00  # 0x0A is the type of an RGB TGA with runs
    kinds = bytes([24, 0x20]) + b"..avifmif1miaf"  # 24 bits, the first row on top
    box = struct.pack(">I", new) + b"ftypavif" + struct.pack("<HH", width, height) + kinds
    content = struct.pack(">I", whole.find(b"mdat") + 4)  # where its pixels begin
    moved = struct.pack(">I", whole.find(b"mdat") + 4 + new - old)
    return box.ljust(new, b"\0") + whole[old:].replace(content, moved)


def tiff_of_pixels(side: int) -> bytes:
    """A TIFF whose tiles have one pixel each."""
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1), (322, 1), (323, 1)]
    at = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries += [struct.pack("<HHII", tag, 4, side * side, at + 4 * side * side * k) for k, tag in enumerate((324, 325))]
    ends = struct.pack("<I", 8) * side * side + struct.pack("<I", 1) * side * side
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + b"\0" * 4 + ends


def run_lengths(number: int) -> bytes:
    """A BMP of runs of one pixel."""
    head = struct.pack("<IiiHHIIiiII", 40, 1024, 1024, 1, 8, 1, 2 * number, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + 2 * number, 0, 0, 1078) + head + bytes(1024) + b"\1\5" * number


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
HOSTILE: dict[str, Callable[[], bytes]] = {
    # Broken.
    "one byte": lambda: b"\0",
    "words": lambda: b"not an image, only words" * 20,
    "PNG, cut": lambda: png(NOISE)[:3000],
    "PNG, its first bytes": lambda: b"\x89PNG",
    "PNG without its first bytes": lambda: png(NOISE)[8:],
    "JPEG, cut": lambda: saved(NOISE, "JPEG")[:1500],
    "WebP, cut": lambda: saved(NOISE, "WEBP")[:600],
    "GIF of nothing": lambda: b"GIF89a" + b"\xff" * 50,
    "RIFF of nothing": lambda: b"RIFF" + b"\0" * 40,
    "two images in a row, the first cut": lambda: png(NOISE)[:3000] + png(NOISE),
    # Other formats.
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "PDF": lambda: b"%PDF-1.4\n%%EOF",
    "zip": lambda: b"PK\x03\x04" + bytes(100),
    "pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "TIFF, cut": lambda: saved(NOISE, "TIFF")[:2000],
    "TIFF of tiles of one pixel": lambda: tiff_of_pixels(400),
    "BMP of runs of one pixel": lambda: run_lengths(MB),
    "PPM in words": lambda: b"P3 1024 1024 255\n" + b"1 " * MB,
    "PPM with a long number": lambda: b"P6 9999999999 2 255\n",
    "TGA": lambda: saved(NOISE, "TGA"),
    # More pixels than memory.
    "PNG of 60,000 x 60,000": lambda: raw_png(60_000, 60_000),
    "PNG of 4,097 x 4,097, all there": lambda: raw_png(4097, 4097, data=bytes(4098 * 4097)),
    "PNG of 2^31 - 1 in a row": lambda: raw_png(2**31 - 1, 1),
    "JPEG of 65,535 x 65,535": lambda: b"\xff\xd8" + segment(0xC0, b"\x08\xff\xff\xff\xff\1\1\x11\0"),
    "GIF of 65,535 x 65,535": lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "WebP of 16,384 x 16,384": lambda: b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L\x0a\0\0\0\x2f" + b"\xff" * 9,
    # More parts than time.
    "PNG of empty chunks": lambda: raw_png(8, 8, chunk(b"teSt", b"") * (3 * MB // 12)),
    "JPEG of empty segments": lambda: b"\xff\xd8" + b"\xff\xe9\0\2" * MB + saved(NOISE, "JPEG")[2:],
    "JPEG of padding": lambda: b"\xff\xd8" + b"\xff" * (3 * MB) + saved(NOISE, "JPEG")[2:],
    "JPEG of scans": lambda: scans(4096, 20_000),
    "GIF of empty comments": lambda: gif_with(b"\x21\xfe\1x\0" * MB),
    # Bytes that grow.
    "PNG with texts of 70 MB": lambda: raw_png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MB - 10))) * 70),
    "PNG with a text of 30 MB": lambda: raw_png(8, 8, chunk(b"zTXt", b"tether\0\0" + zlib.compress(bytes(30 * MB)))),
    "PNG with a profile of 30 MB": lambda: raw_png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(30 * MB)))),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_on_every_route(idle: TestClient, what: str) -> None:
    content, slowest = HOSTILE[what](), 0.0

    def post(path: str, **sent: Any) -> Any:
        nonlocal slowest
        started = time.perf_counter()
        answer = idle.post(path, **sent)
        slowest = max(slowest, time.perf_counter() - started)
        return answer

    text = base64.b64encode(content).decode()
    whole = as_base64(Image.new("RGB", (8, 8)))
    unit = {"model": "edges", "image": text}
    answers = {
        "form": post("/v1/jobs", data={"request": '{"prompt": "x"}'}, files={"init": content}),
        "base64": post("/v1/jobs", json={"prompt": "x", "controls": [{"ref": "edges", "condition": text}]}),
        "annotate": post("/v1/annotate", json={"image": text, "kind": "canny"}),
        "read": post("/v1/read", json={"image": text}),
        "png-info": post("/sdapi/v1/png-info", json={"image": text}),
        "img2img": post("/sdapi/v1/img2img", json={"prompt": "x", "init_images": [text]}),
        "mask": post("/sdapi/v1/img2img", json={"prompt": "x", "init_images": [whole], "mask": text}),
        "unit": post(
            "/sdapi/v1/txt2img",
            json={"prompt": "x", "width": 64, "height": 64, "alwayson_scripts": {"controlnet": {"args": [unit]}}},
        ),
        "detect": post("/controlnet/detect", json={"controlnet_module": "canny", "controlnet_input_images": [text]}),
        "edits": post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("a.png", content)}),
    }
    print(f"{what}: {len(content):,} bytes, {slowest:.2f} s")
    found = {name: (answer.status_code, answer.text[:200]) for name, answer in answers.items()}
    assert {status for status, _ in found.values()} <= {413, 422}, found
    assert idle.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "content",
    [
        saved(NOISE, "JPEG", progressive=True, quality=95),
        saved(NOISE, "JPEG", exif=b"Exif\0\0MM\0*" + b"x" * 60_000, icc_profile=bytes(500_000), comment=b"x" * 60_000),
        saved(NOISE, "GIF", comment=b"x" * 10_000, save_all=True, append_images=[Image.new("RGB", (64, 64))] * 40),
        saved(NOISE, "WEBP", exif=b"Exif\0\0MM\0*" + b"x" * 60_000),
        raw_png(8, 8, chunk(b"teSt", b"x" * 100) * 5000),
    ],
    ids=["progressive", "metadata of a camera", "animation", "WebP", "many chunks"],
)
def test_real_files_are_far_from_the_limits(content: bytes) -> None:
    check_structure(content, "image")
    cut = [content[:end] for end in range(min(len(content), 300))]
    for part in cut:
        check_structure(part, "image")


def test_json_of_many_values_is_refused_before_it_takes_memory(idle: TestClient) -> None:
    for body in (b'{"a": [' + b"{}," * (5 * MB) + b"{}]}", json.dumps({str(k): k for k in range(MAX_VALUES)}).encode()):
        answer = idle.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert "values" in answer.json()["error"]["message"]


def test_the_limits_of_parts_are_those_of_the_files_that_are_refused() -> None:
    """One part less than too many is taken."""
    at_most = [
        raw_png(8, 8, chunk(b"teSt", b"") * (MAX_CHUNKS - 3)),
        gif_with(b"\x21\xfe\1x\0" * (MAX_BLOCKS // 3 - 1)),
    ]
    at_most += [
        b"\xff\xd8" + b"\xff\xe9\0\2" * (MAX_SEGMENTS - 20) + saved(NOISE, "JPEG")[2:],
        scans(64, MAX_SCANS - 1),
    ]
    for content in at_most:
        check_structure(content, "image")
        Image.open(io.BytesIO(content)).load()


def test_the_formats_of_clients_are_tried_first_wherever_a_file_is_read() -> None:
    """What is kept of a request is read again where it is drawn."""
    assert FORMATS[: len(WEB_FORMATS)] == WEB_FORMATS == CLIENT_FORMATS
    assert FORMATS[-1] == "TGA"


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
def test_an_image_is_decoded_as_the_format_whose_size_was_looked_at() -> None:
    """A TGA has no beginning of its own: a file can be an AVIF of few pixels, and a TGA of many."""
    content = avif_and_tga(9000, 9000)
    with Image.open(io.BytesIO(content), formats=["TGA"]) as image:
        assert image.size == (9000, 9000)
    assert read_image(content, "init", 1000).size == (16, 16)
    assert open_image(io.BytesIO(content)).size == (16, 16)
