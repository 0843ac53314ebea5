"""What the recipes that train share: a round of steps, with optimiser, moving average, log, and state to go on from.

What a step sees follows from the seed, the step and the options alone, so a round that is stopped and continued sees
what it would have seen.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


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


class Round:
    """Iterates over a run's steps; each is to end with `learn`.

    The learning rate warms up and falls by half a cosine. An exponential moving average (0.999) of the weights is what
    is kept. Every `save_every` steps and at the end the state is written to `out`, from which the same command goes on.

    Args:
        model: what is trained, in memory channels last.
        arguments: those of `add_options`.
        keep: writes the averaged model.
        log_every: steps between two lines of the log.

    Attributes:
        step: the current one.
        steps: how many there will be; with minutes, endless until the speed is known.
    """

    WARMUP, FLOOR = 200, 0.02
    TIMED = (30, 130)
    """From which step to which the speed is taken."""

    def __init__(
        self, model: nn.Module, arguments: argparse.Namespace, keep: Callable[[Any], None], log_every: int
    ) -> None:
        mean = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
        self.average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=mean, use_buffers=False)
        self.optimiser = MuonAndAdamW(model, arguments.lr)
        self.model, self.arguments, self.keep, self.log_every = model, arguments, keep, log_every
        self.step, self.steps = 0, arguments.steps if arguments.minutes is None else math.inf
        if state := load_state(arguments.out / "state.pt"):
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.steps = state["step"], arguments.steps if arguments.minutes is None else state["steps"]
            print(f"goes on at step {self.step} of {self.steps}", flush=True)
        self.first, self.logged = self.step, {}

    def __iter__(self) -> Iterator[int]:
        started = begun = time.time()
        while self.step < self.steps:
            taken = self.step - self.first
            if self.steps == math.inf and taken in self.TIMED:
                if self.arguments.device.type == "cuda":
                    torch.cuda.synchronize(self.arguments.device)
                if taken == self.TIMED[1]:
                    each = (time.time() - begun) / (self.TIMED[1] - self.TIMED[0])
                    left = 60 * self.arguments.minutes - (time.time() - started)
                    self.steps = self.step + max(1, int(left / each))
                    print(f"{each:.4f} s/step: {self.steps} steps", flush=True)
                begun = time.time()
            self.optimiser.set_lr(self.arguments.lr * cosine(self.step, self.steps, self.WARMUP, self.FLOOR))
            yield self.step
            self.step += 1
            if self.step % self.log_every == 0:
                means = " ".join(f"{name} {torch.stack(many).mean().item():.4f}" for name, many in self.logged.items())
                each = (time.time() - started) / (self.step - self.first)
                print(f"{self.step} {means} {each:.3f} s/step", flush=True)
                self.logged = {}
            if self.step % self.arguments.save_every == 0 or self.step == self.steps:
                self._save()

    def learn(self, objective: Tensor, **values: Tensor) -> None:
        """One step down the gradient of `objective`, clipped to a norm of 1; `values` go to the log."""
        objective.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update_parameters(self.model)
        for name, value in values.items():
            self.logged.setdefault(name, []).append(value.detach())

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "steps": self.steps,
        }
        save_state(self.arguments.out / "state.pt", state)
        self.keep(self.average.module)


class MuonAndAdamW:
    """One optimiser of two: Muon (orthogonalised momentum) for every matrix and kernel, AdamW for all else.

    A kernel `(out, in, h, w)` is stepped as the matrix `(out, h * w * in)`, a view of its memory: `model` must lie in
    memory channels last. Muon's steps are scaled to AdamW's size, so that one learning rate serves both. Of it:
    Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale: Liu et al. 2025 (2502.16982).
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        tables = {id(parameter) for table in embeddings for parameter in table.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        kernels = [p for p in trained if p.ndim > 1 and id(p) not in tables]
        others = [p for p in trained if p.ndim <= 1 or id(p) in tables]
        self.pairs = [(kernel, nn.Parameter(self._matrix(kernel.detach()))) for kernel in kernels]
        muon = torch.optim.Muon(
            [matrix for _, matrix in self.pairs], lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        adamw = torch.optim.AdamW(others, lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.parts = [muon, adamw]

    @staticmethod
    def _matrix(kernel: Tensor) -> Tensor:
        return (kernel.permute(0, 2, 3, 1) if kernel.ndim == 4 else kernel).flatten(1)

    def set_lr(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr

    def step(self) -> None:
        for kernel, matrix in self.pairs:
            assert kernel.grad is not None
            assert kernel.data_ptr() == matrix.data_ptr(), "the model was moved in memory"
            matrix.grad = self._matrix(kernel.grad)
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for kernel, _ in self.pairs:
            kernel.grad = None
        self.parts[1].zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain attention on a CPU: on these short sequences a step takes a fifth less time than with the fused kernel."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a training state so that `path` always holds a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state that `save_state` wrote, or None where there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * progress)))
