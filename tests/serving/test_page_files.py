"""The page's files: what they may do, who gets them, and the lists that the page begins with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from starlette.testclient import TestClient

import tether
from tether.control.injection import Weighting
from tether.sampling import Request
from tether.serving import Settings, create_app
from tether.serving.acceptance import accept
from tether.serving.catalog import Catalog

from .conftest import HERE

STATIC = Path(tether.__file__).parent / "serving" / "static"
FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
TOKEN = "a-token-that-is-long"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[TestClient]:
    """A server with a token that never draws."""
    app = create_app(settings_at(tmp_path_factory.mktemp("page"), token=TOKEN))
    yield TestClient(app, base_url=HERE)
    app.state.service.close()


def test_the_page_needs_no_token_and_what_it_asks_for_does(served: TestClient) -> None:
    assert served.get("/").status_code == 200
    assert served.head("/").status_code == 200
    for path in ("/v1/kinds", "/v1/defaults", "/v1/examples", "/pagex", "/page"):
        assert served.get(path, follow_redirects=False).status_code == 401


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_file_is_served_with_its_type_under_a_strict_policy(served: TestClient, file: Path) -> None:
    answer = served.get(f"/page/{file.name}")
    assert answer.status_code == 200
    assert answer.content == file.read_bytes()
    types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(types[file.suffix])
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = served.get(f"/page/{file.name}", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/", "/page/none.js"]
)
def test_nothing_else_is_served(served: TestClient, path: str) -> None:
    assert served.get(path).status_code in (401, 404)
    assert served.post("/page/app.js").status_code == 405


def test_every_name_in_the_files_is_a_file_and_nothing_comes_from_elsewhere() -> None:
    for file in FILES:
        text = file.read_text()
        for name in re.findall(r'(?:src|href)="/page/([^"]+)"|from "\./([^"]+)"', text):
            assert (STATIC / (name[0] or name[1])).is_file()
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", re.sub(r"^\s*//.*$", "", text, flags=re.M)))
        assert addresses <= {"http://www.w3.org/2000/svg"}


def test_no_script_or_style_is_inline_and_no_text_becomes_html() -> None:
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", html)
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    for file in STATIC.glob("*.js"):
        assert not re.search(unsafe, file.read_text())


def test_every_field_of_the_form_has_a_label() -> None:
    html = (STATIC / "index.html").read_text()
    labelled = set(re.findall(r'<label for="([\w-]+)"', html))
    for tag in re.findall(r"<(?:input|select|textarea)\b[^>]*>", html):
        id = re.search(r'id="([\w-]+)"', tag)
        wrapped = re.search(rf"<label[^>]*>[^<]*{re.escape(tag)}", html)
        assert "hidden" in tag or "aria-label=" in tag or wrapped or (id and id[1] in labelled), tag


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    """4.5 to 1 for text (WCAG 2.2, 1.4.3), 3 to 1 for the edges of fields (1.4.11)."""
    blocks = re.findall(r":root \{(.*?)\}", (STATIC / "style.css").read_text(), flags=re.S)
    colors = dict(re.findall(r"--([\w-]+): (#\w+);", blocks[0 if scheme == "light" else 1]))
    for text, ground in (
        ("ink", "paper"), ("ink", "card"), ("ink", "inset"), ("soft", "card"), ("soft", "inset"), ("soft", "paper"),
        ("accent", "card"), ("accent", "accent-soft"), ("on-accent", "accent"), ("bad", "card"),
    ):  # fmt: skip
        assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for ground in ("card", "inset"):
        assert contrast(colors["edge"], colors[ground]) >= 3


def contrast(first: str, second: str) -> float:
    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        levels = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_defaults_are_those_of_a_request_and_of_the_base(client: TestClient) -> None:
    until = time.monotonic() + 60
    while client.get("/readyz").status_code != 200 and time.monotonic() < until:
        time.sleep(0.02)
    found = client.get("/v1/defaults").json()
    silent = Request(prompt="")
    assert (found["base"], found["size"]) == ("tiny", [64, 64])
    for name in ("steps", "guidance_scale", "scheduler", "denoising_strength", "fit", "count", "rules", "dtype"):
        assert found[name] == getattr(silent, name)


def test_every_weighting_is_listed_and_told(client: TestClient) -> None:
    found = client.get("/v1/weightings").json()
    assert [one["name"] for one in found] == list(get_args(Weighting))
    assert all(one["summary"] for one in found)


def test_examples_are_accepted_where_the_shipped_base_is_drawn_with(tmp_path: Path, client: TestClient) -> None:
    assert client.get("/v1/examples").json() == []  # another base
    settings = Settings(data=tmp_path)
    app = create_app(settings)
    found: list[dict[str, Any]] = TestClient(app, base_url=HERE).get("/v1/examples").json()
    app.state.service.close()
    assert len(found) >= 3
    for one in found:
        assert accept(one["request"], settings, Catalog(settings.models)).request.controls


def test_kinds_say_whether_they_can_be_made_here_and_what_their_maps_are(client: TestClient) -> None:
    found = {one["name"]: one for one in client.get("/v1/kinds").json()}
    assert found["canny"]["white_lines"]
    assert found["canny"]["annotators"][0]["ready"]
    assert not found["depth"]["white_lines"]
    assert not found["openpose"]["white_lines"]
