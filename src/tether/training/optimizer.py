"""The update: learning rate, clipping, optimiser and moving average.

    η_k   = η · k'/W while k' = k + 1 <= W (warm-up), then η times 1, a line, or half a cosine down to the floor f
    g'    = g · min(1, G / ||g||)                                           clipping to the norm G
    θ̄_k+1 = d_k θ̄_k + (1 - d_k) θ_k+1,   d_k = min(d, (1 + k) / (10 + k))   moving average with warm-up

AdamW is PyTorch's fused one, which divides each gradient by a scale while it reads it: clipping costs no pass of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.training.config import TrainConfig

__all__ = [
    "MovingAverage",
    "backward_and_step",
    "clip_gradients",
    "learning_rate",
    "make_optimizer",
    "steps_while_backward",
]


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step `step`, counted from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    floor = config.final_learning_rate
    if config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "linear":
        factor = 1 - (1 - floor) * progress
    else:
        factor = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * factor


def make_optimizer(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that the config names.

    Raises:
        TetherError: where it cannot be had on this machine.
    """
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, config.learning_rate, weight_decay=config.weight_decay)
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
        except ImportError as error:
            raise TetherError("optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
        return AdamW8bit(parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        parameters, config.learning_rate, config.betas, weight_decay=config.weight_decay, fused=True
    )


def clip_gradients(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Makes the optimiser's next step use gradients of norm `max_norm` at most.

    Args:
        optimizer: a fused one is told a scale, which it divides by as it goes; else the gradients are scaled here.
        parameters: those that the optimiser trains.
        max_norm: 0 leaves the gradients alone.

    Returns:
        The norm before, a scalar.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in gradients]))
    if not max_norm:
        return norm
    scale = (norm / max_norm).clamp(min=1.0)
    if optimizer.defaults.get("fused"):
        optimizer.grad_scale = scale  # type: ignore[attr-defined] # the protocol of torch.amp.GradScaler
    else:
        torch._foreach_div_(gradients, scale)
    return norm


def steps_while_backward(config: TrainConfig, dtype: torch.dtype | None, backward_passes: int) -> bool:
    """Whether a step may use and free each gradient as soon as it is there (`backward_and_step`).

    That is so where nothing must be known of all of them first: neither their norm, to clip by, nor those of other
    backward passes or processes, nor whether scaling has made one of them infinite.

    Args:
        config: the run.
        dtype: the type of the computation, None for float32; the loss is scaled in float16.
        backward_passes: of one step, over all processes.
    """
    return backward_passes == 1 and not config.max_grad_norm and dtype != torch.float16


def backward_and_step(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The backward pass; each parameter is updated, and its gradient freed, as soon as its gradient is there.

    Args:
        loss: a scalar.
        optimizer: one that treats each parameter by itself.
        parameters: those that the optimiser trains, without gradients.

    Returns:
        The norm of all gradients, a scalar.
    """
    squares: list[Tensor] = []
    groups = optimizer.param_groups
    group_of = {parameter: group for group in groups for parameter in group["params"]}

    def update(parameter: Tensor) -> None:
        assert parameter.grad is not None
        squares.append(torch.linalg.vector_norm(parameter.grad.float()).square())
        # Shown this parameter alone, the optimiser does not look through all others for gradients.
        optimizer.param_groups = [group_of[parameter] | {"params": [parameter]}]  # type: ignore[index]
        optimizer.step()
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(update) for parameter in parameters]
    try:
        loss.backward()
    finally:
        optimizer.param_groups = groups
        for hook in hooks:
            hook.remove()
    return torch.stack(squares).sum().sqrt()


class MovingAverage:
    """The exponential moving average θ̄ of some parameters.

    Args:
        parameters: what is averaged; the average starts at their values.
        decay: d, below 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        """θ̄ after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the parameters have the averages' values, and `averages` holds theirs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
