"""The screenshots of the page in docs/images, at two widths, light and dark.

    apt-get install chromium; pip install playwright
    python recipes/page_screenshots.py

It starts a server on the shipped weights, draws the examples, then draws an apple with the mouse.
"""

from __future__ import annotations

import argparse
import io
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

WIDTHS = {1440: 1160, 390: 1290}
"""Widths of the screen, with the heights that are shown."""
OUT = Path("docs/images")


def strokes() -> list[list[tuple[float, float]]]:
    """An apple: its outline, its stem and a leaf, from 0 to 1."""
    outline = []
    for k in range(121):
        angle = 2 * math.pi * k / 120 - math.pi / 2
        dip = 0.09 * math.exp(-(((k if k < 60 else 120 - k) / 9) ** 2))
        outline.append((0.5 + 0.33 * math.cos(angle), 0.56 + 0.31 * math.sin(angle) + dip))
    stem = [(0.5 + 0.05 * t * t, 0.34 - 0.17 * t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    there = [(0.56 + 0.2 * t, 0.24 - 0.13 * math.sin(math.pi * t) - 0.08 * t) for t in [k / 20 for k in range(21)]]
    back = [(0.76 - 0.2 * t, 0.16 + 0.05 * math.sin(math.pi * t) + 0.08 * t) for t in [k / 20 for k in range(21)]]
    return [outline, stem, there + back]


def draw(page: Any) -> None:
    box = page.locator(".control .sketch canvas").first.bounding_box()
    for stroke in strokes():
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*at[0])
        page.mouse.down()
        for x, y in at[1:]:
            page.mouse.move(x, y)
        page.mouse.up()


def prepare(page: Any) -> None:
    """Draws every example, then the apple with two seeds more."""
    for example in page.locator(".chip").all():
        example.click()
        page.locator("#status", has_text="Waiting").or_(page.locator("#status", has_text="Beginning")).first.wait_for()
        page.locator("#status", has_text="Done").wait_for()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator(".control .remove").first.click()
    page.locator("#add").click()
    page.evaluate("scrollTo(0, 0)")
    draw(page)
    page.locator("#prompt").fill("a red apple, 3d emoji")
    page.locator("#seed").fill("7")
    page.get_by_label("Images, exact value").fill("4")
    page.locator("#draw").click()
    page.locator("#status", has_text="Done").wait_for()
    page.locator("#gallery img").nth(3).wait_for()


def shoot(page: Any, width: int, scheme: str, out: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(300)
    path = out / f"page-{width}-{scheme}.png"
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, optimize=True)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        command = [sys.executable, "-m", "tether", "serve", "--port", "0", "--data", data, "--log-level", "error"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = started.new_page(viewport={"width": 1440, "height": WIDTHS[1440]})
            page.set_default_timeout(180_000)
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            prepare(page)
            for width in WIDTHS:
                for scheme in ("light", "dark"):
                    shoot(page, width, scheme, out)
            started.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
