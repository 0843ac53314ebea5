"""The study of sudden convergence: its measure, and that it compares equal numbers of samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.studies.bench import Bench
from tether.studies.study import QUICK
from tether.studies.sudden_convergence import QUICK_BATCHES, STUDY, sharpness


def test_a_jump_is_sharper_than_a_line_and_what_does_not_rise_is_not_sharp() -> None:
    assert sharpness([0.2] * 8 + [0.7] * 8) == 1
    assert sharpness([k / 15 for k in range(16)]) == pytest.approx(1 / 15)
    assert sharpness([0.5, 0.4, 0.3]) == 0


def test_the_quick_study_runs_every_batch_size_on_as_many_samples(tmp_path: Path) -> None:
    found = STUDY.run(Bench(tmp_path, QUICK, quick=True))
    assert found.verdict == "not judged"
    assert len(found.rows) == len(QUICK_BATCHES)
    (samples,) = [figure for figure in found.figures if figure.name == "fidelity-over-samples"]
    assert {curve.x[0] for curve in samples.curves} == {0}
    assert {curve.x[-1] for curve in samples.curves} == {QUICK.steps * max(QUICK_BATCHES)}
    assert all(0 <= score.value <= 1 for curve in samples.curves for score in curve.scores)
