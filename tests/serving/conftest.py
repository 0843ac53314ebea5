"""A server with a tiny base, in this process."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from tether.base import ControlNet, load_base
from tether.serving import Models, Settings, create_app
from tether.serving.shared import database_url
from tether.serving.tables import Table

from .postgres import Postgres, find_postgres

HERE = "http://127.0.0.1:7860"
Post = Callable[..., dict[str, Any]]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def as_base64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def ended(client: TestClient, id: str, seconds: float = 60) -> dict[str, Any]:
    """A job after its end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = client.get(f"/v1/jobs/{id}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"job {id} did not end: {job}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Models:
    """An operator's folders: a base `tiny` and a control `edges` for it."""
    root = tmp_path_factory.mktemp("models")
    (root / "bases").mkdir()
    (root / "bases" / "tiny").symlink_to(tiny_folder)
    torch.manual_seed(0)
    control = ControlNet.from_unet(load_base(tiny_folder).unet)
    for parameter in control.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    control.kind = "canny"
    control.save(root / "controls" / "edges")
    return Models(bases=(root / "bases",), controls=(root / "controls",))


@pytest.fixture(scope="session")
def settings_at(models: Models) -> Callable[..., Settings]:
    """Settings of a server that keeps its jobs in a folder."""

    def make(data: Path, **values: Any) -> Settings:
        return Settings(**{"data": data, "models": models, "base": "tiny", "grace": 5.0} | values)

    return make


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, settings_at: Callable[..., Settings]) -> Iterator[TestClient]:
    """A client of a server that draws; one for all tests of a module."""
    app = create_app(settings_at(tmp_path_factory.mktemp("data") / "data"))
    with TestClient(app, base_url=HERE) as client:
        yield client


@pytest.fixture
def photo() -> Image.Image:
    image = Image.new("RGB", (90, 70), (30, 30, 30))
    image.paste((220, 60, 60), (20, 20, 60, 50))
    return image


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that runs."""
    programs = find_postgres()
    if programs is None or find_spec("pg8000") is None:
        pytest.skip("needs PostgreSQL and pg8000: apt-get install postgresql; pip install 'tether-control[postgres]'")
    made = Postgres(programs)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The address of a database without jobs."""
    from sqlalchemy import create_engine

    url = database_url(postgres.url)
    engine = create_engine(url)
    Table.metadata.drop_all(engine)
    engine.dispose()
    return url
