"""Every odd file that people have gives the right image, or one clear line."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageCms

from tether.errors import TetherError
from tether.images.read import FORMATS, WORKING_SIDE, image_size, open_image, read_metadata, to_rgb


def written(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(TetherError, match=re.escape(path.name)) as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_empty_folder_text_and_truncated_files_are_refused(tmp_path: Path) -> None:
    assert "no file" in refused(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    assert "empty" in refused(tmp_path / "empty.png")
    assert "folder" in refused(tmp_path)
    (tmp_path / "text.png").write_text("not an image, only words" * 20)
    assert "not a supported image format" in refused(tmp_path / "text.png")
    rng = np.random.default_rng(0)
    whole = written(tmp_path / "whole.png", Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    assert "damaged" in refused(tmp_path / "cut.png")
    jpeg = written(tmp_path / "whole.jpg", Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)))
    (tmp_path / "cut.jpg").write_bytes(jpeg.read_bytes()[:1500])
    assert "damaged" in refused(tmp_path / "cut.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes in folders")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is a pipe or device: expected an image file" in refused(tmp_path / "pipe.png")


def test_a_header_that_claims_too_much_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    small = written(tmp_path / "bomb.png", Image.new("L", (8, 8)))
    data = bytearray(small.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    small.write_bytes(data)
    assert "million" in refused(small)


def test_vector_and_document_formats_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "not a supported image format" in refused(tmp_path / "a.eps")


def test_one_pixel_and_very_wide_images_are_read(tmp_path: Path) -> None:
    one = open_image(written(tmp_path / "one.png", Image.new("RGB", (1, 1), (9, 8, 7))))
    assert (one.size, one.getpixel((0, 0))) == ((1, 1), (9, 8, 7))
    wide = open_image(written(tmp_path / "wide.png", Image.new("RGB", (20_000, 30), (200, 10, 10))))
    assert wide.width == WORKING_SIDE
    assert wide.getpixel((100, 3)) == (200, 10, 10)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    read = np.asarray(open_image(written(tmp_path / "ramp.png", Image.fromarray(ramp))))
    assert np.abs(read[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    tiff = np.asarray(open_image(written(tmp_path / "float.tiff", Image.fromarray((ramp / 65535).astype(np.float32)))))
    assert np.abs(tiff[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    dark = np.full((8, 8), 200, ">u2")  # black, nearly, whichever way it is written
    assert open_image(written(tmp_path / "dark.png", Image.fromarray(dark.astype("<u2")))).getpixel((4, 4)) == (1, 1, 1)
    (tmp_path / "dark.pgm").write_bytes(b"P5 8 8 65535\n" + dark.tobytes())
    assert open_image(tmp_path / "dark.pgm").getpixel((4, 4)) == (1, 1, 1)
    big_endian = Image.frombytes("I;16B", (8, 8), dark.tobytes())
    assert open_image(written(tmp_path / "dark.tiff", big_endian)).getpixel((4, 4)) == (1, 1, 1)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for name in ("red.jpg", "red.tiff"):
        r, g, b = open_image(written(tmp_path / name, red)).getpixel((8, 8))  # type: ignore[misc]
        assert min(r, 255 - g, 255 - b) > 215
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_image(written(tmp_path / "profile.jpg", red, icc_profile=profile)).info == {}


def test_palette_and_transparency_are_kept_until_the_role_is_known(tmp_path: Path) -> None:
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert open_image(written(tmp_path / "p.png", palette)).getpixel((4, 4)) == (10, 200, 30)
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 4, 8))
    path = written(tmp_path / "rgba.png", half)
    assert open_image(path).getpixel((6, 4)) == (255, 0, 0, 0)
    for background, level in (("white", 255), ("black", 0)):
        for image in (open_image(path, background=background), to_rgb(open_image(path), background)):  # type: ignore[arg-type]
            assert image.mode == "RGB"
            assert image.getpixel((6, 4)) == (level, level, level)
            assert image.getpixel((1, 4)) == (0, 0, 255)
    gray = open_image(written(tmp_path / "la.png", Image.new("LA", (8, 8), (0, 128))), background="white")
    assert abs(gray.getpixel((4, 4))[0] - 127) <= 1  # type: ignore[index]
    palette.info["transparency"] = 0
    clear = open_image(written(tmp_path / "pt.png", palette, transparency=0))
    assert clear.getpixel((4, 4))[3] == 0  # type: ignore[index]


def test_what_is_opaque_is_rgb_whatever_its_mode_could_hold(tmp_path: Path) -> None:
    for mode in ("RGBA", "LA"):
        image = Image.new("RGBA", (8, 8), (9, 9, 9, 255)).convert(mode)
        assert open_image(written(tmp_path / f"{mode}.png", image)).mode == "RGB"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(color_type: int, bits: int, rows: list[bytes], width: int, transparent: bytes = b"") -> io.BytesIO:
    """A PNG by its specification (ISO/IEC 15948), as no program here writes it."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    key = chunk(b"tRNS", transparent) if transparent else b""
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + key + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("color_type", "bits", "clear", "shown"),
    [
        (0, 16, struct.pack(">H", 0x1234), struct.pack(">H", 65535)),
        (2, 16, struct.pack(">3H", 0xFF00, 0x1234, 7), struct.pack(">3H", 65535, 65535, 65535)),
        (0, 8, b"\x07", b"\xff"),
        (2, 8, b"\x07\x08\x09", b"\xff\xff\xff"),
    ],
)
def test_a_transparent_color_of_a_png_is_transparent_at_every_depth(
    color_type: int, bits: int, clear: bytes, shown: bytes
) -> None:
    key = clear if bits == 16 else b"".join(struct.pack(">H", level) for level in clear)
    read = open_image(raw_png(color_type, bits, [clear + shown], 2, key))
    assert read.mode == "RGBA"
    assert read.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert read.getpixel((1, 0)) == (255, 255, 255, 255)


@pytest.mark.parametrize(("bits", "row"), [(1, 0b10000000), (2, 0b11000000), (4, 0b11110000)])
def test_a_transparent_gray_of_few_bits_is_the_right_one(bits: int, row: int) -> None:
    read = open_image(raw_png(0, bits, [bytes([row])], 2, struct.pack(">H", 2**bits - 1)))
    assert [read.getpixel((x, 0))[3] for x in range(2)] == [0, 255]  # type: ignore[index]


@pytest.mark.parametrize("color_type", [4, 6])
def test_alpha_of_16_bits_is_that_of_8(color_type: int) -> None:
    color = (0x8000,) * (1 if color_type == 4 else 3)
    row = struct.pack(f">{2 * len(color) + 2}H", *color, 0, *color, 0x8080)
    read = open_image(raw_png(color_type, 16, [row], 2))
    assert [read.getpixel((x, 0))[3] for x in range(2)] == [0, 0x80]  # type: ignore[index]


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    for name in ("a.gif", "a.webp", "a.png"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, **options)
        assert open_image(tmp_path / name).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # the upper left corner is white
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path / "photo.jpg", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, quality=95)
    read = np.asarray(open_image(path)).astype(int)
    assert read.shape == upright.shape
    assert np.abs(read - upright).mean() < 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_header_is_that_of_the_upright_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = written(tmp_path / f"photo.{suffix}", Image.new("RGB", (48, 32)), exif=exif)
    upright = (48, 32) if orientation < 5 else (32, 48)
    assert (image_size(path), open_image(path).size) == (upright, upright)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
def test_an_avif_that_cannot_be_decoded_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    path = written(tmp_path / "photo.avif", Image.fromarray(noise))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4  # the coded picture is after this
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    assert "damaged" in refused(path)
    assert image_size(path) in (None, (40, 32))


@pytest.mark.parametrize("tag", [0x011A, 0x010E, 0x0117], ids=["resolution", "description", "strips"])
def test_other_tags_of_a_rotated_photo_may_be_nonsense(tmp_path: Path, tag: int) -> None:
    """Such files exist, and only the orientation is of use."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = bytearray(exif.tobytes())
    order: Literal["big", "little"] = "big" if b"MM" in block[:10] else "little"
    entry = block.index((0x0112).to_bytes(2, order))
    assert int.from_bytes(block[entry - 2 : entry], order) == 1  # the number of entries stands before the first
    block[entry - 2 : entry] = (2).to_bytes(2, order)
    odd = tag.to_bytes(2, order) + (2).to_bytes(2, order) + (3).to_bytes(4, order) + b"no\0\0"
    at = entry if tag < 0x0112 else entry + 12
    block[at:at] = odd
    path = written(tmp_path / "photo.jpg", Image.new("RGB", (48, 32)), exif=bytes(block))
    assert Image.open(path).getexif()[0x0112] == 6
    assert open_image(path).size == (32, 48)


def test_a_cut_tiff_is_damaged_and_nothing_else_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    whole = written(tmp_path / "whole.tiff", Image.effect_noise((64, 64), 50))
    (tmp_path / "cut.tiff").write_bytes(whole.read_bytes()[:2000])
    assert "damaged" in refused(tmp_path / "cut.tiff")
    assert [str(warning.message) for warning in recwarn] == []


def test_sixteen_bits_of_any_width_are_read(tmp_path: Path) -> None:
    wide = np.full((4, 40_000), 32_896, np.uint16)
    read = open_image(written(tmp_path / "wide.png", Image.fromarray(wide)))
    assert read.width == WORKING_SIDE
    assert read.getpixel((4000, 0)) == (128, 128, 128)


def test_a_file_without_our_text_has_none(tmp_path: Path) -> None:
    assert read_metadata(written(tmp_path / "a.png", Image.new("RGB", (8, 8)))) == {}
    with pytest.raises(TetherError, match="PNG"):
        read_metadata(written(tmp_path / "a.jpg", Image.new("RGB", (8, 8))))


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0] * 300 + [0.5, 1.0, 1.004], [0] * 300 + [128, 255, 255]),  # a little more than white
        ([0.5, 5.0, 10.0], [13, 128, 255]),  # by its own range
        ([0.0, 100.0, 200.0], [0, 100, 200]),  # levels
        ([0.0, 50.5, 100.3], [0, 51, 100]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
    ],
)
def test_floats_are_shares_levels_or_a_range(values: list[float], levels: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == levels
