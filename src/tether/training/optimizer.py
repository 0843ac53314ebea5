"""The update: learning rate, gradient clipping, optimizer.

    η_k = η (k + 1)/W while k < W (warmup), then η times 1, a line, or half a cosine down to the floor f
    g'  = g min(1, G / ||g||)                                               clipping to the norm G

AdamW (arXiv:1711.05101) is PyTorch's fused one, which divides each gradient by a scale while reading it: clipping costs
no pass of its own. Adafactor (arXiv:1804.04235) takes steps of the learning rate's size, as AdamW does, not steps
relative to the parameters (α = max(1, RMS(θ)) η): what begins at 0 learns too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.training.config import TrainConfig
from tether.training.muon import MuonAndAdamW, is_matrix

__all__ = [
    "backward_and_step",
    "clip_gradients",
    "learning_rate",
    "make_muon",
    "make_optimizer",
    "schedule_factor",
    "steps_while_backward",
]


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step `step`, counted from 0."""
    factor = schedule_factor(config.schedule, step, config.steps, config.warmup_steps, config.final_learning_rate)
    return config.learning_rate * factor


def schedule_factor(schedule: str, step: int, steps: float, warmup: int = 0, floor: float = 0.0) -> float:
    """η_k / η of step k = `step` of `steps`, for the schedules "constant", "linear" and "cosine"."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - (1 - floor) * progress
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that the config names, of the model's parameters that require gradients.

    Raises:
        TetherError: when it is not available on this machine.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "muon":
        return make_muon(model, rate, betas=config.betas, weight_decay=decay)
    if config.optimizer == "adafactor":
        # PyTorch's default scales each step by the parameter's size: zero convolutions would hardly move.
        return torch.optim.Adafactor(parameters, rate, eps=(None, 1.0), weight_decay=decay)
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
        except ImportError as error:
            raise TetherError("optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes") from error
        return AdamW8bit(parameters, rate, config.betas, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, config.betas, weight_decay=decay, fused=True)


def make_muon(
    model: nn.Module, lr: float, *, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.01
) -> MuonAndAdamW:
    """Muon for every matrix and kernel of a model that is trained, AdamW for vectors and embedding tables."""
    tables = [table for module in model.modules() if isinstance(module, nn.Embedding) for table in module.parameters()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if is_matrix(parameter, tables)]
    others = [parameter for parameter in trained if not is_matrix(parameter, tables)]
    return MuonAndAdamW(matrices, others, lr, betas=betas, weight_decay=weight_decay)


def clip_gradients(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Limits the norm of the gradients that the optimizer's next step uses.

    Args:
        optimizer: a fused one gets a scale, which it divides by while it reads; else the gradients are scaled here.
        parameters: those that the optimizer trains.
        max_norm: the limit; 0 leaves the gradients alone.

    Returns:
        The norm before clipping, a scalar.
    """
    if isinstance(optimizer, MuonAndAdamW):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
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
    """Whether a step may use and free each gradient as soon as it is computed (`backward_and_step`).

    It may if nothing about all of them must be known first: neither their norm, for clipping, nor those of other
    backward passes or processes, nor whether loss scaling has made one of them infinite.

    Args:
        config: the run.
        dtype: the type of the computation, None for float32; the loss is scaled in float16.
        backward_passes: of one step, over all processes.
    """
    return backward_passes == 1 and not config.max_grad_norm and dtype != torch.float16


def backward_and_step(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The backward pass; each parameter is updated, and its gradient freed, as soon as the gradient is computed.

    Args:
        loss: a scalar.
        optimizer: one that steps each parameter independently.
        parameters: those that the optimizer trains, without gradients.

    Returns:
        The norm of all gradients, a scalar.
    """
    squares: list[Tensor] = []
    groups = optimizer.param_groups
    group_of = {parameter: group for group in groups for parameter in group["params"]}

    def update(parameter: Tensor) -> None:
        assert parameter.grad is not None
        squares.append(torch.linalg.vector_norm(parameter.grad.float()).square())
        # With this parameter alone, the optimizer does not search all others for gradients.
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
