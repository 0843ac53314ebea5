"""Where a command's images go: names, folders, lines on standard output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.sampling import Drawn

__all__ = ["free_path", "make_folder", "slug", "write_drawn"]


def slug(text: str) -> str:
    """A file name from a prompt."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"


def make_folder(path: Path) -> None:
    """Makes a folder if it does not exist.

    Raises:
        TetherError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TetherError(f"{path} cannot be made as a folder for images: {error.strerror}") from None


def free_path(folder: Path, stem: str) -> Path:
    """`folder/stem.png`, or the first of `stem-2.png`, `stem-3.png`, ... that is free: nothing is overwritten."""
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


def write_drawn(drawn: Drawn, prompt: str, out: Path, seconds: float | None = None) -> Path:
    """Writes one image and prints its path; with `seconds`, a line of JSON."""
    from tether.images import save_png

    make_folder(out)
    path = free_path(out, f"{slug(prompt)}-{drawn.seed}")
    save_png(drawn.image, path, drawn.metadata)
    if seconds is None:
        print(path, flush=True)
        return path
    line = {"path": str(path), "seed": drawn.seed, "width": drawn.image.width, "height": drawn.image.height}
    print(json.dumps(line | {"prompt": prompt, "seconds": round(seconds, 3)}), flush=True)
    return path
