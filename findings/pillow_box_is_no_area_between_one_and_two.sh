#!/usr/bin/env bash
# Surprise: Pillow's BOX filter does not average by area when an image shrinks by less than two.
#
# Its weights are 0 or 1 for a whole pixel, by where the pixel's middle lies. At 3 to 2, every other new pixel is one old
# pixel alone and the next one the mean of two, where the mean by area is 2/3 of one and 1/3 of the next for both. So a
# smooth image gets steps, as with the nearest pixel. At whole numbers it is the mean of areas.
#
# Versions: Pillow 13.0.0, numpy 2.2.6, opencv-python-headless 4.12.0.88. Seen, for pixels 0 30 60 90 120 150 to four:
#   BOX 15 60 105 150 (Pillow), by area 10 50 100 140 (OpenCV)
# and for a wave of 90 periods from 768 to 512 pixels, root mean square error in levels:
#   NEAREST 13.0, BOX 13.2, HAMMING 4.3, LANCZOS 0.7
# Exits non-zero when this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet Pillow==13.0.0 numpy==2.2.6 opencv-python-headless==4.12.0.88 2>/dev/null
cat >"$work/show.py" <<'PYTHON'
import cv2
import numpy as np
from PIL import Image

row = np.array([[0, 30, 60, 90, 120, 150]], np.uint8)
box = np.asarray(Image.fromarray(row).resize((4, 1), Image.Resampling.BOX))[0].tolist()
area = cv2.resize(row, (4, 1), interpolation=cv2.INTER_AREA)[0].tolist()
print("BOX ", box)
print("area", area)


def wave(side):
    middles = (np.arange(side) + 0.5) / side
    return 127.5 + 100 * np.sin(2 * np.pi * 90 * middles)[None].repeat(8, axis=0)


small = Image.fromarray(np.round(wave(768)).astype(np.uint8))
errors = {}
for name in ("NEAREST", "BOX", "HAMMING", "LANCZOS"):
    found = np.asarray(small.resize((512, 8), Image.Resampling[name]), float)
    errors[name] = round(float(np.sqrt(np.mean((found - wave(512)) ** 2))), 1)
print(errors)
halves = np.asarray(Image.fromarray(row).resize((3, 1), Image.Resampling.BOX))[0].tolist()
print("by two", halves)
expected = {"NEAREST": 13.0, "BOX": 13.2, "HAMMING": 4.3, "LANCZOS": 0.7}
same = box == [15, 60, 105, 150] and area == [10, 50, 100, 140] and errors == expected and halves == [15, 75, 135]
raise SystemExit(0 if same else "the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/show.py"
