"""The command line. Commands are thin, and import heavy packages only when they run."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tether.cli import (
    annotate,
    convert,
    dataset,
    demo,
    detectors,
    evaluate,
    generate,
    info,
    inspect,
    lean,
    serve,
    study,
    train,
)
from tether.cli.threads import settle
from tether.errors import TetherError, is_out_of_memory

__all__ = ["app", "main"]

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Environment variables that keep libraries from printing around the one line of an error."""
DRAWING = ("annotate", "demo", "generate", "inspect", "serve")
"""Commands that need little of diffusers; see `tether.cli.lean`."""


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Raises a `TetherError` for what is wrong with a command's options, which typer itself would tell in three lines.

    typer's errors are told by their methods: older versions have them from click, newer ones from a copy of it.
    """
    try:
        yield
    except Exception as error:
        told, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if told is None or type(error).__name__ == "NoArgsIsHelpError":
            raise
        line = " ".join(told().split()).rstrip(".")
        command = "tether" if context is None else context.command_path
        raise TetherError(f"{line[:1].lower()}{line[1:]}; see {command} --help") from None


class Commands(TyperGroup):
    """The commands; wrong options are one line, as every other error."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _in_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _in_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    name="tether",
    cls=Commands,
    help="Steer a locked text-to-image diffusion model with an image: edges, depth, pose, a doodle.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from tether import __version__

        print(f"tether {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Steer a locked text-to-image diffusion model with an image: edges, depth, pose, a doodle."""


app.command()(generate.generate)
app.command()(annotate.annotate)
app.command()(inspect.inspect)
app.add_typer(detectors.app, name="detectors")
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(study.study)
app.add_typer(dataset.app, name="dataset")
app.command()(convert.convert)
app.command()(demo.demo)
app.command()(serve.serve)
app.command()(info.info)


def main() -> None:
    """Runs `tether`. Every failure is one line on standard error.

    Exit codes: 2 for a wrong request, 130 for Ctrl-C, 1 for anything else. TETHER_TRACEBACK=1 shows tracebacks.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    settle(os.environ)
    _print_every_name()
    if sys.argv[1:2] and sys.argv[1] in DRAWING:
        lean.install(short_lived=sys.argv[1] != "serve")
    if os.environ.get("TETHER_TRACEBACK"):
        app(prog_name="tether")
    try:
        app(prog_name="tether")
    except TetherError as error:
        _fail(str(error), 2)
    except SystemExit as ended:
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):  # typer's form of Ctrl-C
            _fail("stopped; every image already written is complete", 130)
        raise
    except Exception as error:
        if is_out_of_memory(error):
            _fail(OUT_OF_MEMORY, 1)
        if isinstance(error, OSError) and error.strerror:
            _fail(f"{error.filename or 'a file'}: {error.strerror} (TETHER_TRACEBACK=1 shows the traceback)", 1)
        lines = str(error).strip().splitlines() or ["no message"]
        _fail(f"{type(error).__name__}: {lines[0]} (TETHER_TRACEBACK=1 shows the traceback)", 1)


def _print_every_name() -> None:
    """Lets standard output print what it has no sign for: names of files may have any bytes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


OUT_OF_MEMORY = (
    "out of memory: use --low-memory, a smaller --size or --count, or --dtype bfloat16; for training, a smaller "
    "batch_size"
)


def _fail(line: str, code: int) -> None:
    print(f"tether: {line}", file=sys.stderr)
    raise SystemExit(code)
