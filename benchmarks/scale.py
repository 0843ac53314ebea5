"""What scaling out costs: jobs in the two databases, servers and replicas, data sets by Ray.

    python benchmarks/scale.py store --jobs 500        transitions of jobs a second, SQLite and PostgreSQL
    python benchmarks/scale.py serve --jobs 24         one server; replicas of Ray, one and two
    python benchmarks/scale.py build --images 400      a data set by one process, by two, by Ray

PostgreSQL is a throw-away one on this machine (Debian's package `postgresql`). Every way has two cores at most.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database."""
    from tests.serving.postgres import Postgres, find_postgres

    programs = find_postgres()
    if programs is None:
        raise SystemExit("install PostgreSQL: apt-get install postgresql")
    server = Postgres(programs)
    try:
        server.start()
        yield server.url
    finally:
        server.close()


# Transitions of jobs.


def hammer(address: str | None, path: str, most: int, name: int, begin: Any, made: Any) -> None:
    """One process: accepts, claims and ends jobs, and counts."""
    from tether.serving.shared import SharedJobStore, database_url
    from tether.serving.store import JobStore, NewJob

    store = JobStore.at(Path(path)) if address is None else SharedJobStore(database_url(address), 15)
    took = dict.fromkeys(("accept", "claim", "end"), 0.0)
    begin.wait()
    store.waiting()
    began, used = time.monotonic(), time.process_time()
    for number in range(most):
        at = time.perf_counter()
        store.add(NewJob(f"{name}-{number}", "a red apple, 3d emoji", alike="x" * 64), 10**6)
        took["accept"] += time.perf_counter() - at
        at = time.perf_counter()
        (job,) = store.claim("batch", 1) or store.claim("batch", 1)
        took["claim"] += time.perf_counter() - at
        at = time.perf_counter()
        store.finish(job.id, "done", images=1, size=20_000)
        took["end"] += time.perf_counter() - at
    made.put((time.monotonic() - began, took, time.process_time() - used))
    store.close()


def store(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for _ in range(arguments.rounds):
        with postgres() as address, tempfile.TemporaryDirectory() as folder:
            for database in (None, address):
                for processes in (1, 2):
                    rows.append(transitions(database, folder, processes, arguments.jobs))
                    print(json.dumps(rows[-1]), flush=True)
            rows.append(database_bytes(address))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def transitions(address: str | None, folder: str, processes: int, most: int) -> dict[str, Any]:
    import tether.serving.shared  # noqa: F401  once, before the forks

    context = multiprocessing.get_context("fork")
    made, begin, path = context.Queue(), context.Barrier(processes), f"{folder}/{processes}.sqlite"
    names = range(10 * processes, 11 * processes)
    workers = [context.Process(target=hammer, args=(address, path, most, name, begin, made)) for name in names]
    before = database_seconds()
    for worker in workers:
        worker.start()
    counted = [made.get(timeout=600) for _ in workers]
    after = database_seconds()
    for worker in workers:
        worker.join()
    jobs, seconds = most * processes, max(each for each, _, _ in counted)
    each = {what: round(1000 * sum(took[what] for _, took, _ in counted) / jobs, 2) for what in counted[0][1]}
    row = {"store": "SQLite" if address is None else "PostgreSQL", "processes": processes}
    row |= {"jobs a second": round(jobs / seconds, 1), "ms": each}
    row["ms of CPU a job"] = round(1000 * sum(used for _, _, used in counted) / jobs, 2)
    return row | {"of the database": round(1000 * (after - before) / jobs, 2)}


def database_seconds() -> float:
    """Seconds of CPU of all processes of the PostgreSQL that this process started."""
    import psutil

    found = 0.0
    for process in psutil.Process().children(recursive=True):
        if process.name() == "postgres":
            times = process.cpu_times()
            found += times.user + times.system + times.children_user + times.children_system
    return found


def database_bytes(address: str) -> dict[str, Any]:
    """Bytes of a job in PostgreSQL: tables with their indexes, and what was written ahead."""
    from sqlalchemy import create_engine, text

    from tether.serving.shared import database_url

    engine = create_engine(database_url(address))
    with engine.connect() as connection:
        jobs = connection.execute(text("select count(*) from jobs")).scalar_one()
        size = connection.execute(text("select pg_total_relation_size('jobs')")).scalar_one()
        ahead = connection.execute(text("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/1500000')")).scalar_one()
    engine.dispose()
    return {"PostgreSQL": {"jobs": jobs, "bytes a job": size // jobs, "bytes ahead a job": int(ahead) // jobs}}


# Servers.


@contextmanager
def server(folder: Path, database: str | None, *options: str) -> Iterator[Any]:
    """A client of `tether serve`, once it is ready."""
    import httpx2

    command = [sys.executable, "-m", "tether", "serve", "--port", "0", "--data", str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"TETHER_DATABASE": database} if database else {})
    log = (folder.parent / "log").open("ab")
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
    assert process.stdout is not None
    client = httpx2.Client(base_url=process.stdout.readline().strip(), timeout=60)
    try:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.05)
        print(f"  ready after {time.perf_counter() - started:.1f} s", flush=True)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(120)
        log.close()


def drawn(client: Any, jobs: int, batch: int) -> dict[str, Any]:
    """Seconds until jobs are drawn: one after another, and all at once."""

    def post(seed: int) -> str:
        # Requests of different guidance are not drawn as one batch.
        values = {"prompt": "a red apple, 3d emoji", "seed": seed, "guidance_scale": 3 + seed / 100 * (batch == 1)}
        return client.post("/v1/jobs", json=values).json()["id"]

    def wait(id: str) -> dict[str, Any]:
        while (job := client.get(f"/v1/jobs/{id}").json())["state"] != "done":
            assert job["state"] in ("queued", "running"), job
            time.sleep(0.02)
        return job

    wait(post(0))
    alone, overhead = [], []
    for seed in range(1, 6):
        at = time.perf_counter()
        job = wait(post(seed))
        alone.append(time.perf_counter() - at)
        overhead.append(alone[-1] - (job["ended"] - job["started"]))
    at = time.perf_counter()
    ids = [post(seed) for seed in range(10, 10 + jobs)]
    ended = [wait(id) for id in ids]
    seconds = time.perf_counter() - at
    return {
        "alone": round(sorted(alone)[2], 3),
        "of it not drawing": round(sorted(overhead)[2], 3),
        "jobs a second": round(jobs / seconds, 3),
        "a job while many wait": round(sum(job["ended"] - job["started"] for job in ended) / jobs, 3),
    }


def serve(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    batch = ("--batch", "1", "--queue", "500")
    for _ in range(arguments.rounds):
        with postgres() as address, tempfile.TemporaryDirectory() as folder:
            ways: dict[str, tuple[str | None, tuple[str, ...]]] = {
                "one server, SQLite": (None, batch),
                "one server, PostgreSQL": (address, batch),
                "Ray, 1 replica": (address, (*batch, "--ray", "--replicas", "1")),
                "Ray, 2 replicas": (address, (*batch, "--ray", "--replicas", "2")),
            }
            for name, (database, options) in ways.items():
                data = Path(folder) / ("alone" if database is None else "shared")
                with server(data, database, *options) as client:
                    rows.append({"way": name, **drawn(client, arguments.jobs, 1)})
                print(json.dumps(rows[-1]), flush=True)
            files = sum(path.stat().st_size for path in (Path(folder) / "shared").rglob("*") if path.is_file())
            rows.append({"bytes of files a job": files // (3 * (arguments.jobs + 6))})
            print(json.dumps(rows[-1]), flush=True)
    return rows


# Data sets.


def build(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import numpy as np
    from PIL import Image

    from tether.datasets.build import build_dataset
    from tether.files.hashing import hash_file

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for k in range(arguments.images):
            blocks = np.random.default_rng(k).integers(0, 256, (80, 96, 3), dtype=np.uint8)
            image = Image.fromarray(blocks).resize((768, 640), Image.Resampling.BICUBIC)
            image.save(folder / "photos" / f"{k:05}.jpg", quality=92)
            (folder / "photos" / f"{k:05}.txt").write_text(f"picture {k}")
        (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 not an image")
        (folder / "photos" / "broken.txt").write_text("broken")
        ways: dict[str, dict[str, Any]] = {
            "one process": {"workers": 0},
            "two processes": {"workers": 2},
            "Ray, 1 actor": {"workers": 1, "ray": True},
            "Ray, 2 actors": {"workers": 2, "ray": True},
        }
        first: list[str] = []
        for turn in range(arguments.rounds):
            for way, how in ways.items():
                out = folder / f"{turn}-{way}"
                seen: list[float] = []
                at = time.perf_counter()
                build_dataset(folder / "photos", out, "canny", on_progress=marked(seen), **how)
                whole = time.perf_counter() - at
                files = [hash_file(path) for path in sorted(out.iterdir()) if not path.name.startswith(".")]
                first = first or files
                assert files == first, "other bytes"
                size = sum(path.stat().st_size for path in out.iterdir())
                row = {"way": way, "seconds": round(whole, 2), "before the first": round(seen[0] - at, 2)}
                row["samples a second after it"] = round((len(seen) - 1) / (seen[-1] - seen[0]), 1)
                rows.append(row | {"bytes a sample": size // arguments.images})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def marked(seen: list[float]) -> Callable[[int, int], None]:
    return lambda done, total: seen.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["store", "serve", "build"])
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = {"store": store, "serve": serve, "build": build}[arguments.what](arguments)
    found = {"date": str(date.today()), "machine": platform.processor() or platform.machine(), "rows": rows}
    found["load"] = os.getloadavg()
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
