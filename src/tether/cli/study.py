"""`tether study`: the paper's experiments, re-run."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tether.cli.sources import check_folder, check_model
from tether.errors import TetherError

__all__ = ["study"]


def study(
    name: Annotated[
        str | None, typer.Argument(help="A study's name, or a Python file with a STUDY.", show_default=False)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps on two conditions: shows that all of it runs.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(help="Training seeds; images a condition where nothing is trained.", min=1, show_default=False),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Training steps of each variant.", min=1, show_default=False)
    ] = None,
    cases: Annotated[int | None, typer.Option(help="Held-out conditions.", min=2, show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a training step.", min=1, show_default=False)] = None,
    sampling_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of each image.", min=1, show_default=False)
    ] = None,
    base: Annotated[str, typer.Option(help="As in tether generate.")] = "tether",
    device: Annotated[str, typer.Option(help="Where to train and draw: cpu, cuda, mps.")] = "cpu",
    jobs: Annotated[int, typer.Option(help="Variants and seeds that are trained and drawn at once.", min=1)] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Its folder; out/study/NAME by default.", show_default=False)
    ] = None,
) -> None:
    """Re-run an experiment of the paper: trains, draws, measures, and writes table, figures and numbers.

    What a folder has is not done again, so a run that was stopped goes on, and one with more seeds, steps or conditions
    takes it over; only sudden-convergence trains anew where steps or conditions differ.
    """
    if listed == (name is not None):
        raise TetherError("give the name of a study, or --list")
    check_model(base, "base")
    if ":" in device:
        kind, _, number = device.partition(":")
        raise TetherError(
            f"--device is {device}: a study trains on the first {kind} device that it sees, so set "
            f"{kind.upper()}_VISIBLE_DEVICES={number} and give --device {kind}"
        )
    from tether.studies import find_study, studies

    if name is None:
        for one in studies().values():
            print(f"{one.name:20}{one.question}")
        return
    from tether.studies.report import check_plotting, table, write
    from tether.studies.study import QUICK

    found = find_study(name)
    out = out or Path("out/study") / (f"{found.name}-quick" if quick else found.name)
    check_folder(out, "--out")
    check_plotting()
    for option, value in (("--budget", budget), ("--batch-size", batch_size)):
        if value is not None and not found.budget.steps:
            raise TetherError(f"{found.name} trains nothing: leave {option} out")
    given = {
        "seeds": seeds,
        "steps": budget,
        "cases": cases,
        "batch_size": batch_size,
        "sampling_steps": sampling_steps,
    }
    usual = replace(QUICK, steps=min(QUICK.steps, found.budget.steps)) if quick else found.budget
    wanted = replace(usual, **{key: value for key, value in given.items() if value is not None})

    from tether.cli.progress import loading
    from tether.studies.bench import Bench
    from tether.studies.side_by_side import run_parts

    started = time.monotonic()
    with loading():
        bench = Bench(out, wanted, quick=quick, base=base, device=device, on_progress=_Lines())
    if jobs > 1 and found.parts is None:
        print(f"{found.name} has no parts that could run side by side: --jobs changes nothing", file=sys.stderr)
    elif jobs > 1:
        run_parts(name, bench, jobs)
    findings = found.run(bench)
    command = " ".join(["tether", "study", *_arguments(sys.argv)])
    write(found, wanted, findings, out, command, time.monotonic() - started)
    print(table(findings))
    print(f"\n{findings.verdict}: {findings.summary}\n\n{out / 'report.md'}")


def _arguments(argv: list[str]) -> list[str]:
    """What was given after "study", as one would type it."""
    after = argv[argv.index("study") + 1 :] if "study" in argv else argv[1:]
    return [shlex.quote(word) for word in after]


class _Lines:
    """Progress on standard error: a line for each stage, and every ten seconds."""

    def __init__(self) -> None:
        self.stage, self.printed = "", time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage or time.monotonic() - self.printed > 10:
            self.stage, self.printed = stage, time.monotonic()
            print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)
