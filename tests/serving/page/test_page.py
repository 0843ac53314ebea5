"""What the page does with a request, with a tiny base."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import tether
from tether.serving import Settings

from ..conftest import as_base64
from .conftest import serving
from .test_drawing import draw_circle, drop, image, newest

Open = Callable[..., Any]
HOUSE = Path(tether.__file__).parent / "examples" / "house.webp"
TOKEN = "a-token-that-is-long"


def draw(page: Any) -> None:
    page.get_by_role("button", name="Draw", exact=True).click()


def done(page: Any) -> None:
    page.locator("#status", has_text="Done").wait_for()


def request_of(address: str, job: dict[str, Any]) -> dict[str, Any]:
    with urlopen(f"{address}/v1/jobs/{job['id']}/request") as answer:
        return json.load(answer)


def test_an_error_shows_at_its_field_and_goes_when_it_is_right(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    page.get_by_label("Steps, exact value").fill("5000")
    draw(page)
    at = page.locator('[data-field="steps"] .error')
    at.wait_for()
    assert "limit is 100" in at.inner_text()
    assert page.locator('[data-field="steps"] [aria-invalid="true"]').evaluate("one => one === document.activeElement")
    page.get_by_label("Steps, exact value").fill("2")
    draw(page)
    done(page)
    assert page.locator(".error").count() == 0


def test_an_error_of_a_control_shows_in_its_card_also_when_a_blank_one_is_before_it(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    page.get_by_role("button", name="Add a control").click()
    second = page.get_by_role("group", name="Control 2", exact=True)
    second.get_by_label("Photo", exact=True).first.check()
    second.locator('input[type="file"]').nth(0).set_input_files(HOUSE)
    second.get_by_label("Strength, exact value").fill("-3")
    draw(page)
    second.locator('[data-field="strength"] .error').wait_for()
    assert page.locator(".error").count() == 1


def test_all_of_it_works_with_the_keyboard_alone(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    keys = page.keyboard
    keys.press("Tab")
    keys.press("Enter")  # skips to the prompt
    keys.type("a square")
    for _ in range(40):
        keys.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    assert "arrow keys" in page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-describedby')).textContent"
    )
    keys.press("Space")
    for way in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        keys.press(f"Shift+{way}")
    keys.press("Space")
    page.locator("#announcer", has_text="pen lifted").wait_for(state="attached")
    keys.press("Tab")  # out of the canvas
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    page.get_by_label("Control", exact=True).focus()
    keys.type("edges")
    keys.press("Control+Enter")
    done(page)
    job = newest(tiny)
    assert job["prompt"] == "a square"
    drawn = image(tiny, job["maps"][0]).convert("L").point(lambda level: 255 * (level > 128))
    left, top, right, bottom = drawn.getbbox() or (0, 0, 0, 0)
    assert abs((right - left) - (bottom - top)) <= 2
    side = drawn.width / 8  # Shift moves by 8 of 64 steps
    assert side - 2 <= right - left <= side + 6


def test_a_sketch_is_erased_and_taken_back(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    note = page.get_by_text("Blank so far")
    assert note.is_visible()
    draw_circle(page)
    assert note.is_hidden()
    page.get_by_role("button", name="Undo").first.click()
    assert note.is_visible()
    page.get_by_role("button", name="Redo").first.click()
    assert note.is_hidden()
    page.get_by_role("button", name="Eraser").first.click()
    page.get_by_label("Line width").first.fill("24")
    draw_circle(page)
    assert note.is_visible()  # all of the line is under the eraser


def test_a_photo_has_a_live_map_whose_options_are_sliders(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    card = page.get_by_role("group", name="Control 1", exact=True)
    card.get_by_label("Control", exact=True).select_option("edges")
    card.get_by_role("radio", name="Photo").check()
    card.locator('.picture input[type="file"]').first.set_input_files(HOUSE)
    made = card.get_by_alt_text("Condition map")
    made.wait_for()
    before = made.get_attribute("src")
    with page.expect_response("**/v1/annotate"):
        card.get_by_label("high, exact value").fill("900")
    page.locator(f'.made img:not([src="{before}"])').wait_for()
    draw(page)
    done(page)
    sent = request_of(tiny, newest(tiny))["controls"][0]
    assert sent["options"] == {"low": 100, "high": 900}
    assert sent["annotator"] == "opencv"
    card.get_by_role("button", name="Draw on this map").click()
    card.get_by_role("application", name="Canvas of control 1").wait_for()
    assert card.get_by_role("radio", name="Draw").is_checked()
    assert page.get_by_text("Blank so far").is_hidden()


def test_what_is_not_painted_over_is_kept_to_the_byte(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    start = Image.effect_noise((64, 64), 90).convert("RGB")
    buffer = io.BytesIO()
    start.save(buffer, "PNG")
    page.get_by_text("Start from a picture").click()
    file = {"name": "start.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.locator("#init input[type=file]").set_input_files(file)
    page.get_by_label("Width in pixels").fill("64")
    page.get_by_label("Height in pixels").fill("64")
    page.get_by_label("Height in pixels").blur()
    canvas = page.get_by_role("application", name="Mask of what is drawn anew")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] - 5, steps=5)
    page.mouse.up()
    draw(page)
    done(page)
    result = image(tiny, newest(tiny)["images"][0]["url"])
    right = (40, 0, 64, 64)
    assert result.crop(right).tobytes() == start.crop(right).tobytes()
    assert result.crop((0, 0, 8, 64)).tobytes() != start.crop((0, 0, 8, 64)).tobytes()


def test_fields_that_the_page_does_not_show_are_kept_and_large_seeds_are_exact(tiny: str, opened: Open) -> None:
    request = {"prompt": "x", "base": "tiny", "seed": 2**63 + 1, "clip_skip": 1, "steps": 2, "guidance_rescale": 0.5}
    mask = as_base64(Image.linear_gradient("L").resize((64, 64)))
    request |= {"init": as_base64(Image.new("RGB", (64, 64), "teal")), "mask": mask, "denoising_strength": 1.0}
    page = opened(tiny)
    drop(page, "body", "kept.png", carrying(request))
    page.locator("#kept", has_text="clip_skip 1").wait_for()
    draw(page)
    done(page)
    sent = request_of(tiny, newest(tiny))
    assert {name: sent[name] for name in request} == request


def test_text_of_a_picture_is_text_alone(tiny: str, opened: Open) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page = opened(tiny)
    request = {"prompt": hostile, "steps": 2, "base": hostile, "scheduler": hostile, hostile: hostile}
    request["controls"] = [{"ref": hostile, hostile: hostile, "weighting": hostile}]
    drop(page, "body", "hostile.png", carrying(request))
    page.locator("#status", has_text="hostile.png").wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == hostile
    assert page.locator("img[src=x], main script").count() == 0
    draw(page)  # refused, and said as text
    page.locator(".error, #problem:not(:empty)").first.wait_for()
    assert page.locator("img[src=x], main script").count() == 0


def test_a_job_that_fails_says_why_and_its_request_can_be_had(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    draw_circle(page)  # for `canny`, which does not fit this base
    page.get_by_label("Prompt", exact=True).fill("does not fit")
    draw(page)
    page.locator("#status.bad", has_text="Failed: ").wait_for()
    page.get_by_label("Prompt", exact=True).fill("")
    page.get_by_role("button", name="Reuse request").click()
    page.locator("#announcer", has_text="the form is filled").wait_for(state="attached")
    assert page.get_by_label("Prompt", exact=True).input_value() == "does not fit"
    assert page.get_by_role("link", name="Save PNG").is_hidden()


def test_a_file_that_is_no_picture_is_refused_at_its_field(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    card = page.get_by_role("group", name="Control 1", exact=True)
    card.get_by_role("radio", name="Photo").check()
    file = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    card.locator('.picture input[type="file"]').first.set_input_files(file)
    card.get_by_text("not a supported image format").wait_for()
    draw(page)
    card.locator('[data-field="photo"] .error').wait_for()


def test_a_picture_without_a_request_is_said_to_have_none(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    drop(page, "body", "photo.png", carrying(None))
    page.locator("#problem", has_text="carries no request").wait_for()


def test_history_and_what_was_not_drawn_yet_are_there_after_a_reload(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    page.get_by_label("Prompt", exact=True).fill("kept in history")
    page.get_by_label("Steps, exact value").fill("2")
    draw(page)
    done(page)
    page.get_by_label("Prompt", exact=True).fill("not drawn yet")
    draw_circle(page)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.get_by_label("Prompt", exact=True).input_value() == "not drawn yet"
    assert page.get_by_role("radio", name="Draw").first.is_checked()
    page.get_by_text("Blank so far").wait_for(state="hidden")
    page.get_by_role("button", name="kept in history, done").click()
    done(page)
    page.get_by_role("button", name="Reuse request").click()
    page.locator("#announcer", has_text="the form is filled").wait_for(state="attached")
    assert page.get_by_label("Prompt", exact=True).input_value() == "kept in history"


def test_a_reload_keeps_a_drawing_whose_tab_is_not_chosen_and_the_settings_of_a_blank_card(
    tiny: str, opened: Open
) -> None:
    page = opened(tiny)
    draw_circle(page)
    drawn = page.locator(".control canvas").first.evaluate("one => one.toDataURL()")
    page.get_by_role("button", name="Add a control").click()
    first, second = (page.get_by_role("group", name=f"Control {number}", exact=True) for number in (1, 2))
    first.get_by_role("radio", name="Photo").check()
    second.get_by_label("Strength, exact value").fill("0.35")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert first.get_by_role("radio", name="Photo").is_checked()
    assert second.get_by_label("Strength, exact value").input_value() == "0.35"
    first.get_by_role("radio", name="Draw").check()
    first.get_by_text("Blank so far").wait_for(state="hidden")
    assert page.locator(".control canvas").first.evaluate("one => one.toDataURL()") == drawn


def test_a_held_key_and_a_double_click_draw_once(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    page.get_by_label("Steps, exact value").fill("2")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    for place in ("Prompt", "Steps, exact value"):
        page.get_by_label(place, exact=True).focus()
        page.keyboard.down("Control")
        for _ in range(20):  # but the first, they say that they are repeated
            page.keyboard.down("Enter")
            page.wait_for_timeout(50)
        page.keyboard.up("Enter")
        page.keyboard.up("Control")
        page.wait_for_timeout(600)
    assert len(sent) == 2
    page.get_by_role("button", name="Draw", exact=True).dblclick(delay=50)
    page.wait_for_timeout(600)
    assert len(sent) == 3
    draw(page)
    done(page)
    page.wait_for_timeout(600)
    assert len(sent) == 4


def test_a_second_finger_draws_nothing(tiny: str, opened: Open) -> None:
    page = opened(tiny, has_touch=True)
    canvas = page.locator(".control .sketch canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": finger}
            for finger, (x, y) in enumerate(places)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    palm = (0.8, 0.9)
    touch("touchStart", (0.2, 0.2))
    touch("touchStart", (0.2, 0.2), palm)
    for x in (0.4, 0.6, 0.8):
        touch("touchMove", (x, 0.2), (palm[0], palm[1] - x / 100))
    touch("touchEnd")
    ink = """one => {
        const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
        const at = [...data.keys()].filter((k) => k % 4 === 0 && data[k]).map((k) => k / 4);
        const rows = at.map((k) => Math.floor(k / one.width) / one.height);
        const columns = at.map((k) => (k % one.width) / one.width);
        return [Math.min(...columns), Math.max(...columns), Math.min(...rows), Math.max(...rows)];
    }"""
    assert canvas.evaluate(ink) == pytest.approx([0.2, 0.8, 0.2, 0.2], abs=0.03)
    touch("touchStart", (0.5, 0.7))  # the next stroke is drawn again
    touch("touchEnd")
    assert canvas.evaluate(ink)[3] == pytest.approx(0.7, abs=0.03)


def test_the_same_file_can_be_chosen_again_after_another_was_dropped(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    card = page.get_by_role("group", name="Control 1", exact=True)
    card.get_by_role("radio", name="Photo").check()
    field = card.locator('.picture input[type="file"]').first
    field.set_input_files(HOUSE)
    card.get_by_text("house.webp").wait_for()
    drop(page, ".control .picture", "other.png", carrying(None))
    card.get_by_text("other.png").wait_for()
    assert field.evaluate("one => one.files.length") == 0  # so that the same file is a change


def test_a_picture_that_is_still_loaded_does_not_come_after_a_later_one(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    how = """async (white) => {
        const { Sketch } = await import("/page/sketch.js");
        const sketch = new Sketch({ label: "x", mask: true });
        const loading = sketch.load(white);
        sketch.clear();
        await loading;
        const cleared = sketch.isBlank;
        await sketch.load(white);
        return [cleared, sketch.isBlank];
    }"""
    assert page.evaluate(how, as_base64(Image.new("L", (64, 64), 255))) == [True, False]


def test_each_image_has_its_own_map_over_it(tiny: str, opened: Open) -> None:
    maps = [as_base64(Image.new("RGB", (64, 64), level)) for level in ("black", "white")]
    request = {"prompt": "x", "base": "tiny", "steps": 2, "count": 2, "size": [64, 64]}
    request["controls"] = [{"ref": "edges", "condition": maps, "invert": False}]
    page = opened(tiny)
    drop(page, "body", "two.png", carrying(request))
    page.locator("#status", has_text="two.png").wait_for()
    draw(page)
    done(page)
    seen = []
    for index in (1, 2):
        page.get_by_role("button", name=f"Image {index} of 2").click()
        seen.append(page.locator("#lines").evaluate(LEVEL))
    assert seen == [0, 255]


LEVEL = """async (one) => {
    await one.decode();
    const context = document.createElement("canvas").getContext("2d");
    context.drawImage(one, 0, 0);
    return context.getImageData(5, 5, 1, 1).data[0];
}"""


def test_waiting_jobs_change_in_the_history_also_when_many_newer_ones_came(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    newest, state = 30, "queued"

    def jobs(route: Any) -> None:
        before = parse_qs(urlsplit(route.request.url).query).get("before")
        first = int(before[0]) - 1 if before else newest
        listed = [
            {"id": f"{number:032x}", "number": number, "state": state, "prompt": "x", "count": 1, "created": 0}
            | {"images": [], "maps": []}
            for number in range(first, first - 24, -1)
        ]
        route.fulfill(json={"jobs": listed})

    page.route("**/v1/jobs?*", jobs)
    page.route("**/v1/jobs/*/events*", lambda route: route.fulfill(status=404, json={}))
    page.reload()
    page.locator("#history button[aria-label*=queued]").nth(23).wait_for()
    newest, state = 60, "cancelled"
    page.locator("#history button[aria-label*=queued]").first.wait_for(state="detached")
    assert page.locator("#history button[aria-label*=cancelled]").count() == 48
    page.route("**/v1/jobs?*", lambda route: route.fulfill(status=503, json={"error": {"message": "away"}}))
    page.locator("#older").click()
    page.locator("#problem", has_text="away").wait_for()


def test_pictures_that_are_not_shown_any_more_are_let_go(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    draw_circle(page)
    page.get_by_label("Control", exact=True).select_option("edges")
    page.get_by_label("Prompt", exact=True).fill("let go")
    page.get_by_label("Steps, exact value").fill("2")
    draw(page)
    done(page)
    page.evaluate("""() => {
        window.held = new Set();
        const { createObjectURL, revokeObjectURL } = URL;
        URL.createObjectURL = (blob) => { const url = createObjectURL(blob); held.add(url); return url; };
        URL.revokeObjectURL = (url) => { held.delete(url); revokeObjectURL(url); };
    }""")
    for _ in range(3):
        page.locator("#announcer").evaluate("one => one.textContent = ''")
        page.get_by_role("button", name="let go, done").click()
        page.locator("#announcer", has_text="the picture is ready").wait_for(state="attached")
    assert page.evaluate("held.size") == 2  # the image and its map
    page.evaluate(
        "async (white) => (await import('/page/pictures.js')).imageOf(white)", as_base64(Image.new("L", (8, 8)))
    )
    assert page.evaluate("held.size") == 2


def test_what_goes_wrong_in_the_page_is_not_said_to_be_the_server(tiny: str, opened: Open) -> None:
    page = opened(tiny)
    draw_circle(page)
    page.evaluate("""() => {
        HTMLCanvasElement.prototype.toDataURL = () => { throw new Error("the canvas is too large"); };
    }""")
    draw(page)
    page.locator("#problem", has_text="the canvas is too large").wait_for()
    assert page.get_by_role("button", name="Draw", exact=True).get_attribute("aria-disabled") != "true"


NAMED = {"textbox", "searchbox", "slider", "spinbutton", "combobox", "checkbox", "radio", "button", "link", "image"}


@pytest.mark.parametrize("width", [390, 1440])
def test_everything_has_a_name_for_screen_readers_and_fits_the_screen(tiny: str, opened: Open, width: int) -> None:
    page = opened(tiny, viewport={"width": width, "height": 844})
    card = page.get_by_role("group", name="Control 1", exact=True)
    card.get_by_role("radio", name="Photo").check()
    for details in page.locator("summary").all():
        details.click()
    page.locator("#init input[type=file]").set_input_files(HOUSE)
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    seen = [one for one in nodes if not one["ignored"] and one["role"]["value"] in NAMED]
    assert len(seen) > 30
    assert [one["role"]["value"] for one in seen if not one["name"]["value"].strip()] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    doubled = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(doubled) == len(set(doubled))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[str]:
    with serving(settings_at(tmp_path_factory.mktemp("guarded") / "data", token=TOKEN)) as address:
        yield address


def test_a_token_is_asked_for_and_images_are_shown_with_it(guarded: str, opened: Open) -> None:
    page = opened(guarded, ready=False)
    field = page.get_by_label("Token", exact=True)
    for _ in range(3):  # a browser lets "cancel" be prevented once, or not at all
        page.keyboard.press("Escape")
        field.wait_for()
    field.fill("wrong-token-of-someone")
    page.get_by_role("button", name="Continue").click()
    page.locator("#login-problem", has_text="does not accept").wait_for()
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready]")
    page.get_by_label("Steps, exact value").fill("2")
    draw(page)
    done(page)
    page.locator("#shown:not(.preview)").wait_for()
    assert page.locator("#shown").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    page.reload()
    page.wait_for_selector("body[data-ready]")  # it is kept for this tab


def carrying(request: dict[str, Any] | None) -> bytes:
    """A PNG with a request in its text."""
    text = PngInfo()
    if request is not None:
        text.add_text("tether", json.dumps(request))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
