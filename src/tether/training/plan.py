"""What a run will take: parameters, memory, time; measured on this machine before anything is written.

    memory = weights of base and control + gradients + optimiser + moving average + activations of one forward pass

Gradients count as all of them, or as the largest one where they are used one by one (`backward_and_step`). The
activations are what the backward pass keeps, counted while one real forward pass of the run's size runs on random
numbers; the time is that of one whole update, and leaves out the looks at the validation pictures.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tether.base import Base
from tether.base.text import text_window
from tether.control import ControlNet
from tether.training.batch import Batch, sample_generators
from tether.training.config import TrainConfig
from tether.training.memory import retained_memory
from tether.training.objective import ControlObjective
from tether.training.optimizer import backward_and_step, make_optimizer, steps_while_backward
from tether.training.precision import resolve_precision
from tether.training.trainer import make_objective

__all__ = ["Plan", "measure"]


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        trained, locked: parameters that are trained, and those of the base's denoiser that are not.
        steps, samples: optimiser steps, and samples seen in them by one process.
        memory: bytes by what they are for.
        seconds_a_step: one update on this machine.
    """

    trained: int
    locked: int
    steps: int
    samples: int
    memory: dict[str, int]
    seconds_a_step: float

    @property
    def total_memory(self) -> int:
        """Bytes, all together."""
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        """All steps."""
        return self.steps * self.seconds_a_step


def measure(base: Base, control: ControlNet, config: TrainConfig) -> Plan:
    """Runs two updates of the run's size on random numbers, in one process; `control` is changed by them.

    Args:
        base: the base, on the device and of the type it will have.
        control: a control to throw away.
        config: the run.
    """
    device = base.device
    dtype = resolve_precision(config.precision, device)
    objective = make_objective(base, control, config)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = make_optimizer(config, parameters)
    streams = steps_while_backward(config, dtype, config.gradient_accumulation)
    batch = _random_batch(base, control, config).to(device)
    if config.gradient_checkpointing:
        control.enable_gradient_checkpointing()
        base.unet.enable_gradient_checkpointing()
    try:
        with retained_memory(device):
            # The first update allocates the optimiser's state and warms up; the second is timed.
            activations = _update(objective, optimizer, batch, config, dtype, streams)
            started = time.monotonic()
            _update(objective, optimizer, batch, config, dtype, streams)
            seconds = time.monotonic() - started
    finally:
        if config.gradient_checkpointing:
            control.disable_gradient_checkpointing()
            base.unet.disable_gradient_checkpointing()
    sizes = [p.numel() for p in parameters]
    trained = sum(sizes)
    states = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    memory = {
        "base": sum(_bytes(module) for module in base.modules()),
        "control": _bytes(control),
        "gradients": 4 * (max(sizes) if streams else trained),
        "optimizer": sum(state.numel() * state.element_size() for state in states),
        "average": 4 * trained if config.ema else 0,
        "activations": activations,
    }
    locked = sum(p.numel() for p in base.unet.parameters() if not p.requires_grad)
    samples = config.steps * config.samples_a_step
    return Plan(trained, locked, config.steps, samples, memory, seconds)


def _update(
    objective: ControlObjective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    dtype: torch.dtype | None,
    streams: bool,
) -> int:
    """One update; returns the bytes that one forward pass keeps for its backward pass, parameters left out."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    weights = {p.untyped_storage().data_ptr() for p in (*objective.parameters(), *objective.base.unet.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = batch.latents.device
    for _ in range(config.gradient_accumulation):
        generators = sample_generators(config.seed, range(len(batch.latents)))
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast(device.type, dtype) if dtype else nullcontext(),
        ):
            losses = objective(batch.latents, batch.conditions, batch.text_states, generators, batch.added)
        if streams:
            backward_and_step(losses.mean(), optimizer, parameters)
        else:
            losses.mean().backward()
    if not streams:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return sum(kept.values())


def _random_batch(base: Base, control: ControlNet, config: TrainConfig) -> Batch:
    size, side = config.batch_size, config.resolution or base.sample_size
    unet, small = base.unet.config, (config.resolution or base.sample_size) // base.latent_factor
    width = unet["encoder_hid_dim"] or unet["cross_attention_dim"]
    random = torch.Generator().manual_seed(config.seed)
    added: dict[str, Tensor] = {}
    if unet["addition_embed_type"] == "text_time":
        pooled = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
        added["text_embeds"] = torch.randn(size, pooled, generator=random)
        added["time_ids"] = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32).repeat(size, 1)
    return Batch(
        torch.randn(size, unet["in_channels"], small, small, generator=random),
        torch.rand(size, control.config["conditioning_channels"], side, side, generator=random),
        torch.randn(size, text_window(base.tokenizer, base.text_encoder), width, generator=random),
        added=added,
    )


def _bytes(module: nn.Module) -> int:
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if not tensor.is_meta]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
