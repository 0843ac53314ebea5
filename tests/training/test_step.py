"""One optimizer step."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tether.training.batch import Batch
from tether.training.checkpoints import latest_checkpoint
from tether.training.divergence import Diverged
from tether.training.events import Validation
from tether.training.step import Step
from tether.training.trainer import Trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.control.parameters()])


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"optimizer": "adafactor"}], ids=str)
def test_without_clipping_no_two_gradients_are_there_at_once_and_the_run_is_the_same_to_the_bit(
    tiny: ModuleType, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {}
    for streams in (True, False):
        monkeypatch.setattr(Step, "streams", streams)
        trainer = tiny.make_trainer(tmp_path / str(streams), steps=3, max_grad_norm=0.0, **settings)
        gradients, norms = [], []

        def count(optimizer: torch.optim.Optimizer, *_: object, trainer: Trainer = trainer) -> None:
            gradients.append(sum(p.grad is not None for p in trainer.state.parameters))  # noqa: B023

        trainer.state.optimizer.register_step_pre_hook(count)
        trainer.on_progress = lambda progress: norms.append(progress.gradient_norm)  # noqa: B023
        trainer.fit()
        runs[streams] = weights(trainer), gradients, norms
    one, all_ = (set(runs[streams][1]) for streams in (True, False))
    assert one == {1}
    assert all_ == {len(trainer.state.parameters)}
    assert torch.equal(runs[True][0], runs[False][0])
    assert runs[True][2] == pytest.approx(runs[False][2], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "streams"),
    [
        ({}, True),
        ({"max_grad_norm": 1.0}, False),
        ({"gradient_accumulation": 2}, False),
        ({"precision": "fp16"}, False),
    ],
    ids=str,
)
def test_gradients_are_used_one_by_one_only_where_none_must_wait_for_others(
    tiny: ModuleType, tmp_path: Path, settings: dict[str, Any], streams: bool
) -> None:
    assert tiny.make_trainer(tmp_path, **settings).take_step.streams == streams


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_accumulated_small_batches_make_the_step_of_the_big_batch(
    tiny: ModuleType, tmp_path: Path, optimizer: str
) -> None:
    big, _, losses = tiny.train(tmp_path / "big", steps=4, batch_size=4, optimizer=optimizer)
    small, _, same = tiny.train(tmp_path / "small", steps=4, batch_size=1, gradient_accumulation=4, optimizer=optimizer)
    assert same == pytest.approx(losses, rel=1e-5)
    assert small.state.samples == big.state.samples == 16
    torch.testing.assert_close(weights(small), weights(big), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("bad", ["latents", "tokens"])
def test_a_loss_that_is_no_number_stops_before_the_update_and_names_the_samples(
    tiny: ModuleType, tmp_path: Path, bad: str, clip: float
) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=8, checkpoint_every=2, max_grad_norm=clip)

    def batches(samples: range) -> Batch:
        batch = tiny.batches(samples)
        if 18 in samples:
            damaged = batch.latents if bad == "latents" else batch.conditioning.tokens
            damaged[18 - samples.start, 0, 0] = float("nan")
        return batch

    trainer.batches = batches
    with pytest.raises(Diverged, match=r"step 5: .* not finite.*sample 18.*step-00000004") as caught:
        trainer.fit()
    assert caught.value.names == ["sample 18"]
    assert bool(torch.isfinite(weights(trainer)).all())
    last = latest_checkpoint(trainer.checkpoints)
    assert last is not None
    assert last.step == 4


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_gradient_that_is_no_number_stops_before_it_is_saved(tiny: ModuleType, tmp_path: Path, clip: float) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=8, checkpoint_every=2, max_grad_norm=clip)
    damage = trainer.control.controlnet_mid_block.weight
    damage.register_hook(lambda gradient: gradient * float("nan") if trainer.state.step == 4 else gradient)
    with pytest.raises(Diverged, match=r"step 5: the loss is finite, its gradient is not; .*step-00000004") as caught:
        trainer.fit()
    assert len(caught.value.names) == 4
    last = latest_checkpoint(trainer.checkpoints)
    assert last is not None
    assert last.step == 4
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last.tensors["model"].values())


def test_an_exploding_loss_stops_and_names_the_worst_sample_first(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=8, divergence_factor=10.0)
    trainer.state.loss_limit.first_losses = [1.0] * 50
    usual, factors = trainer.state.model.forward, {"sample 21": 1000.0, "sample 23": 100.0}

    def exploding(batch: Batch, randomness: Any) -> Any:
        _, further = usual(batch, randomness)
        scale = trainer.control.controlnet_mid_block.bias.sum() * 0 + 1  # so that there is a gradient
        return scale * torch.tensor([factors.get(name, 0.5) for name in batch.names]), further

    vars(trainer.state.model)["forward"] = exploding
    with pytest.raises(Diverged, match=r"step 6: the loss has exploded.*step-00000004") as caught:
        trainer.fit()
    assert caught.value.names[:2] == ["sample 21", "sample 23"]
    assert len(caught.value.names) == 4


def test_the_batch_is_raised_after_convergence_where_asked(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(
        tmp_path, steps=16, batch_size=1, validation_every=1, after_convergence="raise", raise_accumulation=2
    )
    trainer.validator = lambda step, control: Validation(step, 0.2 + 0.6 * (step >= 6), 0.1)
    outcome = trainer.fit()
    assert outcome.converged_at is not None
    assert outcome.samples == outcome.converged_at + 2 * (16 - outcome.converged_at)
