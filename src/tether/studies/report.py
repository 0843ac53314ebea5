"""Writes what a study found: table, figures, all numbers, contact sheet.

OUT/report.md        claim, verdict, table, figures, and the command that makes it again
OUT/findings.json    the same with all raw numbers
OUT/FIGURE.png       one a figure
OUT/sheet.png        images of the same conditions and seeds, one row a variant
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.errors import TetherError
from tether.evaluation.intervals import Score
from tether.evaluation.report import machine
from tether.files.atomic import atomic_write, make_folder, write_text
from tether.images import contact_sheet, open_image, save_png
from tether.kinds.measures import Measure
from tether.studies.study import Budget, Curve, Figure, Findings, Study

__all__ = ["check_plotting", "markdown", "table", "write"]

FEW = 5
"""With fewer training seeds the bootstrap's intervals are too narrow: it has (n - 1) / n of the variance of n."""


def check_plotting() -> None:
    """Raises a TetherError when figures cannot be drawn, before anything is trained."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise TetherError("figures need matplotlib: pip install 'tether-control[study]'") from None


def write(study: Study, budget: Budget, findings: Findings, out: Path, command: str, seconds: float) -> None:
    """Writes everything into the study's folder.

    Args:
        study: the study.
        budget: what it was run on.
        findings: what it found.
        out: the folder.
        command: makes it again.
        seconds: that this run took.

    Raises:
        TetherError: when something cannot be written.
    """
    make_folder(out)
    for figure in findings.figures:
        _plot(figure, out / f"{figure.name}.png")
    if findings.sheet:
        rows = [[open_image(path) for path in paths] for _, paths in findings.sheet]
        labels = [[label, *findings.heads[1:]] for label, _ in findings.sheet]
        save_png(contact_sheet(rows, labels=labels), out / "sheet.png", {})
    about = {**machine(), "seconds": round(seconds), "budget": vars(budget), "command": command}
    write_text(out / "findings.json", json.dumps(_json(study, findings, about), indent=1))
    write_text(out / "report.md", markdown(study, findings, about))


def markdown(study: Study, findings: Findings, about: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    budget = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about["budget"].items())
    parts = [
        f"# {study.name}: {study.question}",
        f"**{findings.verdict[:1].upper()}{findings.verdict[1:]}.** {findings.summary}",
        f"The paper: {study.claim}",
        table(findings),
        *(f"![{figure.y_label} over {figure.x_label}]({figure.name}.png)" for figure in findings.figures),
        *(["![The same conditions and seeds in each row](sheet.png)"] if findings.sheet else []),
        f"`{about['command']}`, {about['processor']}, {about['threads']} threads, {about['seconds'] / 60:.0f} minutes "
        f"in the last run; {budget}. Intervals are 95%, by the bootstrap {findings.intervals or _drawn_from(about)}.",
    ]
    return "\n\n".join(parts) + "\n"


def _drawn_from(about: Mapping[str, Any]) -> str:
    """What intervals of seeds and conditions cover, for people."""
    seeds, steps = about["budget"]["seeds"], about["budget"]["steps"]
    if not steps:
        return "over held-out conditions"
    if seeds == 1:
        return "over held-out conditions, of one training each: what another training would change is not in them"
    few = "; of so few seeds they are too narrow" if seeds < FEW else ""
    return f"over {seeds} training seeds and held-out conditions{few}"


def table(findings: Findings) -> str:
    """The table as Markdown, each score with its interval."""
    head = ["", *(f"{name}{measure.arrow}" for name, measure in findings.columns.items())]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in findings.rows:
        cells = [_cell(row.scores.get(name), measure) for name, measure in findings.columns.items()]
        lines.append("| " + " | ".join([row.name, *cells]) + " |")
    return "\n".join(lines)


def _cell(score: Score | None, measure: Measure) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    digits = measure.digits
    if score.low == score.value == score.high:  # counted, not sampled
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def _plot(figure: Figure, path: Path) -> None:
    """One plot: each curve with its intervals shaded."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=(7, 4.2), dpi=110, layout="constrained")
    try:
        if figure.log_x:
            axes.set_xscale("symlog", linthresh=min((x for x in _numbers(figure.curves) if x > 0), default=1))
        colors: dict[str, str] = {}
        for curve in figure.curves:
            label = "_" if curve.name in colors else curve.name  # the legend has each name once
            color = colors.setdefault(curve.name, f"C{len(colors)}")
            values = [score.value for score in curve.scores]
            axes.plot(curve.x, values, marker="o", ms=3, color=color, label=label)
            low, high = ([getattr(score, end) for score in curve.scores] for end in ("low", "high"))
            axes.fill_between(curve.x, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set_xlabel(figure.x_label)
        axes.set_ylabel(figure.y_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        with atomic_write(path) as part:
            drawn.savefig(part, format="png", metadata={"Software": None})
    finally:
        pyplot.close(drawn)


def _numbers(curves: Sequence[Curve]) -> list[float]:
    return [x for curve in curves for x in curve.x]


def _json(study: Study, findings: Findings, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "made_by": "tether study",
        "study": study.name,
        "claim": study.claim,
        "verdict": findings.verdict,
        "summary": findings.summary,
        "machine": dict(about),
        "rows": [
            {"name": row.name, "scores": {name: _score(one) for name, one in row.scores.items()}}
            for row in findings.rows
        ],
        "figures": [
            {
                "name": figure.name,
                "curves": [{"name": c.name, "x": list(c.x), "y": [_score(s) for s in c.scores]} for c in figure.curves],
            }
            for figure in findings.figures
        ],
        "raw": findings.raw,
    }


def _score(score: Score) -> dict[str, float | None]:
    """A score without numbers that JSON lacks."""
    return {name: value if math.isfinite(value) else None for name, value in vars(score).items()}
