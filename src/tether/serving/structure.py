"""How an uploaded image is built, looked at before it is opened: of how many parts.

Pixels are not all that costs time. A decoder works through the parts of a file one by one, and a few megabytes can
hold millions: chunks of a PNG (ISO/IEC 15948, section 5.3), segments of a JPEG (ITU-T T.81, annex B) that are empty,
scans of a progressive JPEG that each go over all pixels again and say nothing new, blocks of a GIF's extensions
(GIF89a, section 15). Real files have few.
"""

from __future__ import annotations

from tether.images.read import WEB_FORMATS
from tether.serving.errors import invalid

__all__ = ["FORMATS", "MAX_BLOCKS", "MAX_CHUNKS", "MAX_SCANS", "MAX_SEGMENTS", "check_structure"]

FORMATS = WEB_FORMATS
"""What clients may send. Of TIFF, BMP and PPM, Pillow decodes a part in Python, so that few
bytes cost seconds."""
MAX_CHUNKS = 30_000
"""Of a PNG: its pixels are in chunks of some kilobytes, usually of 8 or 32."""
MAX_SEGMENTS = 3000
"""Of a JPEG before its first scan, with bytes between them; metadata are in segments of 64 KB."""
MAX_SCANS = 100
"""Of a JPEG; progressive ones have about ten. libtiff has the same limit."""
MAX_BLOCKS = 30_000
"""Of the extensions before a GIF's first picture, of 255 bytes each, with bytes between them."""
_ALONE = {0x01, *range(0xD0, 0xDA)}
"""JPEG's markers that have no length: TEM, RST0 to RST7, SOI, EOI."""
_SCAN = b"\xff\xda"


def check_structure(content: bytes, field: str) -> None:
    """Refuses an image of more parts than any real one has.

    Args:
        content: of its file.
        field: its place in the request.

    Raises:
        Refused: 422.
    """
    if content.startswith(b"\x89PNG") and _chunks(content) > MAX_CHUNKS:
        raise invalid(field, f"the PNG has more than {MAX_CHUNKS:,} chunks: write it anew")
    if content.startswith(b"GIF8") and _blocks(content) > MAX_BLOCKS:
        raise invalid(field, f"the GIF has more than {MAX_BLOCKS:,} blocks before its picture: write it anew")
    if not content.startswith(b"\xff\xd8"):
        return
    if content.count(_SCAN) > MAX_SCANS:
        raise invalid(field, f"the JPEG has more than {MAX_SCANS} scans: write it anew")
    if _segments(content) > MAX_SEGMENTS:
        raise invalid(field, f"the JPEG has more than {MAX_SEGMENTS:,} segments: write it anew")


def _chunks(content: bytes) -> int:
    """How many chunks a PNG has; it stops where there are too many."""
    at, count = 8, 0
    while at + 8 <= len(content) and count <= MAX_CHUNKS:
        at += 12 + int.from_bytes(content[at : at + 4], "big")
        count += 1
    return count


def _segments(content: bytes) -> int:
    """How many segments, and bytes between them, a JPEG has before its first scan; it stops where there are too
    many."""
    at, count = 2, 0
    while at + 4 <= len(content) and count <= MAX_SEGMENTS and content[at : at + 2] != _SCAN:
        count += 1
        if content[at] != 0xFF or content[at + 1] == 0xFF:
            at += 1
        elif content[at + 1] == 0 or content[at + 1] in _ALONE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
    return count


def _blocks(content: bytes) -> int:
    """How many blocks of extensions, and bytes between them, a GIF has before its first picture; it stops where there
    are too many."""
    colors = content[10] if len(content) > 10 else 0
    at, count = 13 + (3 << (colors & 7) + 1 if colors & 0x80 else 0), 0
    inside = False
    while at < len(content) and count <= MAX_BLOCKS and (inside or content[at] not in b",;"):
        count += 1
        if inside:
            inside, at = content[at] > 0, at + 1 + content[at]
        else:
            inside, at = content[at] == 0x21, at + (2 if content[at] == 0x21 else 1)
    return count
