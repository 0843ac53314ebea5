"""A tiny base with random weights, and batches that are a function of the samples' numbers: for exactness, not quality.

Run as a program it trains in processes of their own, so that tests can kill them; see `serve`.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import traceback
import weakref
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate import DistributedType, PartialState

from tether.control import Conditioning, UnionControlNet
from tether.training.batch import Batch
from tether.training.config import TrainConfig
from tether.training.events import Outcome
from tether.training.rota import Rota
from tether.training.trainer import Trainer


def _load_tiny_models() -> ModuleType:
    """`tests/tiny.py`, by path: this file also runs as a program."""
    path = Path(__file__).parents[1] / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_models = _load_tiny_models()
WIDTH, SCHEDULE = _models.TRAINING_WIDTH, _models.TRAINING_SCHEDULE
make_base, make_control = _models.make_training_base, _models.make_control


def batches(samples: range) -> Batch:
    """Sample n is drawn by a generator of seed n: the same whatever batch it comes in."""
    each = [torch.Generator().manual_seed(7000 + number) for number in samples]
    return Batch(
        torch.stack([torch.randn(4, 8, 8, generator=g) for g in each]),
        torch.stack([torch.rand(3, 64, 64, generator=g) for g in each]),
        Conditioning(torch.stack([torch.randn(5, WIDTH, generator=g) for g in each])),
        [f"sample {number}" for number in samples],
    )


def make_config(out: Path, **settings: Any) -> TrainConfig:
    small = {
        "steps": 8,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "validation_every": 0,
        "precision": "no",
        "device": "cpu",
        "trackers": (),
    }
    return TrainConfig.of(small | settings | {"out": out})


def make_trainer(out: Path, **settings: Any) -> Trainer:
    """A trainer of a ControlNet, or of a union of the kinds that `condition` lists, whose samples take turns."""
    base, config = make_base(), make_config(out, **settings)
    if not config.trains_union:
        return Trainer(base, make_control(base), batches, config)
    torch.manual_seed(1)
    union, rota = UnionControlNet.from_base(base, kinds=config.kinds), Rota(config.turns, config.seed)

    def turns(samples: range) -> Batch:
        return replace(batches(samples), kinds=[rota(number).kind for number in samples])

    return Trainer(base, union, turns, config)


def train(out: Path, **settings: Any) -> tuple[Trainer, Outcome, list[float]]:
    """Trains; gives the trainer, how it ended and the loss of each step of this sitting."""
    trainer = make_trainer(out, **settings)
    losses: list[float] = []
    trainer.on_progress = lambda progress: losses.append(progress.loss)
    return trainer, trainer.fit(), losses


def shard(version: str) -> None:
    """Has accelerate shard parameters (FSDP) on the CPU: PyTorch can, accelerate offers it on accelerators only."""
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": version,
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResnetBlock2D,BasicTransformerBlock",
    }
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def run(out: Path, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if "TINY_FSDP" in os.environ:
        shard(os.environ["TINY_FSDP"])
    trainer, _, losses = train(out, **settings)
    if trainer.accelerator.is_main_process:
        (out / "losses.json").write_text(json.dumps(losses))
    reducer = getattr(trainer.state.model, "reducer", None)  # DDP's
    died_in_a_group: list[bool] = []
    if reducer is not None:
        weakref.finalize(reducer, lambda: died_in_a_group.append(torch.distributed.is_initialized()))
    expected = [] if reducer is None else [True]
    del reducer
    trainer.end()
    assert died_in_a_group == expected, "DDP outlives its process group, and may wait for ever"


def serve() -> None:
    """For each line {"out", "settings", "environment"} of the input: trains in a fork of this process.

    A fork has everything imported, so a training begins at once. Its process id is written to the output; a line
    {"wait": PID} waits for it to end and writes its exit code, negative where a signal ended it.
    """
    faulthandler.enable()
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            answer = os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                os.environ.update(task["environment"])
                code = 1
                try:
                    run(Path(task["out"]), task["settings"])
                    code = 0
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(code)
        print(answer, flush=True)


if __name__ == "__main__":
    serve()
