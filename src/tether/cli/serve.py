"""`tether serve`: the HTTP server."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tether.cli.options import is_given
from tether.cli.sources import check_folder, check_input
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.serving.service import Drawing
    from tether.serving.settings import Settings
    from tether.serving.store import JobStore

__all__ = ["serve"]

NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client", "python_multipart")
TOKEN, DATABASE = "TETHER_TOKEN", "TETHER_DATABASE"


def serve(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="Folder of jobs and images.")] = Path("tether-data"),
    host: Annotated[str, typer.Option(help="Address to listen at; other than this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 7860,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File with the token that clients have to show; or the variable {TOKEN}.", show_default=False
        ),
    ] = None,
    bases: Annotated[list[Path] | None, typer.Option(help="Folder of bases by name. Repeatable.")] = None,
    controls: Annotated[list[Path] | None, typer.Option(help="Folder of controls. Repeatable.")] = None,
    vaes: Annotated[list[Path] | None, typer.Option(help="Folder of autoencoders. Repeatable.")] = None,
    loras: Annotated[list[Path] | None, typer.Option(help="Folder of LoRA files. Repeatable.")] = None,
    embeddings: Annotated[list[Path] | None, typer.Option(help="Folder of embeddings. Repeatable.")] = None,
    base: Annotated[str, typer.Option(help="Name of the base that is opened at start.")] = "tether",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, by default.")] = "float32",
    engine: Annotated[
        str, typer.Option(help="What computes: eager, compile, openvino, or auto: docs/performance.md.")
    ] = "eager",
    batch: Annotated[int, typer.Option(help="Images of jobs that are drawn at once.", min=1)] = 8,
    queue: Annotated[int, typer.Option(help="Jobs that may wait or run.", min=1)] = 64,
    max_pixels: Annotated[int, typer.Option(help="Width x height of an image.", min=64)] = 2**20,
    max_steps: Annotated[int, typer.Option(help="Steps of a job.", min=1, max=1000)] = 100,
    max_count: Annotated[int, typer.Option(help="Images of a job.", min=1, max=1000)] = 8,
    max_body: Annotated[int, typer.Option(help="MB of a request.", min=1)] = 32,
    keep_days: Annotated[float, typer.Option(help="Days that finished jobs are kept.", min=0)] = 30,
    keep_gb: Annotated[float, typer.Option(help="GB of finished jobs that are kept, the newest.", min=0, max=1e9)] = 10,
    database: Annotated[
        str | None,
        typer.Option(
            help=f"PostgreSQL of the jobs, for several servers or --ray; or the variable {DATABASE}: "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Draw in replicas by Ray Serve: docs/scale.md.")] = False,
    replicas: Annotated[str, typer.Option(help="With --ray: how many, N or LEAST-MOST.")] = "1",
    replica_jobs: Annotated[int, typer.Option(help="Waiting jobs for which there is a replica.", min=1)] = 8,
    replica_cpus: Annotated[int, typer.Option(help="CPUs, and threads, of a replica.", min=1)] = 1,
    replica_gpus: Annotated[int, typer.Option(help="GPUs of a replica.", min=0)] = 0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    check: Annotated[bool, typer.Option("--check", help="Try everything a start needs, and exit.")] = False,
) -> None:
    """Serve jobs over HTTP, and keep them: docs/server.md."""
    _need("serve", "the server", *NEEDED)
    if log_level not in ("debug", "info", "warning", "error"):
        raise TetherError(f"--log-level {log_level}: write debug, info, warning or error")
    for name in ("replicas", "replica_jobs", "replica_cpus", "replica_gpus"):
        if not ray and is_given(context, name):
            raise TetherError(f"--{name.replace('_', '-')} is for --ray: give it too, or leave it out")
    for name, value in (("--keep-days", keep_days), ("--keep-gb", keep_gb)):
        if isnan(value):  # older versions of typer let it through
            raise TetherError(f"invalid value for '{name}': it is not a number")
    check_folder(data, "--data")
    token = _token(token_file)
    folders = {"bases": bases, "controls": controls, "vaes": vaes, "loras": loras, "embeddings": embeddings}
    _check_folders(folders)

    from tether.sampling.engines import check_engine
    from tether.serving import run
    from tether.serving.settings import Limits, Models, Settings

    check_engine(engine)
    if engine == "openvino":
        _need("openvino", "--engine openvino", "openvino")
    database = database or os.environ.get(DATABASE) or None
    if ray and database is None:
        raise TetherError(f"--ray needs --database, or the variable {DATABASE}: the PostgreSQL that replicas draw from")
    settings = Settings(
        data=data,
        host=host,
        port=port,
        token=token,
        models=Models(**{name: tuple(given) for name, given in folders.items() if given}),
        limits=Limits(
            queue=queue,
            body=max_body * 2**20,
            bodies=4 * max_body * 2**20,
            pixels=max_pixels,
            steps=max_steps,
            count=max_count,
        ),
        base=base,
        device=device,
        dtype=dtype,  # type: ignore[arg-type]  # checked there
        engine=engine,
        batch=batch,
        keep_days=keep_days,
        keep_bytes=round(keep_gb * 2**30),
        database=None if database is None else _database(database),
    )
    if check:
        for line in run.check(settings):
            print(line)
        return
    run.serve(settings, log_level, _replicas(replicas, replica_jobs, replica_cpus, replica_gpus) if ray else None)


def _database(given: str) -> str:
    """The address of a database, for SQLAlchemy."""
    _need("postgres", "a shared database", "pg8000")
    from tether.serving.shared import database_url

    return database_url(given)


def _replicas(given: str, jobs: int, cpus: int, gpus: int) -> Callable[[Settings, JobStore], Drawing]:
    """Makes the replicas of a service."""
    _need("ray", "--ray", "ray")
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", given)
    if found is None:
        raise TetherError(f"--replicas {given}: write a number, or LEAST-MOST")
    from tether.serving.replicas import Replicas, Scale

    least, most = int(found[1]), int(found[2] or found[1])
    scale = Scale(least=least, most=most, jobs=jobs, cpus=cpus, gpus=gpus)
    return lambda settings, store: Replicas(settings, store, scale)


def _need(extra: str, what: str, *modules: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise TetherError(f"{what} needs {', '.join(missing)}: pip install 'tether-control[{extra}]'")


def _token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; None for neither."""
    if file is None:
        return os.environ.get(TOKEN, "").strip() or None
    check_input(file, "a file with the token alone")
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise TetherError(f"--token-file {file} cannot be read as text: {type(error).__name__}") from None
    if len(lines) != 1:
        raise TetherError(f"--token-file {file} has {len(lines)} words: expected the token alone")
    return lines[0]


def _check_folders(folders: dict[str, list[Path] | None]) -> None:
    for option, given in folders.items():
        for folder in given or []:
            if not folder.is_dir():
                raise TetherError(f"--{option} {folder} is not a folder: expected a folder of models")
