"""A run that is killed at any moment and started again ends with the bits of one that was not."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tether.errors import TetherError
from tether.training.checkpoints import latest_checkpoint, list_checkpoints

RUN: dict[str, Any] = {"steps": 30, "checkpoint_every": 1, "ema": 0.9, "schedule": "cosine", "gradient_accumulation": 2}


def final(out: Path, step: int) -> dict[str, torch.Tensor]:
    folder = out / "checkpoints" / f"step-{step:08d}"
    return {
        f"{part}/{name}": tensor
        for part in ("model", "average", "optimizer")
        if (folder / f"{part}.safetensors").exists()
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def kill_once(training: Any, out: Path, rng: random.Random, in_a_write: bool) -> bool:
    """Kills a process that is training: in the middle of writing a checkpoint, or some time after one.

    Returns whether it was still running.
    """
    folder = out / "checkpoints"

    def steps() -> int:
        return max((int(path.name[5:13]) for path in list_checkpoints(folder)), default=0)

    first, wanted = steps(), rng.randint(1, 5)
    while training.running():
        done = steps() - first
        if done >= wanted and not in_a_write:
            time.sleep(rng.uniform(0, 0.15))
            break
        if done >= wanted and any(folder.glob(".*.part")):
            break
        time.sleep(0.0005)
    running = training.running()
    training.kill()
    return running


def killed_again_and_again(server: Any, out: Path, kills: int, seed: int) -> int:
    """Runs to the end through `kills` kills; returns how many of them hit a running process."""
    rng = random.Random(seed)
    hit = 0
    for attempt in range(kills):
        hit += kill_once(server.start(out, **RUN), out, rng, in_a_write=attempt % 2 == 0)
    assert server.start(out, **RUN).wait() == 0
    return hit


def test_killed_runs_end_with_the_bits_of_an_uninterrupted_one(server: Any, tmp_path: Path) -> None:
    assert server.start(tmp_path / "whole", **RUN).wait() == 0
    assert killed_again_and_again(server, tmp_path / "killed", 4, seed=0) >= 3
    assert_same_bits(final(tmp_path / "killed", 30), final(tmp_path / "whole", 30))


@pytest.mark.slow
def test_runs_killed_twenty_times_end_with_the_bits_of_an_uninterrupted_one(server: Any, tmp_path: Path) -> None:
    hit = 0
    assert server.start(tmp_path / "whole", **RUN).wait() == 0
    for seed in range(6):
        hit += killed_again_and_again(server, tmp_path / f"killed {seed}", 4, seed)
        assert_same_bits(final(tmp_path / f"killed {seed}", 30), final(tmp_path / "whole", 30))
    assert hit >= 20


@pytest.mark.parametrize(
    "settings", [{"precision": "bf16"}, {"optimizer": "adafactor"}, {"unlock_decoder": True}], ids=str
)
def test_two_sittings_end_with_the_bits_of_one(tiny: ModuleType, tmp_path: Path, settings: dict[str, Any]) -> None:
    shared = {"steps": 6, "checkpoint_every": 3, "ema": 0.9} | settings
    tiny.train(tmp_path / "one", **shared)
    tiny.train(tmp_path / "two", **shared | {"steps": 3})
    _, outcome, losses = tiny.train(tmp_path / "two", **shared)
    assert outcome.step == 6
    assert len(losses) == 3
    assert_same_bits(final(tmp_path / "two", 6), final(tmp_path / "one", 6))


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_a_union_that_stopped_before_every_kind_was_shown_goes_on_to_the_bit(
    tiny: ModuleType, tmp_path: Path, optimizer: str
) -> None:
    union = {"condition": ["canny", "depth", "seg"], "batch_size": 1, "checkpoint_every": 1, "optimizer": optimizer}
    _, _, losses = tiny.train(tmp_path / "one", steps=5, **union)
    tiny.train(tmp_path / "two", steps=1, **union)
    stem = "optimizer/control.controlnet_cond_embedding.stems."
    states = [name.removeprefix(stem) for name in final(tmp_path / "two", 1) if name.startswith(stem)]
    assert len({name.split(".")[0] for name in states}) == 1  # of one kind
    _, _, rest = tiny.train(tmp_path / "two", steps=5, **union)
    assert rest == losses[1:]
    assert_same_bits(final(tmp_path / "two", 5), final(tmp_path / "one", 5))


@pytest.mark.slow
def test_two_sittings_in_8_bits_end_with_the_bits_of_one(tiny: ModuleType, tmp_path: Path) -> None:
    def train(out: Path, steps: int) -> None:
        base = tiny.make_base(widths=(16, 32))  # states of fewer than 4,096 numbers are kept in float32
        config = tiny.make_config(out, steps=steps, optimizer="adamw8bit")
        tiny.Trainer(base, tiny.make_control(base), tiny.batches, config).fit()

    train(tmp_path / "one", 6)
    train(tmp_path / "two", 3)
    train(tmp_path / "two", 6)
    for part in ("model", "optimizer"):
        one, two = (
            load_file(tmp_path / name / "checkpoints/step-00000006" / f"{part}.safetensors") for name in ("one", "two")
        )
        assert_same_bits(one, two)
    assert any(tensor.dtype == torch.uint8 and tensor.numel() > 4096 for tensor in one.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_leaves_cleanly(
    tiny: ModuleType, tmp_path: Path, number: signal.Signals
) -> None:
    settings = {"steps": 6, "checkpoint_every": 100}
    trainer = tiny.make_trainer(tmp_path / "told", **settings)
    before = signal.signal(number, handler := lambda *_: None)  # what comes through must not end the tests
    trainer.on_progress = lambda progress: signal.raise_signal(number) if progress.step == 2 else None
    outcome = trainer.fit()
    assert (outcome.reason, outcome.step) == ("interrupted", 3)  # the step that was running is finished
    assert [path.name for path in list_checkpoints(trainer.checkpoints)] == ["step-00000003"]
    assert signal.signal(number, before) is handler
    tiny.train(tmp_path / "told", **settings)
    one, _, _ = tiny.train(tmp_path / "one", **settings)
    with one.result() as control:
        wanted = {name: tensor.clone() for name, tensor in control.state_dict().items()}
    last = latest_checkpoint(tmp_path / "told" / "checkpoints")
    assert last is not None
    got = {name.removeprefix("control."): tensor for name, tensor in last.tensors["model"].items()}
    assert_same_bits(got, wanted)


def test_a_torn_checkpoint_costs_only_the_way_from_the_one_before(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.train(tmp_path / "whole", steps=6, checkpoint_every=2, ema=0.9)
    tiny.train(tmp_path / "torn", steps=4, checkpoint_every=2, ema=0.9)
    victim = tmp_path / "torn" / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    _, _, losses = tiny.train(tmp_path / "torn", steps=6, checkpoint_every=2, ema=0.9)
    assert "step-00000004" in caplog.text
    assert len(losses) == 4
    assert_same_bits(final(tmp_path / "torn", 6), final(tmp_path / "whole", 6))


def test_a_finished_run_is_finished(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, steps=2)
    _, outcome, losses = tiny.train(tmp_path, steps=2)
    assert (outcome.reason, outcome.step, losses) == ("finished", 2, [])


def test_a_disk_that_fills_stops_the_run_with_the_checkpoint_before(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tether.training import checkpoints

    real, calls = checkpoints.save_file, []

    def fills(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 5:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", fills)
    with pytest.raises(TetherError, match=r"No space left.*step-00000002"):
        tiny.train(tmp_path, steps=6, checkpoint_every=2)
    last = latest_checkpoint(tmp_path / "checkpoints")
    assert last is not None
    assert last.step == 2


def test_the_state_holds_no_pickle(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.train(tmp_path, steps=2)
    (folder,) = list_checkpoints(tmp_path / "checkpoints")
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "state.json").read_text())["samples"] == 8
