"""The time of a server for 16 waiting jobs: Tether's, one by one, in batches, by OpenVINO; diffusers behind FastAPI.

    python benchmarks/serving.py --out out/serving.json

The shipped base and control, 16 prompts over one doodle, 20 steps of DPM++ 2M. Every server is a process of its own.
All clients ask at once, and the time is until the last has its image. The naive server is what one writes in an
afternoon: a pipeline, a lock, a route that answers with a PNG. The ways take turns, several rounds of each.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOODLE = ROOT / "src" / "tether" / "examples" / "doodle.png"
WORDS = ("apple", "ball", "cat", "house", "cup", "star", "fish", "bear")
STEPS, SCALE = 20, 5.0
WAYS = ("tether, batches of 8", "tether, one by one", "diffusers, FastAPI", "tether, batches of 8, OpenVINO")


def naive(port: int) -> None:
    """The server to compare with."""
    import torch
    import uvicorn
    from diffusers import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
    from fastapi import FastAPI, Response
    from PIL import Image

    from tether.weights import shipped

    control = ControlNetModel.from_pretrained(shipped("control-canny"))
    pipe: Any = StableDiffusionControlNetPipeline.from_pretrained(
        shipped("base"), controlnet=control, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    lock, app = threading.Lock(), FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/draw")
    def draw(body: dict[str, Any]) -> Response:
        image = Image.open(io.BytesIO(base64.b64decode(body["condition"]))).convert("RGB").resize((128, 128))
        generator = torch.Generator().manual_seed(body["seed"])
        with lock:
            drawn = pipe(
                body["prompt"],
                image=image,
                generator=generator,
                num_inference_steps=STEPS,
                guidance_scale=SCALE,
                width=128,
                height=128,
            ).images[0]
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    uvicorn.run(app, port=port, log_level="error")


@contextmanager
def server(way: str, folder: Path) -> Any:
    """A server that is ready, and a client of it."""
    import socket

    import httpx2
    from psutil import Process

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if way.startswith("tether"):
        batch = "8" if "batches" in way else "1"
        command = ["-m", "tether", "serve", "--data", str(folder), "--batch", batch, "--log-level", "error"]
        command += ["--engine", "openvino"] if "OpenVINO" in way else []
    else:
        command = [str(Path(__file__).resolve()), "--naive"]
    process = subprocess.Popen([sys.executable, *command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            until = time.monotonic() + 300
            while not _is_ready(client):
                if time.monotonic() > until or process.poll() is not None:
                    raise RuntimeError(f"{way}: the server did not start")
                time.sleep(0.1)
            yield client, Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _is_ready(client: Any) -> bool:
    import httpx2

    try:
        return client.get("/readyz").status_code == 200
    except httpx2.HTTPError:
        return False


def drawn(client: Any, way: str, seed: int, word: str) -> bytes:
    """One image, as a client that waits for it."""
    condition = base64.b64encode(DOODLE.read_bytes()).decode()
    prompt = f"a {word}, 3d emoji"
    if not way.startswith("tether"):
        answer = client.post("/draw", json={"prompt": prompt, "seed": seed, "condition": condition})
        answer.raise_for_status()
        return answer.content
    control = {"ref": "canny", "condition": condition}
    values = {"prompt": prompt, "seed": seed, "steps": STEPS, "guidance_scale": SCALE, "controls": [control]}
    answer = client.post("/v1/jobs", json=values)
    answer.raise_for_status()
    id = answer.json()["id"]
    client.get(f"/v1/jobs/{id}/events")  # until it ends
    image = client.get(f"/v1/jobs/{id}/images/0")
    image.raise_for_status()
    return image.content


def seconds(way: str, jobs: int, folder: Path) -> tuple[float, float]:
    """The time of all jobs together, after as many that warm up, by the clock and of the server's CPUs."""
    with server(way, folder) as (client, process), ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda k: drawn(client, way, jobs + k, "dog"), range(jobs)))
        started, used = time.perf_counter(), sum(process.cpu_times()[:2])
        images = list(pool.map(lambda k: drawn(client, way, k, WORDS[k % len(WORDS)]), range(jobs)))
        took = time.perf_counter() - started, sum(process.cpu_times()[:2]) - used
    if len(set(images)) != jobs:
        raise RuntimeError(f"{way}: {len(set(images))} different images for {jobs} jobs")
    return took


def measure(jobs: int, rounds: int) -> dict[str, Any]:
    """Seconds of each way and round, and the ratios of the medians."""
    ways = [way for way in WAYS if "OpenVINO" not in way or find_spec("openvino") is not None]
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else ways[::-1]:
            with tempfile.TemporaryDirectory() as folder:
                times[way].append(seconds(way, jobs, Path(folder)))
            wall, cpu = times[way][-1]
            print(f"{way}: {wall:.1f} s, {cpu:.1f} s of CPU, for {jobs} images", flush=True)
    found: dict[str, Any] = {"jobs": jobs, "seconds, and of CPU": times}
    for number, what in enumerate(("seconds", "CPU seconds")):
        median = {way: statistics.median(one[number] for one in values) for way, values in times.items()}
        found[f"{what}: one by one / batches"] = median[WAYS[1]] / median[WAYS[0]]
        found[f"{what}: diffusers / batches"] = median[WAYS[2]] / median[WAYS[0]]
        if WAYS[3] in median:
            found[f"{what}: one by one / batches, OpenVINO"] = median[WAYS[1]] / median[WAYS[3]]
            found[f"{what}: diffusers / batches, OpenVINO"] = median[WAYS[2]] / median[WAYS[3]]
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    return found | {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads",
        "date": date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--naive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.naive:
        naive(options.port)
        return
    found = measure(options.jobs, options.rounds)
    print(json.dumps(found, indent=1))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
