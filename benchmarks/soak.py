"""A server under more work than it can do, for minutes: nothing accepted is lost, drawn twice or drawn wrong.

    python benchmarks/soak.py --seconds 600 --out out/soak.json

`tether serve` on the shipped weights, and 32 clients that together ask for five times what it was seen to draw. Most
are refused (429). Each job that is accepted is followed to its end, by its status or its events, and its picture is
compared with the one that its request gives alone, which may differ by one level of 255. A process of its own asks for
the status of jobs all the while, and says how long the answers took. It fails on a job that is lost, failed, drawn
twice or different, and on an answer that is an error of the server; times and memory it reports.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import numpy as np
from live import Server
from PIL import Image

from tether.images import open_image
from tether.sampling import Request, Session

DOODLE = Path(__file__).parents[1] / "src" / "tether" / "examples" / "doodle.png"
QUEUE = 24
OVERLOAD = 5
QUANTILES = (0.5, 0.99, 1)
WORDS = ("apple", "ball", "cat", "house", "cup", "star", "fish", "bear")


def requests() -> list[dict[str, Any]]:
    """What clients ask for: two kinds of work, so that not all that waits is drawn as one batch."""
    plain = [{"prompt": f"a {word}, 3d emoji", "seed": k, "steps": 4} for k, word in enumerate(WORDS)]
    control = {"ref": "canny", "condition": Request(prompt="", init=Image.open(DOODLE)).model_dump(mode="json")["init"]}
    return plain + [one | {"steps": 6, "controls": [control]} for one in plain]


class Load:
    """The clients.

    Args:
        url: of the server.
        expected: the pixels of each request's picture.
    """

    def __init__(self, url: str, asked: list[dict[str, Any]], expected: list[np.ndarray]) -> None:
        self.url, self.asked, self.expected = url, asked, expected
        self.statuses: Counter[int] = Counter()
        self.done: dict[str, float] = {}
        self.accepted: set[str] = set()
        self.wrong: list[str] = []
        self.worst = 0
        self._following: set[asyncio.Task[None]] = set()

    async def run(self, clients: int, rate: float, seconds: float) -> None:
        """Asks `rate` times a second, spread over clients, and follows what is accepted to its end."""
        until = time.monotonic() + seconds
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx2.AsyncClient(base_url=self.url, timeout=120, limits=limits) as client:
            await asyncio.gather(*(self._client(client, clients / rate, until, k) for k in range(clients)))
            while self._following:
                await asyncio.gather(*self._following)

    async def _client(self, client: httpx2.AsyncClient, period: float, until: float, number: int) -> None:
        rng = random.Random(number)
        next_one = time.monotonic() + rng.uniform(0, period)
        while next_one < until:
            await asyncio.sleep(max(0.0, next_one - time.monotonic()))
            next_one = max(next_one + period, time.monotonic())
            which = rng.randrange(len(self.asked))
            key = {"Idempotency-Key": uuid4().hex}
            answer = await self._ask(client, "POST", "/v1/jobs", json=self.asked[which], headers=key)
            self.statuses[answer.status_code] += 1
            if answer.status_code in (200, 202):
                id = answer.json()["id"]
                self.accepted.add(id)
                task = asyncio.create_task(self._follow(client, id, which, by_events=rng.random() < 0.5))
                self._following.add(task)
                task.add_done_callback(self._following.discard)
            elif answer.status_code != 429 or "retry-after" not in answer.headers:
                self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")

    async def _ask(self, client: httpx2.AsyncClient, method: str, path: str, **sent: Any) -> httpx2.Response:
        """Asks again when the connection breaks, as when the server closes one that was idle; a job has its key."""
        for _ in range(5):
            with suppress(httpx2.NetworkError, httpx2.RemoteProtocolError):
                return await client.request(method, path, **sent)
        raise RuntimeError(f"{method} {path}: no answer, five times")

    async def _follow(self, client: httpx2.AsyncClient, id: str, which: int, *, by_events: bool) -> None:
        if by_events:
            await self._ask(client, "GET", f"/v1/jobs/{id}/events", params={"preview": which % 2 == 0})
        while (job := (await self._ask(client, "GET", f"/v1/jobs/{id}")).json())["state"] in ("queued", "running"):
            await asyncio.sleep(0.25)
        if job["state"] != "done":
            self.wrong.append(f"job {id} is {job['state']}: {job.get('error')}")
            return
        content = (await self._ask(client, "GET", f"/v1/jobs/{id}/images/0")).content
        difference = await asyncio.to_thread(self._difference, content, which)
        self.worst = max(self.worst, difference)
        if difference > 1:
            self.wrong.append(f"job {id} differs by {difference} levels from its request alone")
        self.done[id] = time.monotonic()

    def _difference(self, content: bytes, which: int) -> int:
        drawn = np.asarray(open_image(io.BytesIO(content))).astype(int)
        return int(np.abs(drawn - self.expected[which]).max())


def probe(url: str, seconds: float) -> None:
    """Asks for the status of the last jobs, twenty times a second; prints the seconds that each answer took."""
    took, ids, until = [], [], time.monotonic() + seconds
    with httpx2.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            with suppress(httpx2.NetworkError, httpx2.RemoteProtocolError):  # a connection that was idle
                if len(took) % 40 == 0:
                    ids = [job["id"] for job in client.get("/v1/jobs", params={"limit": 20}).json()["jobs"]]
                if ids:
                    started = time.perf_counter()
                    client.get(f"/v1/jobs/{ids[len(took) % len(ids)]}")
                    took.append(time.perf_counter() - started)
            time.sleep(0.05)
    print(json.dumps(took))


async def watch(server: Server, load: Load, samples: list[tuple[float, float, int]]) -> None:
    """Once a second: the time, the server's memory in MB, and how many jobs are done."""
    started = time.monotonic()
    while True:
        samples.append((round(time.monotonic() - started, 1), round(server.memory / 2**20, 1), len(load.done)))
        await asyncio.sleep(1)


async def soak(server: Server, load: Load, clients: int, seconds: float) -> dict[str, Any]:
    """Measures what the server can do, then asks for five times as much."""
    warm, started = Load(server.url, load.asked, load.expected), time.monotonic()
    await warm.run(clients, 100.0, min(30.0, seconds / 4))
    load.wrong += warm.wrong
    capacity = len(warm.done) / (max(warm.done.values()) - started)
    print(f"capacity: {capacity:.1f} jobs a second", flush=True)
    samples: list[tuple[float, float, int]] = []
    watching = asyncio.create_task(watch(server, load, samples))
    command = [sys.executable, __file__, "--probe", server.url, "--seconds", str(seconds)]
    probing = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    await load.run(clients, OVERLOAD * capacity, seconds)
    watching.cancel()
    took = sorted(json.loads((await asyncio.to_thread(probing.communicate))[0]))
    load.accepted |= warm.accepted
    part = [[memory for at, memory, _ in samples if a <= at / samples[-1][0] <= b] for a, b in ((0.2, 0.5), (0.7, 1.0))]
    early, late = (statistics.median(values or [samples[-1][1]]) for values in part)
    return {
        "seconds": samples[-1][0],
        "clients": clients,
        "jobs a second that it draws": round(capacity, 2),
        "asked": sum(load.statuses.values()),
        "answers": {str(status): number for status, number in sorted(load.statuses.items())},
        "done": len(load.done),
        "most levels of 255 that a picture differs by": max(load.worst, warm.worst),
        "status calls": len(took),
        "seconds of a status call: median, p99, most": [round(took[int(q * (len(took) - 1))], 4) for q in QUANTILES],
        "MB: median of 20 to 50%, of 70 to 100%, most": [early, late, max(memory for _, memory, _ in samples)],
    }  # fmt: skip


def checked(folder: Path, load: Load, text: str) -> list[str]:
    """What is wrong with the database and the counts of the server, after its end."""
    wrong = list(load.wrong)
    with sqlite3.connect(folder / "data" / "jobs.sqlite") as database:
        rows = {
            id: (state, attempts) for id, state, attempts in database.execute("SELECT id, state, attempts FROM jobs")
        }
        if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            wrong.append("the database is damaged")
    if set(rows) != load.accepted:
        wrong.append(f"{len(rows)} jobs are kept, {len(load.accepted)} were accepted")
    wrong += [f"job {id} is {state}, begun {n} times" for id, (state, n) in rows.items() if (state, n) != ("done", 1)]
    drawn = re.search(r"^tether_images_total (\S+)$", text, re.MULTILINE)
    if drawn is None or int(float(drawn[1])) != len(load.accepted):
        wrong.append(f"images drawn: {drawn and drawn[1]}, for {len(load.accepted)} jobs")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe, options.seconds)
        return
    asked = requests()
    session = Session()
    expected = [np.asarray(session.run(Request(**one))[0].image).astype(int) for one in asked]
    del session
    load = Load("", asked, expected)
    with tempfile.TemporaryDirectory() as name:
        with Server(Path(name), ("--queue", str(QUEUE))) as server:
            load.url = server.url
            found = asyncio.run(soak(server, load, options.clients, options.seconds))
            text = server.client.get("/metrics").text
            load.wrong += server.tracebacks()
        wrong = checked(Path(name), load, text)
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    found |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads, load {os.getloadavg()[0]:.0f}"
    }
    found |= {"date": date.today().isoformat(), "wrong": wrong}
    print(json.dumps(found, indent=1))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
