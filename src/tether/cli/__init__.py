"""The command line. Commands are thin, and import what is heavy only when they run."""

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
"""What keeps the libraries below from talking over one clear line."""

app = typer.Typer(
    name="tether",
    help="Steer a locked text-to-image diffusion model with a picture: edges, depth, pose, a doodle.",
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
    """Runs `tether`; every failure is one line on standard error, below the usage where an option is malformed, and a
    non-zero exit.

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
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):  # typer's way of saying it
            _fail("stopped; every picture already written is whole", 130)
        raise
    except MemoryError:
        _fail("out of memory: draw fewer or smaller pictures", 1)
    except Exception as error:
        line = str(error).strip().splitlines()
        _fail(f"{type(error).__name__}: {line[0] if line else 'no message'} (TETHER_TRACEBACK=1 shows where)", 1)


def _fail(line: str, code: int) -> None:
    print(f"tether: {line}", file=sys.stderr)
    raise SystemExit(code)
