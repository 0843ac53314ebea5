"""The page with the shipped weights: a person draws a circle, and gets an apple in it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tether.kinds.canny import fidelity
from tether.kinds.edges import edge_f1

Open = Callable[..., Any]
PROMPT = "a red apple, 3d emoji"


def draw_circle(page: Any, share: float = 0.32) -> None:
    """With the mouse, on the first canvas; `share` of its width is the radius."""
    canvas = page.locator(".control .sketch canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y, radius = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, share * box["width"]
    page.mouse.move(x + radius, y)
    page.mouse.down()
    for k in range(1, 73):
        angle = 2 * math.pi * k / 72
        page.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
    page.mouse.up()


def newest(address: str) -> dict[str, Any]:
    with urlopen(f"{address}/v1/jobs?limit=1") as answer:
        return json.load(answer)["jobs"][0]


def content(address: str, path: str) -> bytes:
    with urlopen(address + path) as answer:
        return answer.read()


def image(address: str, path: str) -> Image.Image:
    return Image.open(io.BytesIO(content(address, path))).convert("RGB")


def drop(page: Any, selector: str, name: str, file: bytes) -> None:
    """Drops a file on what a selector finds."""
    how = """([selector, name, text]) => {
        const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], name, { type: "image/png" }));
        const event = new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
        document.querySelector(selector).dispatchEvent(event);
    }"""
    page.evaluate(how, [selector, name, base64.b64encode(file).decode()])


@pytest.fixture(scope="module")
def drawn(shipped: str, chromium: Any) -> dict[str, Any]:
    """The job of the circle."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(shipped)
    page.wait_for_selector("body[data-ready]")
    draw_circle(page)
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator("#status", has_text="Done").wait_for(timeout=120_000)
    page.locator("#shown:not(.preview)").wait_for()
    assert page.locator("#shown").get_attribute("alt") == PROMPT
    page.close()
    return newest(shipped)


def test_a_circle_drawn_with_the_mouse_becomes_a_picture_whose_edges_follow_it(
    shipped: str, drawn: dict[str, Any]
) -> None:
    """F1 of the picture's edges and the map. Without a control it is below 0.1 with this prompt and seed."""
    condition = image(shipped, drawn["maps"][0])
    assert fidelity(image(shipped, drawn["images"][0]["url"]), condition) > 0.7
    circle = Image.new("L", condition.size)
    ImageDraw.Draw(circle).circle((63.5, 63.5), 0.32 * 128, outline=255)
    assert edge_f1(np.asarray(condition.convert("L")) >= 128, np.asarray(circle)) > 0.95  # it is where the mouse was


def test_a_dropped_png_fills_the_form_and_drawn_again_it_is_the_same_file(
    shipped: str, drawn: dict[str, Any], opened: Open
) -> None:
    png = content(shipped, drawn["images"][0]["url"])
    page = opened(shipped)
    drop(page, "body", "apple.png", png)
    page.locator("#status", has_text="apple.png").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == PROMPT
    assert page.get_by_label("Seed", exact=True).input_value() == "7"
    assert page.get_by_label("Ready map").is_checked()
    assert not re.search("clip_skip|rules|dtype", page.locator("#kept").text_content())  # those are the defaults
    assert page.get_by_alt_text("Map, as chosen").is_visible()
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator("#status", has_text="Done").wait_for(timeout=120_000)
    again = newest(shipped)
    assert again["id"] != drawn["id"]
    assert image(shipped, again["images"][0]["url"]).tobytes() == image(shipped, drawn["images"][0]["url"]).tobytes()


def test_an_example_works_with_one_click_and_a_running_job_is_cancelled(shipped: str, opened: Open) -> None:
    page = opened(shipped)
    page.get_by_role("button", name="House from a photo").click()
    page.locator("#status", has_text="Done").wait_for(timeout=120_000)
    page.get_by_label("Steps, exact value").fill("100")
    page.get_by_label("Images, exact value").fill("4")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator("#status", has_text="Step").wait_for()
    page.locator("#shown.preview").wait_for()  # while it is drawn
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.locator("#status", has_text="Cancelled").wait_for()
    assert newest(shipped)["state"] == "cancelled"
    assert page.get_by_role("button", name="Cancel", exact=True).is_hidden()
