"""Files of runs that were written by commit 2ffee90 open and resume.

`run-2ffee90` is a run of 4 steps of `tests/training/tiny.py` as it was then, with `widths=(4, 8)` and the settings in
its `config.yaml`. `NEXT` are loss and gradient norm of the two steps that the code of that commit took after it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tether.training.checkpoints import read_checkpoint
from tether.training.config import TrainConfig
from tether.training.events import Outcome, Validation
from tether.training.trainer import Trainer

RUN = Path(__file__).with_name("run-2ffee90")
CHECKPOINT = RUN / "checkpoints" / "step-00000004"
NEXT = [(1.0290813446044922, 0.07525373250246048), (1.0593147277832031, 0.049357615411281586)]


@pytest.fixture
def trainer(tiny: ModuleType, tmp_path: Path) -> Trainer:
    """The run, copied, two steps longer."""
    shutil.copytree(RUN, tmp_path / "run")
    base = tiny.make_base(widths=(4, 8))
    config = TrainConfig.load(tmp_path / "run" / "config.yaml", out=tmp_path / "run", steps=6)
    identity = {"base": "b", "data": "d"}
    made = Trainer(base, tiny.make_control(base), tiny.batches, config, identity=identity)
    made.validator = lambda step, control: Validation(step, step / 10, step / 20)
    return made


def test_former_names_of_settings_are_read(tmp_path: Path) -> None:
    config = TrainConfig.load(RUN / "config.yaml")
    assert (config.prompt_dropout, config.divergence_factor) == (0.25, 7.0)
    assert (config.validation_every, config.validation_images, config.validation_steps) == (2, 8, 10)
    assert config.validation_guidance == 5.0
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config
    assert "watch" not in (tmp_path / "config.yaml").read_text()


def test_a_checkpoint_is_restored_and_captured_to_the_bit(trainer: Trainer) -> None:
    trainer.resume()
    captured, found = trainer.state.capture(trainer.terms.to_json()), read_checkpoint(CHECKPOINT)
    assert captured.step == found.step == 4
    assert captured.tensors.keys() == found.tensors.keys()
    for part, tensors in found.tensors.items():
        assert captured.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(captured.tensors[part][name], tensor), (part, name)
    assert captured.state.keys() == found.state.keys()
    same = [name for name in found.state if name != "settings"]
    assert {name: captured.state[name] for name in same} == {name: found.state[name] for name in same}


def test_a_run_takes_the_steps_that_it_would_have_taken(trainer: Trainer) -> None:
    seen = []
    trainer.on_progress = lambda progress: seen.append((progress.loss, progress.gradient_norm))
    outcome = trainer.fit()
    assert [loss for loss, _ in seen] == pytest.approx([loss for loss, _ in NEXT], abs=1e-6)
    assert [norm for _, norm in seen] == pytest.approx([norm for _, norm in NEXT], rel=1e-4)
    assert [validation.step for validation in outcome.curve] == [0, 2, 4, 6]


def test_a_result_is_read_and_written_with_the_same_keys() -> None:
    values = json.loads((RUN / "result.json").read_text())["outcome"]
    outcome = Outcome.from_json(values)
    assert outcome.curve[1] == Validation(2, 0.2, 0.1)
    assert outcome.to_json() == values
