"""Sends a server what no client should send, made from its own OpenAPI document by schemathesis.

    python benchmarks/fuzz.py --requests 10000

`tether serve` on the shipped weights, with small limits, in a process of its own; all routes, with right and wrong
parameters and bodies (see `fuzz_hooks.py`). It fails on an answer that is an error of the server, that the document
does not have, or that does not come within half a minute; on a job that does not end; and on a traceback in the log.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx2
from live import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
LIMITS = ("--max-pixels", "16384", "--max-steps", "10", "--max-count", "2", "--queue", "4", "--max-body", "1")
PATIENCE = 30
"""Seconds until an answer counts as one that does not come."""
COUNT = re.compile(r'tether_http_seconds_count\{method="(\w+)",route="([^"]+)",status="(\d+)"\} (\d+)')


def answers(client: httpx2.Client) -> Counter[tuple[str, str, str]]:
    """How many answers the server has given, by method, route and status."""
    text = client.get("/metrics").text
    return Counter({(method, route, status): int(float(n)) for method, route, status, n in COUNT.findall(text)})


def schemathesis(url: str, seed: int, phases: str, examples: int) -> bool:
    """One run; whether it found nothing."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json"]
    command += ["--phases", phases, "--max-examples", str(examples), "--seed", str(seed), "--checks", CHECKS]
    command += ["--request-timeout", str(PATIENCE), "--generation-database", "none", "--suppress-health-check", "all"]
    command += ["--continue-on-failure", "--no-shrink", "--warnings", "off", "--no-color", "--max-redirects", "0"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "fuzz_hooks", "TETHER_FUZZED": url}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if found.returncode:
        print(found.stdout[-20_000:], found.stderr[-2000:], sep="\n")
    return found.returncode == 0


def wait_for_jobs(client: httpx2.Client, seconds: float = 120) -> list[str]:
    """What is wrong with the jobs that were accepted: nothing, when all of them end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = client.get("/metrics").text
        left = [int(float(n)) for n in re.findall(r'tether_jobs\{state="(?:queued|running)"\} (\S+)', text)]
        if not any(left):
            return []
        time.sleep(0.2)
    return [f"{sum(left)} jobs did not end"]


def fuzz(requests: int, examples: int, first_seed: int) -> list[str]:
    """Sends so many requests or some more; what is wrong."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), LIMITS) as server:
        client, seed, started = server.client, first_seed, time.perf_counter()
        phases = "fuzzing" if requests < 1000 else "coverage,fuzzing,stateful"
        while (sent := sum(answers(client).values())) < requests and not wrong:
            if not schemathesis(server.url, seed, phases, examples):
                wrong.append(f"seed {seed}: see above")
            now = sum(answers(client).values())
            if now == sent:
                raise RuntimeError("schemathesis sent nothing")
            print(f"seed {seed}: {now} requests, {time.perf_counter() - started:.0f} s", flush=True)
            seed, phases = seed + 1, "fuzzing"
        wrong += wait_for_jobs(client)
        given = answers(client)
        by_status = Counter({status: 0 for _, _, status in given})
        for (method, route, status), number in given.items():
            by_status[status] += number
            if status >= "500" and route != "/readyz":
                wrong.append(f"{number} answers of {method} {route} are {status}")
        print(
            f"{sum(given.values())} requests of {len({key[:2] for key in given})} operations:",
            dict(sorted(by_status.items())),
        )
        wrong += server.tracebacks()
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=100, help="of each operation, in one run of schemathesis")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wrong = fuzz(options.requests, options.examples, options.seed)
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
