"""Parts of a study run in several processes: the same is found, an error is one line, and what was stopped goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tether import cli
from tether.errors import TetherError
from tether.studies import find_study
from tether.studies.bench import Bench
from tether.studies.side_by_side import run_parts
from tether.studies.study import QUICK
from tether.training.checkpoints import list_checkpoints

STUDY = """
from functools import partial

from tether.errors import TetherError
from tether.studies.bench import Bench, steered
from tether.studies.statistics import score_of_seeds
from tether.studies.study import Budget, Findings, Row, Study

SETTINGS = {"data": "circles", "condition": "canny", "checkpoint_every": 1_000_000}


def measured(bench, cases, seed):
    if bench.budget.steps == 13:
        raise TetherError("13 steps bring no luck")
    if bench.budget.steps > 13:
        bench.on_progress = lambda stage, done, total: (bench.out / f"step-{seed}").touch()
    control = bench.train("a", seed, bench.budget.steps, SETTINGS)
    return bench.measure(cases, [steered("a", control, "canny")], ["canny"])


def parts(bench):
    cases = bench.cases(["circles"], ["canny"])
    return [partial(measured, bench, cases, seed) for seed in range(bench.budget.seeds)]


def run(bench):
    found = [part() for part in parts(bench)]
    numbers = [one.numbers["a"]["canny/f1_2px"] for one in found]
    measure = found[0].measures["canny/f1_2px"]
    rows = [Row("a", {"F1": score_of_seeds(measure, numbers)})]
    return Findings({"F1": measure}, rows, "not judged", "-", raw={"numbers": numbers})


STUDY = Study("circles", "?", "-", run, Budget(steps=2), parts)
"""


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A study with a part for each seed."""
    (tmp_path / "circles.py").write_text(STUDY)
    return str(tmp_path / "circles.py")


def test_the_same_is_found_and_nothing_is_left_to_train_or_draw(study: str, tiny_folder: Path, tmp_path: Path) -> None:
    said = []
    budget = replace(QUICK, seeds=3)
    alone = Bench(tmp_path / "alone", budget, quick=True, base=str(tiny_folder))
    shared = Bench(
        tmp_path / "shared", budget, quick=True, base=str(tiny_folder), on_progress=lambda *what: said.append(what)
    )
    run_parts(study, shared, 2)
    assert said[-1] == ("parts", 3, 3)
    said.clear()
    found = find_study(study).run(shared)
    assert shared.artist.drawn == 0
    assert not any("training" in stage for stage, _, _ in said)
    expected = find_study(study).run(alone)
    assert alone.artist.drawn == 6
    assert found.raw == expected.raw
    assert found.rows == expected.rows


def test_an_error_of_a_part_is_that_of_the_command(study: str, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["--base", str(tiny_folder), "--out", str(tmp_path / "out"), "--quick", "--budget", "13", "--jobs", "2"]
    with pytest.raises(TetherError) as raised:
        CliRunner().invoke(cli.app, ["study", study, *arguments], catch_exceptions=False)
    assert str(raised.value) == "13 steps bring no luck"


def test_a_study_without_parts_says_so(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="'guidance' has no parts"):
        run_parts("guidance", Bench(tmp_path, QUICK), 2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that a training could leave on")
def test_what_ctrl_c_stops_goes_on_from_its_checkpoints(study: str, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    budget = ["--quick", "--budget", "100000", "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "tether", "study", study, "--base", str(tiny_folder), "--out", str(out), *budget]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not all((out / f"step-{seed}").is_file() for seed in range(2)):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("tether: stopped")
    assert "Traceback" not in said
    for seed in range(2):
        (checkpoint,) = list_checkpoints(out / "runs" / f"a-{seed}" / "checkpoints")
        step = int(checkpoint.name.removeprefix("step-"))
        assert 0 < step < 100_000
    seen = []
    bench = Bench(out, QUICK, quick=True, base=str(tiny_folder), on_progress=lambda *what: seen.append(what))
    settings = {"data": "circles", "condition": "canny", "checkpoint_every": 1_000_000}
    bench.train("a", 1, step + 2, settings)
    assert seen == [("training a, seed 1", step + k, step + 2) for k in (1, 2)]
