"""The command line. Commands are thin, and import heavy packages only when they run."""

from __future__ import annotations

import os
import sys

import typer

from tether.cli import annotate, convert, dataset, demo, generate, info, train
from tether.errors import TetherError

__all__ = ["app", "main"]

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Environment variables that keep libraries from printing around the one line of an error."""

app = typer.Typer(
    name="tether",
    help="Steer a locked text-to-image diffusion model with an image: edges, depth, pose, a doodle.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(generate.generate)
app.command()(annotate.annotate)
app.command()(train.train)
app.add_typer(dataset.app, name="dataset")
app.command()(convert.convert)
app.command()(demo.demo)
app.command()(info.info)


def main() -> None:
    """Runs `tether`. Every failure is one line on standard error, after the usage if an option is malformed.

    Exit codes: 2 for a wrong request, 130 for Ctrl-C, 1 for anything else. TETHER_TRACEBACK=1 shows tracebacks.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("TETHER_TRACEBACK"):
        app()
    try:
        app()
    except TetherError as error:
        _fail(str(error), 2)
    except SystemExit as ended:
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):  # typer's form of Ctrl-C
            _fail("stopped; every image already written is complete", 130)
        raise
    except MemoryError:
        _fail("out of memory: generate fewer or smaller images", 1)
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        _fail(f"{type(error).__name__}: {lines[0]} (TETHER_TRACEBACK=1 shows the traceback)", 1)


def _fail(line: str, code: int) -> None:
    print(f"tether: {line}", file=sys.stderr)
    raise SystemExit(code)
