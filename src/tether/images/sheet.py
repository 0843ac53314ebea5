"""Contact sheets: rows of images on one."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from tether.images.read import to_rgb

__all__ = ["contact_sheet"]


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[Sequence[str]] | None = None,
    gap: int = 6,
) -> Image.Image:
    """Rows of images on white; every cell has the size of the largest image. Labels are written below their images."""
    width = max(image.width for row in rows for image in row)
    height = max(image.height for row in rows for image in row)
    text = 28 if labels else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, len(rows) * (height + text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            x, y = gap + c * (width + gap), gap + r * (height + text + gap)
            sheet.paste(to_rgb(image), (x + (width - image.width) // 2, y + (height - image.height) // 2))
            if labels and c < len(labels[r]):
                _label(draw, labels[r][c], x, y + height + 2, width)
    return sheet


def _label(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, width: int) -> None:
    """Writes a text in at most two lines of a width in pixels."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if draw.textlength(longer) > width and line:
            lines.append(line)
            line = word
        else:
            line = longer
    for k, shown in enumerate([*lines, line][:2]):
        draw.text((x, y + 12 * k), shown, fill=(60, 60, 60))
