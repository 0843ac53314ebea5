"""What the recipes that train share: a round of steps on the parts of `tether.training`.

What a step sees follows from the seed, the step and the options alone, so a round that is stopped and resumed sees what
it would have seen.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.training.average import MovingAverage
from tether.training.checkpoints import latest_checkpoint, save_checkpoint
from tether.training.divergence import LossLimit
from tether.training.optimizer import make_muon, schedule_factor
from tether.training.performance.precision import attention_kernel
from tether.training.state import RunState


def add_options(parser: argparse.ArgumentParser, *, out: str, steps: int, batch: int, lr: float, seed: int) -> None:
    """The options of a round, with a recipe's defaults."""
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, help="as many steps as fit into these, in place of --steps")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=seed, help="another for every round, or its samples come again")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--warmup", type=int, default=200, help="steps over which the learning rate rises")


class Round:
    """Iterates over a run's steps; each must end with `learn`.

    Muon and AdamW, a warmup and half a cosine, gradients clipped to a norm of 1. The result is an exponential moving
    average of the weights, whose decay rises to 0.999, so that a short round forgets what it started from. Every
    `save_every` steps and at the end a checkpoint is written to `out/checkpoints`, from which the same command resumes.

    Args:
        model: what is trained, in channels-last memory.
        arguments: those of `add_options`.
        keep: writes the model; called while its weights are their average.
        log_every: steps between two lines of the log.

    Attributes:
        steps: how many there will be; with minutes, infinite until the speed is known.
    """

    FLOOR, DECAY = 0.02, 0.999
    UNTIMED, TIMED = 30, 100
    """The speed is measured every 100 steps after the first 30: other processes may have slowed some of them."""

    def __init__(
        self, model: nn.Module, arguments: argparse.Namespace, keep: Callable[[Any], None], log_every: int
    ) -> None:
        scaler = torch.amp.GradScaler(arguments.device.type, enabled=False)
        self.state = RunState(model, make_muon(model, arguments.lr), scaler, LossLimit(math.inf))
        self.state.average = MovingAverage(self.state.parameters, self.DECAY, warmup=True)
        self.model, self.arguments, self.keep, self.log_every = model, arguments, keep, log_every
        self.checkpoints = arguments.out / "checkpoints"
        self.steps = arguments.steps if arguments.minutes is None else math.inf
        if found := latest_checkpoint(self.checkpoints):
            self.state.restore(found)
            self.steps = found.state["steps"] or math.inf if arguments.minutes is not None else self.steps
            print(f"resuming from step {self.state.step} of {self.steps}", flush=True)
        self.first, self.logged = self.state.step, {}
        self.started = self.timed = time.time()

    def __iter__(self) -> Iterator[int]:
        self.started = self.timed = time.time()
        state = self.state
        while not self._is_over():
            rate = self.arguments.lr * schedule_factor(
                "cosine", state.step, self.steps, self.arguments.warmup, self.FLOOR
            )
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            yield state.step
            assert state.average is not None
            state.average.update(state.step)
            state.step += 1
            if state.step % self.log_every == 0:
                self._log((time.time() - self.started) / (state.step - self.first))
            if state.step % self.arguments.save_every == 0 or state.step == self.steps:
                self._save()

    def _is_over(self) -> bool:
        """Whether all steps are done; sets their number when the speed is measured."""
        if self.arguments.minutes is not None:
            taken = self.state.step - self.first
            if taken % self.TIMED == self.UNTIMED:
                self._measure(taken)
            if taken and self.steps == math.inf and self._left() < 0:  # too little time to measure the speed
                self.steps = self.state.step
                self._save()
        return self.state.step >= self.steps

    def _measure(self, taken: int) -> None:
        """Sets the number of steps by the time that the latest ones took."""
        if self.arguments.device.type == "cuda":
            torch.cuda.synchronize(self.arguments.device)
        if taken > self.TIMED:
            each = (time.time() - self.timed) / self.TIMED
            self.steps = self.state.step + max(1, int(self._left() / each))
            print(f"{each:.4f} s/step: {self.steps} steps", flush=True)
        self.timed = time.time()

    def _left(self) -> float:
        """Seconds until the minutes are over."""
        return 60 * self.arguments.minutes - (time.time() - self.started)

    def _log(self, seconds: float) -> None:
        means = " ".join(f"{name} {torch.stack(many).mean().item():.4f}" for name, many in self.logged.items())
        print(f"{self.state.step} {means} {seconds:.3f} s/step", flush=True)
        self.logged = {}

    def _save(self) -> None:
        steps = None if self.steps == math.inf else self.steps
        save_checkpoint(self.checkpoints, self.state.capture({"steps": steps}), keep=1)
        with self.state.averaged():
            self.keep(self.model)

    def learn(self, objective: Tensor, **values: Tensor) -> None:
        """One step down the gradient of `objective`; `values` go to the log."""
        objective.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        for name, value in values.items():
            self.logged.setdefault(name, []).append(value.detach())


def attention(device: torch.device) -> AbstractContextManager[object]:
    """Plain attention on a CPU."""
    return attention_kernel("math" if device.type == "cpu" else "auto")
