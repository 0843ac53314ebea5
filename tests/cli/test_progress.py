"""Progress on a terminal and in a pipe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from tether.cli.progress import TrainingLine, count_bar, step_bar, training_line


def event(step: int, **values: Any) -> Any:
    """A progress event."""
    common: dict[str, Any] = {"steps": 100, "loss": 0.5, "samples_per_second": 8.0, "seconds_left": 11240.0}
    return SimpleNamespace(step=step, **{"validation": None, "appeared_at": None, **common, **values})


def test_in_a_pipe_bars_are_left_out() -> None:
    with step_bar() as on_step:
        assert on_step is None


def test_in_a_pipe_a_count_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tether.cli.progress.time", SimpleNamespace(monotonic=iter(range(0, 400, 4)).__next__))
    with count_bar("reading") as on_count:
        for done in range(1, 7):
            on_count(done, 9)
    assert capsys.readouterr().err.splitlines() == ["reading: 3 of 9", "reading: 6 of 9"]


def test_in_a_pipe_training_prints_its_beginning_and_a_line_a_validation(capsys: pytest.CaptureFixture[str]) -> None:
    validation = SimpleNamespace(step=2, fidelity=0.75)
    with training_line() as line:
        line.on_note("conditions: annotated (canny)")
        line.on_stage("encoding", 1, 9)
        line.on_stage("encoding", 2, 9)
        line.on_progress(event(1))
        line.on_progress(event(2, validation=validation))
        line.on_progress(event(3, validation=validation, appeared_at=2))
        line.on_progress(event(4, validation=validation, appeared_at=2))
    assert capsys.readouterr().err.splitlines() == [
        "conditions: annotated (canny)",
        "encoding: 1 of 9",
        "step 1 of 100: loss 0.5000, 8.0 samples/s, 3:07:20 left",
        "step 2 of 100: loss 0.5000, 8.0 samples/s, 3:07:20 left, fidelity 0.75",
        "control appeared at step 2, and stays",
    ]


def test_on_a_terminal_training_is_one_live_line(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(console=Console(force_terminal=True, highlight=False))
    line = TrainingLine(bar)
    line.on_stage("encoding", 1, 2)
    assert (bar.tasks[0].description, bar.tasks[0].completed, bar.tasks[0].total) == ("encoding", 1, 2)
    line.on_progress(event(7, seconds_left=440))
    assert bar.tasks[0].description == "loss 0.5000, 8.0 samples/s, 7:20 left"
    assert (bar.tasks[0].completed, bar.tasks[0].total) == (7, 100)
    line.on_progress(event(8, appeared_at=8))
    assert "control appeared at step 8" in capsys.readouterr().out
