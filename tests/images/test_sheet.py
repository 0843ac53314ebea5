"""Contact sheets."""

from __future__ import annotations

from PIL import Image

from tether.images import contact_sheet


def test_a_contact_sheet_holds_every_image() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([[Image.new("RGB", (20, 20), c) for c in colors], [Image.new("RGB", (10, 20), colors[0])]])
    found = {sheet.getpixel((6 + 26 * k + 10, 16)) for k in range(3)}
    assert found == set(colors)
    assert sheet.getpixel((16, 42)) == colors[0]
