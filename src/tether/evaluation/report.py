"""An evaluation as a table for people, and as JSON."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from tether.evaluation.intervals import Score
from tether.evaluation.run import AUTOENCODER, EXCHANGED, SOURCE, STRENGTH_0, Evaluation
from tether.files.versions import version_of
from tether.kinds.measures import Measure

__all__ = ["machine", "notes", "report", "table"]

FORMAT = 1
"""The version of the JSON."""
PACKAGES = ("tether-control", "torch", "diffusers", "numpy", "opencv-python-headless")


def table(evaluation: Evaluation, arms: Sequence[str]) -> list[list[str]]:
    """Rows of cells, the header first: a measure a row, with its interval in every arm, and how many times better than
    strength 0 the measures of conditions are."""
    references = [one for one in (SOURCE, AUTOENCODER) if one in evaluation.numbers]
    steered = [arm for arm in arms if arm != STRENGTH_0]
    compared = STRENGTH_0 in arms and bool(steered)
    header = ["", *arms, *([f"{arm}, x better" for arm in steered] if compared else []), *references]
    rows = [header]
    for name, measure in evaluation.measures.items():
        cells = [_title(name, measure)]
        cells += [_cell(evaluation.score(arm, name), measure, interval=True) for arm in arms]
        if compared:
            cells += [_times(evaluation.times_better(arm, name)) if "/" in name else "" for arm in steered]
        cells += [_cell(evaluation.score(one, name), measure, interval=False) for one in references]
        rows.append(cells)
    return rows


def notes(evaluation: Evaluation) -> list[str]:
    """What must be known to read the table, in lines."""
    found = []
    other = evaluation.score(EXCHANGED, "prompt")
    true = evaluation.score(SOURCE, "prompt")
    if other is not None and true is not None and not math.isnan(true.value):
        found.append(
            f"prompt agreement sees named colors, and shapes of scenes: of the sources it says {true.value:.3f}, and "
            f"{other.value:.3f} when other colors are asked for"
        )
    found.append('in brackets: 95% intervals over the cases; "source": the held-out pictures, the measure\'s own error')
    return found


def report(evaluation: Evaluation, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, as JSON values: scores with intervals, and the numbers of every picture."""
    scores = {
        arm: {name: _json(evaluation.score(arm, name)) for name in numbers}
        for arm, numbers in evaluation.numbers.items()
    }
    better = {
        arm: {name: _json(evaluation.times_better(arm, name)) for name in evaluation.numbers[arm] if "/" in name}
        for arm in evaluation.pictures
        if arm != STRENGTH_0 and STRENGTH_0 in evaluation.pictures
    }
    cases = [
        {
            "key": case.key,
            "prompt": case.prompt,
            "pictures": {arm: [path.name for path in paths[k]] for arm, paths in evaluation.pictures.items()},
            "numbers": {
                arm: {name: [dict(one) for one in rows[k]] for name, rows in numbers.items()}
                for arm, numbers in evaluation.numbers.items()
            },
        }
        for k, case in enumerate(evaluation.cases)
    ]
    measures = {
        name: {"title": one.title, "higher_is_better": one.higher, "unit": one.unit}
        for name, one in evaluation.measures.items()
    }
    return {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": settings,
        "measures": measures,
        "scores": scores,
        "times_better_than_strength_0": better,
        "cases": cases,
    }


def machine() -> dict[str, Any]:
    """The processor, threads, and versions that scores may depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
    }


def _processor() -> str:
    """The name of the processor, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return named[0] if named else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _title(name: str, measure: Measure) -> str:
    kind = f"{name.partition('/')[0]}: " if "/" in name else ""
    unit = f" ({measure.unit})" if measure.unit else ""
    return f"{kind}{measure.title}{unit}{measure.arrow}"


def _cell(score: Score | None, measure: Measure, *, interval: bool) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    digits = measure.digits
    value = f"{score.value:.{digits}f}"
    return f"{value} [{score.low:.{digits}f}, {score.high:.{digits}f}]" if interval else value


def _times(score: Score | None) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    return f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"


def _json(score: Score | None) -> dict[str, float | None] | None:
    """A score without numbers that JSON lacks."""
    if score is None:
        return None
    values = {"value": score.value, "low": score.low, "high": score.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
