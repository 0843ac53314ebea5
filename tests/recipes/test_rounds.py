"""A round of steps: its number of steps, its result, and where it resumes."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import rounds
from rounds import Round, add_options


def options(out: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser, out="unused", steps=4, batch=2, lr=0.1, seed=1)
    return parser.parse_args(["--out", str(out), "--warmup", "1", *words])


def run(arguments: argparse.Namespace) -> tuple[list[int], list[torch.Tensor]]:
    """Steps taken, and the average as it was kept each time."""
    torch.manual_seed(0)
    model, kept, steps = nn.Linear(3, 2), [], []
    training = Round(model, arguments, lambda average: kept.append(average.weight.detach().clone()), log_every=2)
    for step in training:
        torch.manual_seed(step)
        loss = model(torch.randn(4, 3)).square().mean()
        training.learn(loss, loss=loss)
        steps.append(step)
    return steps, kept


def test_a_round_that_was_stopped_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, (whole,) = run(options(tmp_path / "one"))
    assert steps == [0, 1, 2, 3]
    learn = Round.learn

    def stop(self: Round, *losses: torch.Tensor, **values: torch.Tensor) -> None:
        if self.state.step == 3:
            raise KeyboardInterrupt
        learn(self, *losses, **values)

    monkeypatch.setattr(Round, "learn", stop)
    arguments = options(tmp_path / "two", "--save-every", "2")
    with pytest.raises(KeyboardInterrupt):
        run(arguments)
    monkeypatch.setattr(Round, "learn", learn)
    rest, (resumed,) = run(arguments)
    assert rest == [2, 3]
    assert torch.equal(resumed, whole)
    assert run(arguments) == ([], [])


def test_minutes_that_are_too_few_to_measure_the_speed_end_the_round(tmp_path: Path) -> None:
    steps, kept = run(options(tmp_path, "--minutes", "0"))
    assert (steps, len(kept)) == ([0], 1)


def test_minutes_set_the_number_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Round, "UNTIMED", 2)
    monkeypatch.setattr(Round, "TIMED", 5)
    seconds = itertools.count()  # every look at the clock is a second later
    monkeypatch.setattr(rounds, "time", SimpleNamespace(time=lambda: next(seconds)))
    steps, kept = run(options(tmp_path, "--minutes", "1", "--save-every", "100000"))
    assert 7 < len(steps) < 120
    assert len(kept) == 1
