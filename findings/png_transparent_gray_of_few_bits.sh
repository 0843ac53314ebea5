#!/usr/bin/env bash
# Surprise: Pillow loses the transparent color of a gray PNG of 2 or 4 bits.
#
# A gray PNG can name one transparent level in its tRNS chunk (PNG specification, 11.3.2.1), in the file's own bit depth.
# Pillow scales the pixels of 2 and 4 bits to 8 bits (3 becomes 255) but not that level, so `convert("RGBA")` makes no
# pixel transparent, except for level 0. Depths of 1 and 8 bits are right. A line drawing of 4 gray bits on a
# transparent ground loses its transparency this way.
#
# Version: Pillow 13.0.0. Seen (depth, transparent level -> levels that are transparent after conversion):
#   1, 1 -> [1]    2, 0 -> [0]    2, 1 -> []    2, 3 -> []    4, 0 -> [0]    4, 1 -> []    4, 15 -> []    8, 3 -> [3]
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pillow==13.0.0 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import io
import struct
import zlib

from PIL import Image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth, levels, transparent):
    """One row of gray pixels, of which those of the level `transparent` are transparent."""
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    bits += "0" * (-len(bits) % 8)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", len(levels), 1, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", transparent)), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


found = {}
for depth, level in ((1, 1), (2, 0), (2, 1), (2, 3), (4, 0), (4, 1), (4, 15), (8, 3)):
    levels = list(range(min(2**depth, 16)))
    image = Image.open(io.BytesIO(png(depth, levels, level))).convert("RGBA")
    alphas = image.getchannel("A").tobytes()
    found[depth, level] = [one for one, alpha in zip(levels, alphas) if alpha == 0]
    print(f"{depth} bits, level {level} is transparent: Pillow has {found[depth, level]}")
expected = {
    (1, 1): [1], (2, 0): [0], (2, 1): [], (2, 3): [], (4, 0): [0], (4, 1): [], (4, 15): [], (8, 3): [3],
}
raise SystemExit(0 if found == expected else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py"
