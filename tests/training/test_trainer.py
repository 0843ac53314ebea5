"""The loop: what it trains, what it leaves alone, and when it stops."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tether.errors import TetherError
from tether.training.batch import Batch, Prefetch
from tether.training.checkpoints import latest_checkpoint, list_checkpoints
from tether.training.divergence import Diverged, LossLimit
from tether.training.events import Look
from tether.training.objective import fingerprint
from tether.training.optimizer import MovingAverage, clip_gradients, learning_rate, make_optimizer
from tether.training.trainer import Trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.control.parameters()])


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"gradient_checkpointing": True}], ids=str)
def test_the_base_has_the_same_bits_before_and_after_and_the_control_has_not(
    tiny: ModuleType, tmp_path: Path, settings: dict[str, Any]
) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=3, **settings)
    before = fingerprint({"unet": trainer.base.unet, "vae": trainer.base.vae})
    control = weights(trainer)
    outcome = trainer.fit()
    assert fingerprint({"unet": trainer.base.unet, "vae": trainer.base.vae}) == before
    assert outcome.base_hash == trainer.objective.locked_fingerprint()
    assert not torch.equal(weights(trainer), control)
    assert not trainer.base.unet.is_gradient_checkpointing


def test_a_base_that_changes_while_training_is_noticed(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=2)

    def tamper(_: object) -> None:
        with torch.no_grad():
            trainer.base.unet.conv_in.weight[0, 0, 0, 0] += 1e-3

    trainer.on_progress = tamper
    with pytest.raises(TetherError, match="base has changed"):
        trainer.fit()


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_accumulated_small_batches_make_the_step_of_the_big_batch(
    tiny: ModuleType, tmp_path: Path, optimizer: str
) -> None:
    big, _, losses = tiny.train(tmp_path / "big", steps=4, batch_size=4, optimizer=optimizer)
    small, _, same = tiny.train(tmp_path / "small", steps=4, batch_size=1, gradient_accumulation=4, optimizer=optimizer)
    assert same == pytest.approx(losses, rel=1e-5)
    assert small.samples == big.samples == 16
    torch.testing.assert_close(weights(small), weights(big), rtol=1e-3, atol=2e-5)


def test_training_lowers_the_loss_on_what_it_sees(tiny: ModuleType, tmp_path: Path) -> None:
    """The same four samples again and again, with the same noise: this must be learned by heart."""
    trainer = tiny.make_trainer(tmp_path, steps=20, learning_rate=5e-3)
    trainer.batches = lambda samples: tiny.batches(range(4))
    trainer._plan = lambda start: [range(4)]
    losses = []
    trainer.on_progress = lambda progress: losses.append(progress.loss)
    trainer.fit()
    assert losses[-1] < 0.95 * losses[0]


def test_the_average_follows_its_formula() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = MovingAverage([parameter], 0.5)
    expected = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for step in range(12):
        with torch.no_grad():
            parameter.add_(torch.tensor([1.0, -0.5]))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    torch.testing.assert_close(average.averages[0].double(), expected, rtol=1e-6, atol=1e-6)
    with average.swapped():
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-6, atol=1e-6)
    assert parameter.tolist() == [13.0, -4.0]


def test_the_result_is_the_average_and_fits_the_control(tiny: ModuleType, tmp_path: Path) -> None:
    trainer, _, _ = tiny.train(tmp_path, steps=3, ema=0.9)
    trained = weights(trainer)
    with trainer.result() as control:
        result = torch.cat([p.flatten() for p in control.parameters()])
        assert not any(p.requires_grad for p in control.parameters())
        assert not control.training
    assert trainer.average is not None
    torch.testing.assert_close(result, torch.cat([a.flatten() for a in trainer.average.averages]), rtol=0, atol=0)
    assert torch.equal(weights(trainer), trained)
    assert not torch.equal(result, trained)


def test_clipping_scales_the_step_as_pytorch_does(tiny: ModuleType, tmp_path: Path) -> None:
    config = tiny.make_config(tmp_path, betas=(0.0, 0.0), weight_decay=0.0)
    updates = []
    for fused in (True, False):
        parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
        # An eps far above the gradients makes AdamW's step proportional to them: only so does clipping show.
        optimizer = make_optimizer(config, parameters)
        optimizer.param_groups[0]["eps"] = 1e3
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 3.0)
        clip = partial(clip_gradients, optimizer) if fused else torch.nn.utils.clip_grad_norm_
        norm = clip(parameters, 0.5)
        assert norm.item() == pytest.approx(3 * 7**0.5)
        optimizer.step()
        updates.append(torch.cat([p.detach().flatten() for p in parameters]))
    torch.testing.assert_close(updates[0], updates[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"optimizer": "adafactor"}], ids=str)
def test_without_clipping_no_two_gradients_are_there_at_once_and_the_run_is_the_same_to_the_bit(
    tiny: ModuleType, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {}
    for streams in (True, False):
        monkeypatch.setattr(Trainer, "streams", streams)
        trainer = tiny.make_trainer(tmp_path / str(streams), steps=3, max_grad_norm=0.0, **settings)
        gradients, norms = [], []

        def count(optimizer: torch.optim.Optimizer, *_: object, trainer: Trainer = trainer) -> None:
            gradients.append(sum(p.grad is not None for p in trainer.parameters))  # noqa: B023

        trainer.optimizer.register_step_pre_hook(count)
        trainer.on_progress = lambda progress: norms.append(progress.gradient_norm)  # noqa: B023
        trainer.fit()
        runs[streams] = weights(trainer), gradients, norms
    one, all_ = (set(runs[streams][1]) for streams in (True, False))
    assert one == {1}
    assert all_ == {len(trainer.parameters)}
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
    assert tiny.make_trainer(tmp_path, **settings).streams == streams


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 0.775, 0.55, 0.325]),
        ("cosine", [0.5, 1.0, 0.1 + 0.9 * 0.853553, 0.55, 0.1 + 0.9 * 0.146447]),
    ],
)
def test_learning_rates_warm_up_and_fall_to_the_floor(
    tiny: ModuleType, tmp_path: Path, schedule: str, expected: list[float]
) -> None:
    config = tiny.make_config(
        tmp_path, steps=6, schedule=schedule, warmup_steps=2, final_learning_rate=0.1, learning_rate=1.0
    )
    assert [learning_rate(config, step) for step in range(5)] == pytest.approx(
        [expected[0], 1.0, *expected[1:4]], rel=1e-5
    )


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("bad", ["latents", "text_states"])
def test_a_loss_that_is_no_number_stops_before_the_update_and_names_the_samples(
    tiny: ModuleType, tmp_path: Path, bad: str, clip: float
) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=8, checkpoint_every=2, max_grad_norm=clip)

    def batches(samples: range) -> Batch:
        batch = tiny.batches(samples)
        if 18 in samples:
            getattr(batch, bad)[18 - samples.start, 0, 0] = float("nan")
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
    damage.register_hook(lambda gradient: gradient * float("nan") if trainer.step == 4 else gradient)
    with pytest.raises(Diverged, match=r"step 5: the loss is finite, its gradient is not; .*step-00000004") as caught:
        trainer.fit()
    assert len(caught.value.names) == 4
    last = latest_checkpoint(trainer.checkpoints)
    assert last is not None
    assert last.step == 4
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last.tensors["model"].values())


def test_told_to_leave_at_a_look_it_looks_first(tiny: ModuleType, tmp_path: Path) -> None:
    looks = lambda step, control: Look(step, step / 10, 0.0)  # noqa: E731
    trainer = tiny.make_trainer(tmp_path, steps=6, watch_every=2)
    trainer.watcher = looks
    trainer.on_progress = lambda progress: signal.raise_signal(signal.SIGINT) if progress.step == 3 else None
    assert trainer.fit().reason == "interrupted"
    again = tiny.make_trainer(tmp_path, steps=6, watch_every=2)
    again.watcher = looks
    assert trainer.step == 4
    assert [look.step for look in again.fit().curve] == [0, 2, 4, 6]


def test_an_exploding_loss_stops_and_names_the_worst_sample_first(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=8, explosion=10.0)
    trainer.objective.schedule.alphas_cumprod[:] = 0.5
    trainer.loss_limit.first_losses = [1.0] * 50
    usual = trainer._losses
    factors = {21: 1000.0, 23: 10.0}
    vars(trainer)["_losses"] = lambda batch, samples: (
        usual(batch, samples) * torch.tensor([factors.get(number, 1.0) for number in samples])
    )
    with pytest.raises(Diverged, match=r"step 6: the loss has exploded.*step-00000004") as caught:
        trainer.fit()
    assert caught.value.names[:2] == ["sample 21", "sample 23"]
    assert len(caught.value.names) == 4


def test_losses_that_differ_by_far_are_no_explosion_before_50_are_known() -> None:
    """At batch 1 one timestep's loss may be a hundred times another's."""
    limit = LossLimit(explosion=3.0)
    assert [limit.problem(loss) for loss in [0.01, 1.0] * 25] == [None] * 50
    assert limit.problem(2.9) is None
    assert "exploded (3.1; at most 3 is expected)" in str(limit.problem(3.1))
    assert "not finite" in str(limit.problem(float("nan")))


def test_a_tracker_that_nobody_knows_is_refused_and_one_that_is_missing_is_said(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TetherError, match="unknown tracker 'tensorbord'"):
        tiny.make_trainer(tmp_path, trackers=("tensorbord",))
    tiny.make_trainer(tmp_path, trackers=("swanlab",))
    assert "swanlab is not installed" in caplog.text


def test_another_base_or_other_data_under_the_same_name_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    def trainer(**identity: str) -> Trainer:
        made = tiny.make_trainer(tmp_path, steps=2)
        made.identity = identity
        return made

    trainer(base="a", data="b").fit()
    with pytest.raises(TetherError, match="another data"):
        trainer(base="a", data="c").fit()
    assert trainer(base="a", data="b").fit().step == 2


def test_a_checkpoint_is_due_by_the_clock_too(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=5, checkpoint_every=100, keep_checkpoints=9, checkpoint_minutes=1e-9)
    trainer.fit()
    assert [int(path.name[5:]) for path in list_checkpoints(trainer.checkpoints)] == [1, 2, 3, 4, 5]


def test_convergence_tags_a_checkpoint_and_stops_where_asked(tiny: ModuleType, tmp_path: Path) -> None:
    seen = []

    def watcher(step: int, control: torch.nn.Module) -> Look:
        seen.append(step)
        return Look(step, 0.2 + 0.6 * (step >= 6), 0.1)

    trainer = tiny.make_trainer(
        tmp_path, steps=40, watch_every=1, checkpoint_every=100, after_convergence="stop", keep_checkpoints=1
    )
    trainer.watcher = watcher
    outcome = trainer.fit()
    assert outcome.reason == "converged"
    assert outcome.converged_at is not None
    assert 6 < outcome.converged_at == outcome.step < 18
    assert outcome.appeared_at == 6  # the look that jumped, not the one that made it certain
    assert seen == list(range(outcome.step + 1))
    assert [p.name for p in list_checkpoints(trainer.checkpoints)] == [f"step-{outcome.step:08d}-converged"]


def test_a_control_that_grows_appears_too_and_is_trained_on(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=24, watch_every=1, after_convergence="stop")
    trainer.watcher = lambda step, control: Look(step, 0.2 + 0.05 * min(max(step - 8, 0), 6) + 0.01 * (step % 2), 0.1)
    outcome = trainer.fit()
    assert outcome.appeared_at == pytest.approx(9, abs=1)
    assert (outcome.reason, outcome.step, outcome.converged_at) == ("finished", 24, None)


def test_the_batch_is_raised_after_convergence_where_asked(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(
        tmp_path, steps=16, batch_size=1, watch_every=1, after_convergence="raise", raise_accumulation=2
    )
    trainer.watcher = lambda step, control: Look(step, 0.2 + 0.6 * (step >= 6), 0.1)
    outcome = trainer.fit()
    assert outcome.converged_at is not None
    assert outcome.samples == outcome.converged_at + 2 * (16 - outcome.converged_at)


def test_progress_is_told_after_each_step(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=3, watch_every=2)
    told = []
    trainer.on_progress = told.append
    trainer.watcher = lambda step, control: Look(step, step / 10, 0.0)
    trainer.fit()
    assert [p.step for p in told] == [1, 2, 3]
    assert [p.look.obedience for p in told] == [0.0, 0.2, 0.2]
    assert all(p.samples_per_second > 0 and p.gradient_norm > 0 for p in told)
    assert told[-1].seconds_left == 0


def test_prefetching_gives_the_batches_in_the_order_asked_for(tiny: ModuleType) -> None:
    asked = []

    def batches(samples: range) -> Batch:
        asked.append(samples)
        return tiny.batches(samples)

    feed = Prefetch(batches, 2)
    plan = [range(n, n + 2) for n in range(0, 12, 2)]
    given = [feed(samples, plan[index + 1 :]) for index, samples in enumerate(plan)]
    feed.close()
    assert [batch.names[0] for batch in given] == [f"sample {samples.start}" for samples in plan]
    assert sorted(asked, key=lambda samples: samples.start) == plan


def test_an_error_in_the_data_reaches_the_caller(tiny: ModuleType, tmp_path: Path) -> None:
    trainer = tiny.make_trainer(tmp_path, steps=3)

    def batches(samples: range) -> Batch:
        raise TetherError("shard 3 is torn")

    trainer.batches = batches
    with pytest.raises(TetherError, match="shard 3"):
        trainer.fit()
