"""A `tether serve` in a process of its own, for scripts that measure or attack it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from psutil import Process

__all__ = ["Server"]


class Server:
    """A server that is ready, for the time of a `with` block.

    Args:
        folder: its jobs, and its log.
        options: of `tether serve`.

    Attributes:
        client: asks it.
        url: where it is.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.log = folder / "log.jsonl"
        self._command = [
            sys.executable,
            "-m",
            "tether",
            "serve",
            "--data",
            str(folder / "data"),
            "--port",
            "0",
            *options,
        ]
        self._folder = folder

    def __enter__(self) -> Server:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
        self.client = httpx2.Client(base_url=self.url, timeout=60)
        until = time.monotonic() + 300
        while not self._is_ready():
            if time.monotonic() > until or self.process.poll() is not None:
                self.__exit__()
                raise RuntimeError(f"the server is not ready: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def __exit__(self, *error: Any) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()

    @property
    def memory(self) -> int:
        """Bytes that it holds in memory."""
        return Process(self.process.pid).memory_info().rss

    def events(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in self.log.read_text().split("\n") if line.startswith("{")]

    def tracebacks(self) -> list[str]:
        """The unexpected errors in its log."""
        return [one["traceback"] for one in self.events() if "traceback" in one]
