"""`tether serve`: the HTTP server."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tether.cli.sources import check_folder, check_input
from tether.errors import TetherError

__all__ = ["serve"]

NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client", "python_multipart")
TOKEN = "TETHER_TOKEN"


def serve(
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
    batch: Annotated[int, typer.Option(help="Images of jobs that are drawn at once.", min=1)] = 8,
    queue: Annotated[int, typer.Option(help="Jobs that may wait.", min=1)] = 64,
    max_pixels: Annotated[int, typer.Option(help="Width x height of an image.", min=64)] = 2**20,
    max_steps: Annotated[int, typer.Option(help="Steps of a job.", min=1, max=1000)] = 100,
    max_count: Annotated[int, typer.Option(help="Images of a job.", min=1, max=1000)] = 8,
    max_body: Annotated[int, typer.Option(help="MB of a request.", min=1)] = 32,
    keep_days: Annotated[float, typer.Option(help="Days that finished jobs are kept.", min=0)] = 30,
    keep_gb: Annotated[float, typer.Option(help="GB of finished jobs that are kept, the newest.", min=0)] = 10,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    check: Annotated[bool, typer.Option("--check", help="Try everything a start needs, and exit.")] = False,
) -> None:
    """Serve jobs over HTTP, and keep them: docs/server.md."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise TetherError(f"the server needs {', '.join(missing)}: pip install 'tether-control[serve]'")
    if log_level not in ("debug", "info", "warning", "error"):
        raise TetherError(f"--log-level {log_level}: write debug, info, warning or error")
    check_folder(data, "--data")
    token = _token(token_file)
    folders = {"bases": bases, "controls": controls, "vaes": vaes, "loras": loras, "embeddings": embeddings}
    _check_folders(folders)

    from tether.serving import run
    from tether.serving.settings import Limits, Models, Settings

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
        batch=batch,
        keep_days=keep_days,
        keep_bytes=round(keep_gb * 2**30),
    )
    if check:
        for line in run.check(settings):
            print(line)
        return
    run.serve(settings, log_level)


def _token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; None for neither."""
    if file is None:
        return os.environ.get(TOKEN) or None
    check_input(file)
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
