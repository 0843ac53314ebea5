"""Parts of a study run in several processes: the same is found, an error is one line, and what was stopped goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tether import cli
from tether.errors import TetherError
from tether.evaluation import Arm, Case, Evaluation
from tether.studies import OWN, find_study
from tether.studies.bench import Bench
from tether.studies.side_by_side import _hand_out, _leave_with_parent, _Order, _portable, _Worker, run_parts
from tether.studies.study import QUICK
from tether.training.checkpoints import list_checkpoints
from tether.training.events import Validation
from tether.training.plan import Plan

SEEDS = 1
"""Of the study that is stopped: each is a process, most of whose time are its imports."""
PATIENCE = 300
"""Seconds to the first step, and to the end, on a machine with other work."""
DIED = object()

STUDY = """
from functools import partial

from tether.errors import TetherError
from tether.evaluation.drawing import Arm
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
    return bench.measure(cases, [Arm("strength 0"), steered("a", control, "canny")], ["canny"])


def parts(bench):
    cases = bench.cases(["circles"], ["canny"])
    bench.draw(cases, Arm("strength 0"))
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, here and so in all processes: other numbers of threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_the_same_is_found_and_nothing_is_left_to_train_or_draw(study: str, tiny_folder: Path, tmp_path: Path) -> None:
    said = []
    budget = replace(QUICK, seeds=2)
    alone = Bench(tmp_path / "alone", budget, quick=True, base=str(tiny_folder))
    shared = Bench(
        tmp_path / "shared", budget, quick=True, base=str(tiny_folder), on_progress=lambda *what: said.append(what)
    )
    run_parts(study, shared, 2)
    assert shared.artist.drawn == 2  # what both parts need
    assert said[-1] == ("parts", 2, 2)
    said.clear()
    found = find_study(study).run(shared)
    assert shared.artist.drawn == 2
    assert not any("training" in stage for stage, _, _ in said)
    expected = find_study(study).run(alone)
    assert alone.artist.drawn == 6
    assert found.raw == expected.raw
    assert found.rows == expected.rows


@pytest.mark.slow  # most of a minute; its pieces are tested below
def test_an_error_of_a_part_is_that_of_the_command(study: str, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["--base", str(tiny_folder), "--out", str(tmp_path / "out"), "--quick", "--budget", "13", "--jobs", "2"]
    with pytest.raises(TetherError) as raised:
        CliRunner().invoke(cli.app, ["study", study, *arguments], catch_exceptions=False)
    assert str(raised.value) == "13 steps bring no luck"


def worker_that_said(word: object) -> _Worker:
    """A stand-in for a process that has said something; one that said `DIED` has ended."""
    ours, theirs = multiprocessing.Pipe()
    if word is DIED:
        theirs.close()
    else:
        theirs.send(word)
    process = multiprocessing.get_context("spawn").Process(args=(theirs,))  # which holds its end
    return _Worker(process, ours)


@pytest.mark.parametrize("error", [EOFError("no more"), BrokenPipeError("of the part"), TetherError("no luck")])
def test_an_error_of_a_part_comes_through_whatever_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)) as raised:
        _hand_out([worker_that_said(_portable(error))], 1, threading.Event(), lambda done: None)
    assert type(error).__name__ in raised.value.__notes__[0]


def test_an_error_of_the_report_is_not_taken_for_a_dead_process() -> None:
    def report(done: int) -> None:
        raise BrokenPipeError("stdout is closed")

    with pytest.raises(BrokenPipeError, match="stdout is closed"):
        _hand_out([worker_that_said(None)], 1, threading.Event(), report)


def test_a_dead_process_is_told() -> None:
    with pytest.raises(TetherError, match="a process of the study died"):
        _hand_out([worker_that_said(DIED)], 1, threading.Event(), lambda done: None)


@pytest.mark.parametrize("asked", [False, True])
def test_the_end_of_the_parent_is_a_signal_unless_there_was_one(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(join=lambda: None))
    monkeypatch.setattr("os.kill", lambda *what: sent.append(what))
    event = multiprocessing.get_context("spawn").Event()
    if asked:
        event.set()
    _leave_with_parent(event)
    assert sent == ([] if asked else [(os.getpid(), signal.SIGTERM)])


@pytest.mark.parametrize(("jobs", "processes", "threads"), [(2, 2, 4), (8, 3, 2), (1, 1, 8)])
def test_threads_are_shared_by_the_processes_that_there_are(
    jobs: int, processes: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    @contextmanager
    def workers(order: _Order, count: int) -> Iterator[list[_Worker]]:
        seen.append((count, order.threads))
        yield []

    module = "tether.studies.side_by_side"
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr(f"{module}.find_study", lambda name: SimpleNamespace(parts=lambda bench: [print] * 3))
    monkeypatch.setattr(f"{module}._workers", workers)
    monkeypatch.setattr(f"{module}._hand_out", lambda *what: None)
    run_parts("three", Bench(tmp_path, QUICK), jobs)
    assert seen == [(processes, threads)]


class Recorder(Bench):
    """Notes what is to be trained and drawn, and does nothing."""

    def __init__(self, out: Path) -> None:
        super().__init__(out, replace(QUICK, seeds=2), quick=True)
        self.trained: set[tuple[str, int, int]] = set()
        self.arms: set[str] = set()
        self.image = out / "image.png"
        Image.new("RGB", (16, 16)).save(self.image)

    def train(self, variant: str, seed: int, at: int, settings: Mapping[str, Any]) -> Path:
        self.trained.add((variant, seed, at))
        return self.out

    def measure(self, cases: Sequence[Case], arms: Sequence[Arm], kinds: Sequence[str], **_: Any) -> Evaluation:
        self.arms |= {arm.name for arm in arms}
        return Evaluation(cases, {}, MagicMock(), {arm.name: [[self.image]] for arm in arms})

    def draw(self, cases: Sequence[Case], arm: Arm) -> None:
        self.arms.add(arm.name)

    def cases(self, *_: Any, **__: Any) -> list[Case]:
        return []

    training_cases = first_cases = cases

    def cost(self, *_: Any) -> Plan:
        raise NotImplementedError

    def subset(self, *_: Any) -> Path:
        return self.out

    def curve(self, *_: Any) -> list[Validation]:
        return [Validation(1, 0.0, 0.0), Validation(2, 0.0, 0.0)]


@pytest.mark.parametrize("name", [name for name in OWN if find_study(name).parts is not None])
def test_the_parts_train_and_draw_what_the_study_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tether.studies.comparison.pixels_of", lambda pictures: torch.zeros(1, 3, 16, 16))
    study, alone, shared = find_study(name), Recorder(tmp_path), Recorder(tmp_path)
    assert study.parts is not None
    for part in study.parts(shared):
        part()
    with suppress(Exception):  # nothing can be judged; what is asked for is compared
        study.run(alone)
    assert alone.trained == shared.trained != set()
    assert alone.arms == shared.arms


def test_a_study_without_parts_says_so(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="'guidance' has no parts"):
        run_parts("guidance", Bench(tmp_path, QUICK), 2)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals that a training could leave on")
def test_what_ctrl_c_stops_goes_on_from_its_checkpoints(study: str, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    budget = ["--quick", "--budget", "100000", "--seeds", str(SEEDS), "--jobs", "2"]
    command = [sys.executable, "-m", "tether", "study", study, "--base", str(tiny_folder), "--out", str(out), *budget]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not all((out / f"step-{seed}").is_file() for seed in range(SEEDS)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, f"nothing was trained in {PATIENCE} s"
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()  # if it is still there; its processes leave with it
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("tether: stopped")
    assert "Traceback" not in said
    for seed in range(SEEDS):
        (checkpoint,) = list_checkpoints(out / "runs" / f"a-{seed}" / "checkpoints")
        step = int(checkpoint.name.removeprefix("step-"))
        assert 0 < step < 100_000
    seen = []
    bench = Bench(out, QUICK, quick=True, base=str(tiny_folder), on_progress=lambda *what: seen.append(what))
    settings = {"data": "circles", "condition": "canny", "checkpoint_every": 1_000_000}
    bench.train("a", SEEDS - 1, step + 2, settings)
    assert seen == [(f"training a, seed {SEEDS - 1}", step + k, step + 2) for k in (1, 2)]
