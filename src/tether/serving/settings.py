"""What an operator decides: where things are kept, which models may be named, and how much a client may ask for."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tether.errors import TetherError

__all__ = ["Frozen", "Limits", "Models", "Settings", "is_loopback"]

MIN_TOKEN = 16
"""Characters of a token: a short one can be guessed."""


class Frozen(BaseModel):
    """Frozen, without unknown keys. What is wrong is a `TetherError` in one line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            line = first["msg"]
            raise TetherError(f"{where}: {line[:1].lower()}{line[1:]}, not {first['input']!r}"[:300]) from None


class Limits(Frozen):
    """What one client may ask for, and all of them together.

    Attributes:
        queue: jobs that wait or run; one more is refused with 429.
        body: bytes of a request.
        bodies: bytes of all requests that are being received or read at once.
        upload_pixels: pixels of one uploaded image.
        pixels: width x height that is drawn.
        steps, count, controls: of a request.
        adapters: LoRA files, and embeddings, of a request.
        prompt: characters of a prompt.
        listeners: open streams of events.
        idle: seconds that a client may be silent before its request is whole, or not read what is sent to it.
    """

    queue: int = Field(default=64, ge=1)
    body: int = Field(default=32 * 2**20, ge=1024)
    bodies: int = Field(default=128 * 2**20, ge=1024)
    upload_pixels: int = Field(default=16 * 2**20, ge=1)
    pixels: int = Field(default=2**20, ge=64)
    steps: int = Field(default=100, ge=1, le=1000)
    count: int = Field(default=8, ge=1, le=1000)
    controls: int = Field(default=4, ge=0)
    adapters: int = Field(default=4, ge=0)
    prompt: int = Field(default=4000, ge=1)
    listeners: int = Field(default=256, ge=1)
    idle: float = Field(default=30.0, gt=0)


class Models(Frozen):
    """The folders whose models a request may name, besides the shipped ones."""

    bases: tuple[Path, ...] = ()
    controls: tuple[Path, ...] = ()
    vaes: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()
    embeddings: tuple[Path, ...] = ()


class Settings(Frozen):
    """The settings of a server.

    Attributes:
        data: the folder of jobs and images; one server at a time uses it.
        host, port: where it listens.
        token: what clients have to show; None for a server that only this machine reaches.
        models: the folders of models.
        limits: what may be asked for.
        base: the base of a request that names none; it is opened at start.
        device, dtype, engine: of a request that says nothing else.
        kept_bases: how many opened bases stay in memory.
        batch: most images that are drawn at once, of one job or several that are alike.
        keep_days: finished jobs are deleted after that many days.
        keep_bytes: the oldest finished jobs are deleted when all together need more.
        attempts: how often a job is begun whose drawing ended with the process, before it counts as failed.
        database: address of the PostgreSQL that the jobs are in, from which several processes draw; all of them reach
            `data`. Without one, the jobs are in a file of SQLite there.
        lease: seconds after which the jobs of a process that is not heard of are given to others.
        grace: seconds that a job may go on after the server was asked to stop; then it is put back into the queue.

    Raises:
        TetherError: when it would listen beyond loopback without a token, or the token is short.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    token: str | None = Field(default=None, repr=False)
    models: Models = Models()
    limits: Limits = Limits()
    base: str = "tether"
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    engine: str = "eager"
    kept_bases: int = Field(default=2, ge=1)
    batch: int = Field(default=8, ge=1)
    keep_days: float = Field(default=30.0, ge=0)
    keep_bytes: int = Field(default=10 * 2**30, ge=0)
    attempts: int = Field(default=10, ge=1)
    grace: float = Field(default=10.0, ge=0)
    database: str | None = Field(default=None, repr=False)
    lease: float = Field(default=15.0, ge=1)

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if self.token is None and not is_loopback(self.host):
            raise TetherError(f"--host {self.host} is reached from other machines: give a token, or use 127.0.0.1")
        if self.token is not None and (len(self.token) < MIN_TOKEN or not self.token.isascii()):
            raise TetherError(f"the token must have {MIN_TOKEN} or more ASCII characters")
        return self


def is_loopback(host: str) -> bool:
    """Whether a host name or address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
