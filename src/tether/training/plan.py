"""What a run will take: parameters, memory, time; measured on this machine before anything is written.

    memory = weights of base and control + gradients + optimizer + moving average + activations of one forward pass

Gradients are counted as all of them, or as the largest one if they are used one by one (`backward_and_step`). The
activations are what the backward pass keeps, counted during one real forward pass of the run's size on random numbers;
the time is that of one whole update, without validation. `tether.training.run.dry_run` adds the encoders of a run that
encodes its samples when they are shown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tether.base import Base
from tether.control.conditioning import Conditioning
from tether.control.control import Control
from tether.training.auxiliary import AuxiliaryLoss
from tether.training.batch import Batch, Randomness, batch_generator, sample_generators
from tether.training.config import TrainConfig
from tether.training.inspection import Inspection
from tether.training.objective import ControlObjective
from tether.training.optimizer import backward_and_step, make_optimizer, steps_while_backward
from tether.training.performance.memory import layout, retained_memory
from tether.training.performance.precision import attention_kernel, autocast, resolve_precision
from tether.training.source import resolution_of
from tether.training.trainer import make_objective, set_gradient_checkpointing

__all__ = ["Plan", "measure", "size_of"]


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        trained, locked: parameters that are trained, and those of the base's denoiser that are not.
        steps, samples: optimizer steps, and samples seen in them by one process.
        memory: purpose -> bytes.
        seconds_a_step: time of one update on this machine.
        data: what is known of the data.
    """

    trained: int
    locked: int
    steps: int
    samples: int
    memory: dict[str, int]
    seconds_a_step: float
    data: Inspection | None = None

    @property
    def total_memory(self) -> int:
        """Bytes, in total."""
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return self.steps * self.seconds_a_step


def measure(
    base: Base, control: Control, config: TrainConfig, auxiliary: Mapping[str, AuxiliaryLoss] | None = None
) -> Plan:
    """Runs two updates of the run's size on random numbers, in one process; `control` is changed by them.

    The config's auxiliary losses are left out: they may need the run's data.

    Args:
        base: the base, on its device and in its type.
        control: a control to throw away.
        config: the run.
        auxiliary: losses that need no more than a batch of random numbers; their weights are 1.
    """
    dtype = resolve_precision(config.precision, base.device)
    objective = make_objective(base, control, config, auxiliary)
    optimizer = make_optimizer(config, objective)
    streams = steps_while_backward(config, dtype, config.gradient_accumulation)
    batch = _random_batch(base, control, config).to(base.device, layout(base.device, config.optimizer))
    if config.gradient_checkpointing:
        set_gradient_checkpointing(base, control, True)
    try:
        with retained_memory(base.device), attention_kernel(config.attention):
            # The first update allocates the optimizer's state and warms up; the second is timed.
            activations = _update(objective, optimizer, batch, config, dtype, streams)
            started = time.monotonic()
            _update(objective, optimizer, batch, config, dtype, streams)
            seconds = time.monotonic() - started
    finally:
        if config.gradient_checkpointing:
            set_gradient_checkpointing(base, control, False)
    sizes = [p.numel() for p in objective.parameters() if p.requires_grad]
    trained = sum(sizes)
    states = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    memory = {
        "base": sum(size_of(module) for module in base.modules()),
        "control": size_of(control),
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

    device, samples = batch.latents.device, range(len(batch.latents))
    for _ in range(config.gradient_accumulation):
        randomness: Randomness = sample_generators(config.seed, samples)
        if config.randomness == "batch":
            randomness = batch_generator(config.seed, samples)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(device, dtype):
            losses, extra = objective(batch, randomness)
            total = losses.mean()
            for further in extra.values():
                total = total + further
        if streams:
            backward_and_step(total, optimizer, parameters)
        else:
            total.backward()
    if not streams:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return sum(kept.values())


def _random_batch(base: Base, control: Control, config: TrainConfig) -> Batch:
    size, spec, resolution = config.batch_size, base.denoiser.spec, resolution_of(config, base)
    width, height = resolution.width, resolution.height  # no bucket has a larger area
    random, factor = torch.Generator().manual_seed(config.seed), base.latent_factor
    pooled, extras = None, dict[str, Tensor]()
    if spec.pooled_width is not None:
        pooled = torch.randn(size, spec.pooled_width, generator=random)
    if spec.uses_sizes:
        extras["time_ids"] = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).repeat(size, 1)
    tokens = torch.randn(size, base.text.window, spec.text_width, generator=random)
    return Batch(
        torch.randn(size, spec.latent_channels, height // factor, width // factor, generator=random),
        torch.rand(size, control.condition_channels, height, width, generator=random),
        Conditioning(tokens, pooled, extras),
        kinds=[config.turns[k % len(config.turns)] for k in range(size)] if config.trains_union else (),
    )


def size_of(module: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, without those on "meta"."""
    tensors = [tensor for tensor in (*module.parameters(), *module.buffers()) if not tensor.is_meta]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
