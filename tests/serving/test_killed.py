"""A server that is killed, at any moment: nothing that was accepted is lost, nothing is drawn twice."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageChops

from tether.images import open_image
from tether.sampling import Request, Session
from tether.serving import Limits, Settings, run

from .postgres import Postgres

CONTEXT = multiprocessing.get_context("forkserver")
"""Its processes are forked from one that has imported the server: a start costs nothing."""


class Server:
    """A server in a process of its own, that can be killed and started again."""

    def __init__(self, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.settings = settings.model_copy(update={"port": port})
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.process: BaseProcess | None = None

    def start(self) -> None:
        self.process = CONTEXT.Process(target=run.serve, args=(self.settings, "error"))
        self.process.start()
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if self.client.get("/healthz").status_code == 200:
                    return
            except httpx2.HTTPError:
                time.sleep(0.02)
        raise AssertionError("the server did not start")

    def end(self, number: int) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        self.process.join()

    def post(self, values: dict[str, Any], key: str) -> str | None:
        """The id of the job; None when the server did not answer."""
        try:
            answer = self.client.post("/v1/jobs", json=values, headers={"Idempotency-Key": key})
        except httpx2.HTTPError:
            return None
        assert answer.status_code in (200, 202), answer.text
        return answer.json()["id"]

    def ended(self, id: str) -> dict[str, Any]:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            job = self.client.get(f"/v1/jobs/{id}").json()
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(0.02)
        raise AssertionError(f"job {id} did not end: {job}")

    def image(self, id: str) -> Image.Image:
        return open_image(io.BytesIO(self.client.get(f"/v1/jobs/{id}/images/0").content))


@pytest.fixture(params=[1], ids=["one by one"])
def server(settings_at: Callable[..., Settings], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    CONTEXT.set_forkserver_preload(["tether.serving.run"])
    limits = Limits(queue=10_000)  # on a slow machine many wait
    made = Server(settings_at(tmp_path / "data", batch=request.param, attempts=1000, grace=20.0, limits=limits))
    yield made
    made.client.close()
    if made.process is not None and made.process.is_alive():
        made.process.kill()
        made.process.join()


def asked(seed: int) -> dict[str, Any]:
    return {"prompt": f"a cube {seed}", "seed": seed, "steps": 6}


def kill_often(server: Server, kills: int, tiny_folder: Path) -> None:
    """Kills a server `kills` times under load, then lets it finish, and checks every job."""
    moments = random.Random(0)
    ids: dict[str, str] = {}
    pending: dict[str, int] = {}
    seed = 0
    for _ in range(kills):
        server.start()
        until = time.monotonic() + moments.uniform(0, 1.0)
        while time.monotonic() < until:
            pending[f"key-{seed}"] = seed
            seed += 1
            for key, one in list(pending.items()):
                id = server.post(asked(one), key)
                if id is not None:
                    ids[key] = id
                    del pending[key]
            time.sleep(0.05)
        server.end(signal.SIGKILL)
    server.start()
    for key, one in pending.items():
        id = server.post(asked(one), key)
        assert id is not None
        ids[key] = id
    for key, id in ids.items():  # a client that asks again gets the same job
        assert server.post(asked(int(key[4:])), key) == id
    session = Session()
    for key, id in ids.items():
        job = server.ended(id)
        assert job["state"] == "done", job
        (own,) = session.run(Request(base=str(tiny_folder), **asked(int(key[4:]))))
        if server.settings.batch == 1:
            assert server.image(id).tobytes() == own.image.tobytes()
        else:  # in a batch, as the pipeline promises
            levels = ImageChops.difference(server.image(id), own.image).getextrema()
            assert max(most for _, most in levels) <= 1  # type: ignore[misc]
    server.end(signal.SIGTERM)
    with sqlite3.connect(server.settings.data / "jobs.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (len(ids),)
    kept = {path.name for path in (server.settings.data / "jobs").iterdir()}
    assert kept == set(ids.values())


def test_a_killed_server_loses_nothing_and_gives_the_same_bytes(server: Server, tiny_folder: Path) -> None:
    kill_often(server, 2, tiny_folder)


@pytest.mark.slow
@pytest.mark.parametrize("server", [1, 4], ids=["one by one", "batches"], indirect=True)
def test_a_server_killed_twenty_times_loses_nothing(server: Server, tiny_folder: Path) -> None:
    kill_often(server, 20, tiny_folder)


def test_of_two_servers_on_one_database_the_killed_ones_jobs_are_drawn_by_the_other(
    settings_at: Callable[..., Settings], tmp_path: Path, tiny_folder: Path, postgres: Postgres, database: str
) -> None:
    CONTEXT.set_forkserver_preload(["tether.serving.run"])
    settings = settings_at(tmp_path / "data", batch=1, attempts=1000, grace=20.0, database=database, lease=1.0)
    servers, ids = [Server(settings), Server(settings)], {}
    try:
        for server in servers:
            server.start()
        for turn in range(4):
            for seed in range(3 * turn, 3 * turn + 3):
                ids[seed] = servers[seed % 2].post(asked(seed), f"key-{seed}")
                assert ids[seed] is not None
            servers[turn % 2].end(signal.SIGKILL)
            if turn == 1:
                postgres.kill()
                postgres.start()
            servers[turn % 2].start()
        session = Session()
        for seed, id in ids.items():
            for server in servers:
                assert server.ended(id)["state"] == "done"
                assert server.post(asked(seed), f"key-{seed}") == id
            (own,) = session.run(Request(base=str(tiny_folder), **asked(seed)))
            assert servers[0].image(id).tobytes() == own.image.tobytes()
        for server in servers:
            server.end(signal.SIGTERM)
    finally:
        for server in servers:
            server.client.close()
            if server.process is not None and server.process.is_alive():
                server.process.kill()
                server.process.join()
    assert {path.name for path in (tmp_path / "data" / "jobs").iterdir()} == set(ids.values())


def test_a_server_that_is_asked_to_stop_ends_in_order(server: Server) -> None:
    server.start()
    ids = [server.post({"prompt": "x", "seed": 1, "steps": 100}, f"{k}") for k in range(3)]
    with server.client.stream("GET", f"/v1/jobs/{ids[-1]}/events") as events:
        lines = events.iter_lines()
        assert next(lines).startswith("event:")
        server.end(signal.SIGTERM)  # an open stream does not hold it up
    with sqlite3.connect(server.settings.data / "jobs.sqlite") as connection:
        found = connection.execute("SELECT state, attempts FROM jobs ORDER BY number").fetchall()
    assert set(found) <= {("done", 1), ("queued", 0)}
    server.start()
    for id in ids:
        assert id is not None
        assert server.ended(id)["state"] == "done"
