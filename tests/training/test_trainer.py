"""The loop: what it trains, what it leaves alone, and when it stops."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate.tracking import TensorBoardTracker

from tether.errors import TetherError
from tether.files.hashing import hash_modules
from tether.training.batch import Batch
from tether.training.checkpoints import list_checkpoints
from tether.training.events import Validation
from tether.training.trainer import Trainer

from .small import Brightness


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.control.parameters()])


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"gradient_checkpointing": True}], ids=str)
def test_the_base_has_the_same_bits_before_and_after_and_the_control_has_not(
    tiny: ModuleType, tmp_path: Path, settings: dict[str, Any]
) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=3, **settings)
    before = hash_modules({"unet": trainer.base.unet, "vae": trainer.base.vae})
    control = weights(trainer)
    outcome = trainer.fit()
    assert hash_modules({"unet": trainer.base.unet, "vae": trainer.base.vae}) == before
    assert outcome.base_hash == trainer.objective.locked_fingerprint()
    assert not torch.equal(weights(trainer), control)
    assert not trainer.base.unet.is_gradient_checkpointing


def test_a_base_that_changes_while_training_is_noticed(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=2)

    def tamper(_: object) -> None:
        with torch.no_grad():
            trainer.base.unet.conv_in.weight[0, 0, 0, 0] += 1e-3

    trainer.on_progress = tamper
    with pytest.raises(TetherError, match="base changed during training"):
        trainer.fit()


def test_training_lowers_the_loss_on_what_it_sees(tiny: ModuleType, tmp_path: Path) -> None:
    """The same four samples again and again, with the same noise: this must be learned by heart."""
    trainer = tiny.make_trainer(tmp_path, steps=20, learning_rate=5e-3)
    trainer.batches = lambda samples: tiny.batches(range(4))
    vars(trainer.take_step)["plan"] = lambda start: [range(4)]
    losses = []
    trainer.on_progress = lambda progress: losses.append(progress.loss)
    trainer.fit()
    assert losses[-1] < 0.95 * losses[0]


def test_the_result_is_the_average_and_fits_the_control(tiny: ModuleType, tmp_path: Path) -> None:
    trainer, _, _ = tiny.train(tmp_path, steps=3, ema=0.9)
    trained = weights(trainer)
    with trainer.result() as control:
        result = torch.cat([p.flatten() for p in control.parameters()])
        assert not any(p.requires_grad for p in control.parameters())
        assert not control.training
    assert trainer.state.average is not None
    torch.testing.assert_close(result, torch.cat([a.flatten() for a in trainer.state.average.averages]), rtol=0, atol=0)
    assert torch.equal(weights(trainer), trained)
    assert not torch.equal(result, trained)


def test_an_interrupted_run_validates_first_if_validation_is_due(tiny: ModuleType, tmp_path: Path) -> None:
    validations = lambda step, control: Validation(step, step / 10, 0.0)  # noqa: E731
    trainer = tiny.make_trainer(tmp_path, steps=6, validation_every=2)
    trainer.validator = validations
    trainer.on_progress = lambda progress: signal.raise_signal(signal.SIGINT) if progress.step == 3 else None
    assert trainer.fit().reason == "interrupted"
    again = tiny.make_trainer(tmp_path, steps=6, validation_every=2)
    again.validator = validations
    assert trainer.state.step == 4
    assert [seen.step for seen in again.fit().curve] == [0, 2, 4, 6]


def test_a_checkpoint_is_due_by_the_clock_too(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=5, checkpoint_every=100, keep_checkpoints=9, checkpoint_minutes=1e-9)
    trainer.fit()
    assert [int(path.name[5:]) for path in list_checkpoints(trainer.checkpoints)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("fails", ["store_init_configuration", "log", "finish"])
def test_a_tracker_that_cannot_write_is_warned_of_and_the_run_goes_on(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoardTracker, fails, full)
    trainer = tiny.make_trainer(tmp_path, steps=3, validation_every=1, checkpoint_every=3, trackers=("tensorboard",))
    trainer.validator = lambda step, control: Validation(step, 0.5, 0.5)
    assert trainer.fit().reason == "finished"
    assert len(list_checkpoints(trainer.checkpoints)) == 1
    assert caplog.text.count("the trackers cannot write ([Errno 28] No space left on device)") == 1


def test_convergence_tags_a_checkpoint_and_stops_where_asked(tiny: ModuleType, tmp_path: Path) -> None:
    seen = []

    def watcher(step: int, control: torch.nn.Module) -> Validation:
        seen.append(step)
        return Validation(step, 0.2 + 0.6 * (step >= 6), 0.1)

    trainer = tiny.make_trainer(
        tmp_path, steps=40, validation_every=1, checkpoint_every=100, after_convergence="stop", keep_checkpoints=1
    )
    trainer.validator = watcher
    outcome = trainer.fit()
    assert outcome.reason == "converged"
    assert outcome.converged_at is not None
    assert 6 < outcome.converged_at == outcome.step < 18
    assert outcome.appeared_at == 6  # the look that jumped, not the one that made it certain
    assert seen == list(range(outcome.step + 1))
    assert [p.name for p in list_checkpoints(trainer.checkpoints)] == [f"step-{outcome.step:08d}-converged"]


def test_a_control_that_grows_appears_too_and_is_trained_on(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=24, validation_every=1, after_convergence="stop")
    trainer.validator = lambda step, control: Validation(
        step, 0.2 + 0.05 * min(max(step - 8, 0), 6) + 0.01 * (step % 2), 0.1
    )
    outcome = trainer.fit()
    assert outcome.appeared_at == pytest.approx(9, abs=1)
    assert (outcome.reason, outcome.step, outcome.converged_at) == ("finished", 24, None)


def test_progress_is_told_after_each_step(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=3, validation_every=2)
    told = []
    trainer.on_progress = told.append
    trainer.validator = lambda step, control: Validation(step, step / 10, 0.0)
    trainer.fit()
    assert [p.step for p in told] == [1, 2, 3]
    assert [p.validation.fidelity for p in told] == [0.0, 0.2, 0.2]
    assert all(p.samples_per_second > 0 and p.gradient_norm > 0 for p in told)
    assert told[-1].seconds_left == 0


def test_an_error_in_the_data_reaches_the_caller(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=3)

    def batches(samples: range) -> Batch:
        raise TetherError("shard 3 is torn")

    trainer.batches = batches
    with pytest.raises(TetherError, match="shard 3"):
        trainer.fit()


def test_a_control_of_another_family_is_trained_and_resumed_exactly(tiny: ModuleType, tmp_path: Path) -> None:
    def train(out: Path, steps: int) -> Trainer:
        trainer = Trainer(tiny.make_base(), Brightness(), tiny.batches, tiny.make_config(out, steps=steps, ema=0.9))
        trainer.fit()
        return trainer

    whole = train(tmp_path / "one", 5)
    train(tmp_path / "two", 2)
    resumed = train(tmp_path / "two", 5)
    assert bool(whole.control.scale.any())  # type: ignore[union-attr]
    assert torch.equal(weights(resumed), weights(whole))
    assert whole.state.average is not None
    average = whole.state.average.averages[0].clone()
    with whole.result() as control:
        assert isinstance(control, Brightness)
        assert torch.equal(control.scale, average)
