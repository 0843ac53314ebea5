"""One optimizer step: feed, forward, backward, check, update, average.

    L = mean of the samples' losses + Σ_j w_j(k) L_j          over all forward passes and processes

Without clipping, accumulation or loss scaling each gradient is used and freed as soon as it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tether.kinds import find_kind
from tether.training.batch import Prefetch, Randomness, batch_generator, sample_generators
from tether.training.checkpoints import list_checkpoints
from tether.training.config import AuxiliaryLossConfig, TrainConfig
from tether.training.divergence import Diverged, diverged
from tether.training.optimizer import backward_and_step, clip_gradients, steps_while_backward
from tether.training.performance.memory import layout
from tether.training.performance.precision import autocast
from tether.training.state import RunState

__all__ = ["Sections", "Step", "StepResult", "no_sections"]

Sections = Callable[[str], AbstractContextManager[Any]]
"""Makes the context manager that is entered around each section of a step: "step", the whole, and in it "feed",
"forward", "backward" and "optimizer" (inside "backward" if gradients are used one by one)."""

_LEAST_SCALE = 1e-4  # of a loss in float16: below it no gradient was finite for dozens of steps


def no_sections(name: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class StepResult:
    """What a step gave, over all processes.

    Attributes:
        loss: mean diffusion loss.
        gradient_norm: before clipping.
        auxiliary: mean of each auxiliary loss, before its weight.
        flags: whether any process raised each of the step's flags.
    """

    loss: float
    gradient_norm: float
    auxiliary: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[bool, ...] = ()


class Step:
    """Takes the steps of a run.

    Args:
        state: the run's; weights, optimizer, average, step and samples change.
        config: the run's.
        accelerator: of this process.
        dtype: type of the computation; None for float32.
        auxiliary: the weights of the objective's auxiliary losses.
        sharded: whether FSDP shards the parameters.
        sections: for measuring.
    """

    def __init__(
        self,
        state: RunState,
        config: TrainConfig,
        accelerator: Accelerator,
        dtype: torch.dtype | None,
        auxiliary: Mapping[str, AuxiliaryLossConfig],
        *,
        sharded: bool = False,
        sections: Sections = no_sections,
    ) -> None:
        self.state, self.config, self.accelerator, self.dtype = state, config, accelerator, dtype
        self.auxiliary, self.sharded, self.sections = dict(auxiliary), sharded, sections
        self.parameters = state.parameters
        ranges = [find_kind(kind).value_range for kind in config.kinds]
        self.value_range = min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def accumulation(self) -> int:
        """Forward passes per step; more of them after convergence, if the config says so."""
        raised = self.state.converged_at is not None and self.config.after_convergence == "raise"
        return self.config.gradient_accumulation * (self.config.raise_accumulation if raised else 1)

    @property
    def samples(self) -> int:
        """Samples per step of all processes."""
        return self.config.batch_size * self.accumulation * self.accelerator.num_processes

    @property
    def streams(self) -> bool:
        """Whether each gradient is used and freed as soon as it is computed, so that never all exist at once."""
        return steps_while_backward(self.config, self.dtype, self.accumulation * self.accelerator.num_processes)

    def plan(self, start: int) -> list[range]:
        """The samples of each of this process's forward passes in the step that begins with sample `start`."""
        size, processes = self.config.batch_size, self.accelerator.num_processes
        firsts = (start + (k * processes + self.accelerator.process_index) * size for k in range(self.accumulation))
        return [range(first, first + size) for first in firsts]

    def __call__(self, feed: Prefetch, rate: float, flags: tuple[bool, ...] = ()) -> StepResult:
        """One step.

        Args:
            feed: gives the batches.
            rate: learning rate.
            flags: of this process, to be shared with the others.

        Raises:
            Diverged: when the loss or its gradient is not finite, or the loss is far too large; the weights are then
                as before, or not saved.
        """
        with self.sections("step"):
            return self._step(feed, rate, flags)

    def _step(self, feed: Prefetch, rate: float, flags: tuple[bool, ...]) -> StepResult:
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        plan, following = self.plan(state.samples), self.plan(state.samples + self.samples)
        losses, further, names, norm, streams = [], [], [], 0.0, self.streams
        for index, samples in enumerate(plan):
            last = index == len(plan) - 1
            with nullcontext() if last else self.accelerator.no_sync(state.model):
                found, each, extra = self._forward(feed, samples, [*plan[index + 1 :], *following])
                names += found
                objective = self._objective(each, extra)
                if streams:
                    self._check_loss(each.mean().item(), each.detach(), names)
                    self._check_further({name: value.item() for name, value in extra.items()}, each.detach(), names)
                    norm = self._stream(objective)
                    self._check_norm(norm, each.detach(), names)
                else:
                    with self.sections("backward"):
                        state.scaler.scale(objective / len(plan)).backward()
            losses.append(each.detach())
            values = [value.detach() for value in extra.values()]
            further.append(torch.stack(values) if values else each.new_zeros(0))
        shared = self._gather(torch.cat(losses), torch.stack(further).mean(dim=0), flags)
        loss = shared[:, : len(names)].mean().item()
        means = shared[:, len(names) : len(names) + len(self.auxiliary)].mean(dim=0).tolist()
        auxiliary = dict(zip(self.auxiliary, means, strict=True))
        if not streams:
            self._check_loss(loss, torch.cat(losses), names)
            self._check_further(auxiliary, torch.cat(losses), names)
            norm = self._update(torch.cat(losses), names)
        if state.average is not None:
            state.average.update(state.step)
        state.step, state.samples = state.step + 1, state.samples + self.samples
        raised = shared[:, len(names) + len(self.auxiliary) :].any(dim=0).tolist()
        return StepResult(loss, norm, auxiliary, tuple(raised))

    def _forward(
        self, feed: Prefetch, samples: range, following: list[range]
    ) -> tuple[list[str], Tensor, dict[str, Tensor]]:
        """A forward pass: the samples' names, their losses `(B,)`, and the auxiliary losses."""
        device = self.accelerator.device
        with self.sections("feed"):
            batch = feed(samples, following).to(device, layout(device, self.config.optimizer), self.value_range)
        randomness = batch.randomness or self._randomness(samples)
        with self.sections("forward"), autocast(device, self.dtype):
            each, extra = self.state.model(batch, randomness)
        return list(batch.names) or [str(number) for number in samples], each, extra

    def _randomness(self, samples: range) -> Randomness:
        """The source of noise and timesteps of a batch that has none of its own."""
        if self.config.randomness == "batch":
            return batch_generator(self.config.seed, samples)
        return sample_generators(self.config.seed, samples)

    def _objective(self, losses: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        total = losses.mean()
        for name, value in extra.items():
            weight = self.auxiliary[name].weight_at(self.state.step, self.config.steps)
            total = total + weight * value
        return total

    def _gather(self, losses: Tensor, further: Tensor, flags: tuple[bool, ...]) -> Tensor:
        """Losses, auxiliary losses and flags of each process, one row for each."""
        raised = torch.tensor([float(flag) for flag in flags], device=losses.device)
        mine = torch.cat([losses, further, raised])
        gathered: Any = self.accelerator.gather(mine)
        return gathered.view(-1, len(mine))

    def _stream(self, objective: Tensor) -> float:
        """The backward pass with the updates in it. Returns the gradients' norm."""
        with self.sections("backward"):
            return float(backward_and_step(objective, self.state.optimizer, self.parameters))

    def _update(self, losses: Tensor, names: list[str]) -> float:
        """Clips and steps. Returns the gradients' norm before clipping."""
        state, limit = self.state, self.config.max_grad_norm
        with self.sections("optimizer"):
            state.scaler.unscale_(state.optimizer)
            norm: Any
            if self.sharded and limit:
                norm = self.accelerator.clip_grad_norm_(self.parameters, limit)
            elif state.scaler.is_enabled():
                norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit or float("inf"))
            else:
                norm = clip_gradients(state.optimizer, self.parameters, limit)
            self._check_norm(float(norm), losses, names)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def _check_loss(self, loss: float, losses: Tensor, names: list[str]) -> None:
        """Raises `Diverged` before the weights are changed."""
        problem = self.state.loss_limit.problem(loss)
        if problem:
            raise self._diverged(problem, losses, names)

    def _check_further(self, auxiliary: Mapping[str, float], losses: Tensor, names: list[str]) -> None:
        """Raises `Diverged` for an auxiliary loss that is not finite, before the weights are changed."""
        for name, value in auxiliary.items():
            if not math.isfinite(value):
                raise self._diverged(
                    f"the auxiliary loss {name} is not finite",
                    losses,
                    names,
                    "see what it computes of these samples, or start a new run without it in auxiliary_losses",
                )

    def _check_norm(self, norm: float, losses: Tensor, names: list[str]) -> None:
        """Raises `Diverged` for gradients that are not finite, before anything is saved; a scaler skips those itself.

        A finite loss can have such gradients: at the root of 0, or if a product overflows in the backward pass.
        """
        scaler = self.state.scaler
        vanished = scaler.is_enabled() and scaler.get_scale() < _LEAST_SCALE
        if vanished or (not math.isfinite(norm) and not scaler.is_enabled()):
            raise self._diverged("the loss is finite, its gradient is not", losses, names)

    def _diverged(self, problem: str, losses: Tensor, names: list[str], *advice: str) -> Diverged:
        kept = list_checkpoints(Path(self.config.out) / "checkpoints")
        return diverged(f"step {self.state.step + 1}: {problem}", losses, names, kept, *advice)
