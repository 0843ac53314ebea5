"""A browser, and servers whose page it opens; skipped where there is no Chromium or no Playwright."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tether.serving import Settings, create_app, run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOW = "the page's tests need a browser: apt-get install chromium, pip install playwright; then `make test-page`"


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A server in a thread of this process; its address."""
    app = create_app(settings)
    with run.listening("127.0.0.1", 0) as listener:
        server = run.uvicorn_server(app, settings)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            _until_ready(address)
            yield address
        finally:
            server.should_exit = True
            thread.join()


def _until_ready(address: str) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urlopen(f"{address}/readyz"):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server is not ready")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Started for each module: Playwright's loop must not run while tests of other modules have one."""
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(HOW)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Seen:
    """What a page did: the addresses it asked for, its errors and dialogs."""

    addresses: list[str]
    errors: list[str]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a server's page; at the end, nothing was asked of another origin, and there was no error."""
    contexts: list[tuple[Any, str, Seen]] = []

    def open_page(address: str, ready: bool = True, **how: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | how)
        page, seen = context.new_page(), Seen([], [])
        page.set_default_timeout(60_000)
        page.on("request", lambda request: seen.addresses.append(request.url))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("console", lambda said: seen.errors.append(said.text) if "Content Security" in said.text else None)
        page.on("dialog", lambda dialog: (seen.errors.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        contexts.append((context, address, seen))
        page.goto(address)
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context, address, seen in contexts:
        context.close()
        elsewhere = [one for one in seen.addresses if not one.startswith((f"{address}/", "blob:", "data:"))]
        assert not elsewhere
        assert not seen.errors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[str]:
    """A server with a tiny base, whose control is `edges`."""
    with serving(settings_at(tmp_path_factory.mktemp("tiny") / "data")) as address:
        yield address


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the shipped weights."""
    with serving(Settings(data=Path(tmp_path_factory.mktemp("shipped")) / "data", grace=1.0)) as address:
        yield address
