"""What the page makes of what is typed and painted, and of a base that is not open yet."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from .test_drawing import newest
from .test_page import done, draw, request_of

Open = Callable[..., Any]


def test_a_seed_may_be_typed_with_zeros_before_it(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    page.locator("#prompt").fill("x")
    page.locator("#seed").fill("007")
    page.get_by_label("Steps, exact value").fill("2")
    draw(page)
    done(page)
    assert request_of(tiny, newest(tiny))["seed"] == 7


def test_a_painted_mask_is_sent_with_its_size(tiny: str, opened: Open) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((96, 96), 90).convert("RGB").save(buffer, "PNG")
    page = opened(tiny)
    page.get_by_text("Start from a picture").click()
    file = {"name": "start.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.locator("#init input[type=file]").set_input_files(file)
    canvas = page.get_by_role("application", name="Mask of what is drawn anew")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] - 5, steps=5)
    page.mouse.up()
    draw(page)
    done(page)
    assert request_of(tiny, newest(tiny))["size"] == [64, 64]


def test_the_page_says_that_the_base_is_not_open_and_hears_when_it_is(tiny: str, opened: Open) -> None:
    page = opened(tiny, ready=False)
    is_open = False

    def defaults(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | ({} if is_open else {"size": None}))

    def readiness(route: Any) -> None:
        route.fulfill(status=200 if is_open else 503, body="ready" if is_open else "the base is being opened")

    page.route("**/v1/defaults", defaults)
    page.route("**/readyz", readiness)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator("#problem", has_text="Not ready: the base is being opened").wait_for()
    assert page.locator("#width").get_attribute("placeholder") == "own"
    is_open = True
    page.locator("#width[placeholder='64']").wait_for()
    assert page.locator("#problem").inner_text() == ""
