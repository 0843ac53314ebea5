"""The study of sudden convergence: its measure, and that it compares equal numbers of samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tether.studies import sudden_convergence
from tether.studies.bench import Bench
from tether.studies.study import QUICK
from tether.studies.sudden_convergence import STUDY, Learned, sharpness


def test_a_jump_is_sharper_than_a_line_and_what_does_not_rise_is_not_sharp() -> None:
    assert sharpness([0.2] * 8 + [0.7] * 8) == 1
    assert sharpness([k / 15 for k in range(16)]) == pytest.approx(1 / 15)
    assert sharpness([0.5, 0.4, 0.3]) == 0


def test_the_quick_study_runs_every_batch_size_on_as_many_samples(tmp_path: Path) -> None:
    found = STUDY.run(Bench(tmp_path, QUICK, quick=True))
    assert found.verdict == "not judged"
    assert [row.name for row in found.rows] == ["rate 0.0004, batch 1", "rate 0.0004, batch 2"]
    (samples,) = [figure for figure in found.figures if figure.name == "fidelity-over-samples"]
    assert {curve.x[0] for curve in samples.curves} == {0}
    assert {curve.x[-1] for curve in samples.curves} == {QUICK.steps * QUICK.batch_size}
    assert all(0 <= score.value <= 1 for curve in samples.curves for score in curve.scores)


@pytest.mark.parametrize("steps", [STUDY.budget.steps, 100, 7])
def test_on_every_budget_the_last_validation_of_all_runs_is_after_the_same_number_of_samples(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def learned(bench: Bench, rate: float, batch: int, steps: int, seed: int) -> Learned:
        every = steps // sudden_convergence.VALIDATIONS
        seen.append((steps // every * every * batch, steps * batch))
        return Learned([0, steps], [0.0, 1.0], "gradual", 1)

    monkeypatch.setattr(sudden_convergence, "_learned", learned)
    found = STUDY.run(Bench(tmp_path, replace(STUDY.budget, steps=steps)))
    (samples,) = set(seen)
    assert samples[0] == samples[1] >= steps * STUDY.budget.batch_size
    assert found.verdict == "does not hold at this scale"  # growth with a beginning is no jump


def test_the_settings_are_chosen_and_only_trainings_are_resampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned(bench: Bench, rate: float, batch: int, steps: int, seed: int) -> Learned:
        return Learned([0, steps], [0.0, 0.5 + 100 * rate * (batch > 4)], "gradual", 1)

    monkeypatch.setattr(sudden_convergence, "_learned", learned)
    found = STUDY.run(Bench(tmp_path, STUDY.budget))
    # Rates gain 0.01, 0.04 and 0.16, each the same with every seed: the mean of these three is known exactly.
    assert "end +0.070 of fidelity" in found.summary


def test_a_curve_that_is_flat_has_no_sharpness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its largest rise is noise, and so is its whole rise."""

    def learned(bench: Bench, rate: float, batch: int, steps: int, seed: int) -> Learned:
        rises = batch == STUDY.budget.batch_size
        return Learned(
            [0, steps], [0.2, 0.7 if rises else 0.21], "sudden" if rises else "flat", steps if rises else None
        )

    monkeypatch.setattr(sudden_convergence, "_learned", learned)
    found = STUDY.run(Bench(tmp_path, STUDY.budget))
    assert [row.scores["sharpness"].value for row in found.rows if "sharpness" in row.scores] == [1.0] * 3
    assert [row.name.endswith("batch 16") for row in found.rows if "sharpness" in row.scores] == [True] * 3
    assert "is 1.00 of the whole rise" in found.summary
    assert found.verdict == "holds partly"


def test_runs_of_another_budget_are_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A curve that went on with another budget had points at other distances, or of other images."""
    names = []
    monkeypatch.setattr(Bench, "train", lambda self, variant, *rest: names.append(variant))
    monkeypatch.setattr(Bench, "curve", lambda self, variant, seed: [])
    monkeypatch.setattr(sudden_convergence, "_findings", lambda found, judged: found)
    for budget in (QUICK, replace(QUICK, steps=40), replace(QUICK, cases=5), replace(QUICK, sampling_steps=7)):
        STUDY.run(Bench(tmp_path, budget, quick=True))
    assert len(set(names)) == len(names) == 8
