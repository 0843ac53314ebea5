"""Replicas by Ray Serve, on a cluster of processes on this machine; `make test-scale` runs them."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tether.images import open_image
from tether.sampling import Request, Session
from tether.serving import Models

from .postgres import Postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'tether-control[ray]'"),
]
STEPS = 40


class Server:
    """`tether serve --ray`, with a client of it."""

    def __init__(self, folder: Path, models: Models, database: str, *options: str) -> None:
        command = [sys.executable, "-m", "tether", "serve", "--ray", "--port", "0", "--data", str(folder / "data")]
        command += ["--bases", str(models.bases[0]), "--base", "tiny", "--batch", "1", *options]
        environment = os.environ | {"TETHER_DATABASE": database}
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
        assert self.process.stdout is not None
        address = self.process.stdout.readline().strip()
        assert address.startswith("http"), (folder / "log").read_text()
        self.client = httpx2.Client(base_url=address, timeout=30)
        self.wait(lambda: self.client.get("/readyz").status_code == 200, "ready")

    @staticmethod
    def wait(true: Callable[[], Any], what: str, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, f"not {what} in {seconds} s"
            time.sleep(0.1)

    def post(self, seed: int) -> str:
        answer = self.client.post("/v1/jobs", json={"prompt": "x", "seed": seed, "steps": STEPS})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, id: str) -> dict[str, Any]:
        return self.client.get(f"/v1/jobs/{id}").json()

    def image(self, id: str) -> bytes:
        return open_image(io.BytesIO(self.client.get(f"/v1/jobs/{id}/images/0").content)).tobytes()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) in (0, -signal.SIGTERM)
        self.client.close()


def replicas() -> list[int]:
    """The processes of replicas on this machine."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if re.search(r"ray::ServeReplica:tether", line)]


@pytest.fixture
def serve(tmp_path: Path, models: Models, postgres: Postgres, database: str) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path, models, postgres.url, *options))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_a_replica_that_is_killed_loses_nothing_and_the_rest_gives_the_same_bytes(
    serve: Callable[..., Server], tiny_folder: Path
) -> None:
    server = serve("--replicas", "2")
    server.wait(lambda: len(replicas()) == 2, "two replicas")
    ids = {seed: server.post(seed) for seed in range(24)}
    server.wait(lambda: any(server.job(id)["state"] == "running" for id in ids.values()), "running")
    first = replicas()
    os.kill(first[0], signal.SIGKILL)
    server.wait(lambda: all(server.job(id)["state"] == "done" for id in ids.values()), "done")
    server.wait(lambda: len(replicas()) == 2 and first[0] not in replicas(), "replaced")
    session = Session()
    for seed, id in ids.items():
        (own,) = session.run(Request(base=str(tiny_folder), prompt="x", seed=seed, steps=STEPS))
        assert server.image(id) == own.image.tobytes()
    assert [job["number"] for job in server.client.get("/v1/jobs").json()["jobs"]] == list(range(24, 0, -1))
    server.stop()
    assert replicas() == []


def test_replicas_come_with_the_queue_and_what_is_drawn_when_all_stop_is_drawn_later(
    serve: Callable[..., Server],
) -> None:
    server = serve("--replicas", "1-2", "--replica-jobs", "2", "--queue", "200")
    assert len(replicas()) == 1
    ids: list[str] = []

    def grown() -> bool:
        states = [job["state"] for job in server.client.get("/v1/jobs").json()["jobs"]]
        waiting = sum(state in ("queued", "running") for state in states)
        ids.extend(server.post(len(ids) + k) for k in range(8 - waiting))
        return len(replicas()) == 2

    server.wait(grown, "two replicas")
    server.stop()
    assert replicas() == []
    again = serve("--replicas", "1")
    again.wait(lambda: all(again.job(id)["state"] == "done" for id in ids), "done")
    again.stop()
