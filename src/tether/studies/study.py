"""What a study is: one question to the paper, as a function that runs on a `Bench` and returns `Findings`.

    def run(bench: Bench) -> Findings: ...

    STUDY = Study("my-question", "does it ...?", claim="...", run=run)

A study says what is varied and what is measured. The bench trains, draws and measures, keeps everything that it has
done, and so resumes; the report writes table, figure, numbers and contact sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tether.evaluation.intervals import Score
from tether.kinds.measures import Measure

if TYPE_CHECKING:
    from tether.studies.bench import Bench

__all__ = ["QUICK", "Budget", "Curve", "Figure", "Findings", "Row", "Study", "Verdict"]

Verdict = Literal["holds", "holds partly", "is not shown", "does not hold at this scale", "not judged"]
"""A claim is not shown where no interval leaves 0 out, on either side."""


@dataclass(frozen=True)
class Budget:
    """How much a study does.

    Attributes:
        steps: training steps of each variant; 0 for a study that trains nothing.
        batch_size: samples a step.
        seeds: training seeds; for a study that trains nothing, images a condition.
        cases: held-out conditions.
        sampling_steps: denoising steps of each image.
    """

    steps: int = 0
    batch_size: int = 16
    seeds: int = 3
    cases: int = 24
    sampling_steps: int = 20


QUICK = Budget(steps=2, batch_size=2, seeds=1, cases=2, sampling_steps=2)
"""The budget of `--quick`: everything runs, and nothing is learned from the numbers."""


@dataclass(frozen=True)
class Row:
    """A line of a study's table: a name, and scores by the names of their columns."""

    name: str
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Curve:
    """A line in a figure: scores over numbers. Curves of one name have one color."""

    name: str
    x: Sequence[float]
    scores: Sequence[Score]


@dataclass(frozen=True)
class Figure:
    """One plot.

    Attributes:
        name: of its file, without suffix.
        x_label, y_label: of its axes.
        curves: what it shows.
        log_x: whether the x axis is logarithmic; 0 is then shown at its left end.
    """

    name: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        columns: of the table: name -> the measure, which says its digits and unit.
        rows: of the table.
        verdict: whether the paper's claim holds here; "not judged" on a budget that cannot tell.
        summary: one sentence with the numbers that the verdict stands on.
        figures: plots.
        sheet: rows of the contact sheet: a label and files of images, in all rows of the same cases and seeds.
        heads: what is written below the images of each column but the first, where the row's label is.
        raw: all raw numbers, for JSON.
        intervals: what the bootstrap draws from, if not from training seeds and held-out conditions.
    """

    columns: Mapping[str, Measure]
    rows: Sequence[Row]
    verdict: Verdict
    summary: str
    figures: Sequence[Figure] = ()
    sheet: Sequence[tuple[str, Sequence[Path]]] = ()
    heads: Sequence[str] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
    intervals: str = ""


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: of the command.
        question: one line for people.
        claim: what the paper claims, and where.
        run: the study.
        budget: of the full study.
        parts: lists pieces of what `run` trains and draws, no two of the same (variant, seed), so that they may run in
            any order, and side by side (`tether.studies.side_by_side`); `run` then finds what they made. Files that
            several of them need are made when they are listed: one process does it before the others, which list them
            too, and find the files. What is only in memory, each process makes for itself. None if there are no such
            pieces.
    """

    name: str
    question: str
    claim: str
    run: Callable[[Bench], Findings]
    budget: Budget = field(default_factory=Budget)
    parts: Callable[[Bench], Sequence[Callable[[], object]]] | None = None
