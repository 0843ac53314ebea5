"""The training loop: readable in one sitting.

    every step:  feed -> loss -> backward -> finite? -> clip, update, average -> look? -> checkpoint?

Everything random about sample n of a run (its picture, noise, timestep, dropped prompt) is a function of the seed and
n. What a run is at any moment is therefore: weights, their average, the optimiser's state, the step, and the number of
samples seen. That is what a checkpoint holds, and why a run that was killed ends with the bits it would have had.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from tether.base import Base
from tether.control import ControlNet
from tether.errors import TetherError
from tether.training.batch import Batch, Batches, Prefetch, sample_generators
from tether.training.checkpoints import latest_checkpoint, list_checkpoints, save_checkpoint
from tether.training.config import CONFIG, TrainConfig
from tether.training.convergence import find_convergence
from tether.training.divergence import Diverged, LossLimit, diverged
from tether.training.events import Look, Outcome, Progress, Watcher
from tether.training.interruption import interruption
from tether.training.memory import layout, retained_memory
from tether.training.objective import ControlObjective
from tether.training.optimizer import (
    MovingAverage,
    backward_and_step,
    clip_gradients,
    learning_rate,
    make_optimizer,
    steps_while_backward,
)
from tether.training.precision import resolve_precision
from tether.training.snapshot import capture, restore
from tether.training.state import weights
from tether.training.trackers import installed_trackers

__all__ = ["Trainer", "make_objective"]

logger = logging.getLogger(__name__)

_LEAST_SCALE = 1e-4  # of a loss in float16: below it no gradient was finite for dozens of steps


def make_objective(
    base: Base, control: ControlNet, config: TrainConfig, memory_format: torch.memory_format | None = None
) -> ControlObjective:
    """The objective of a run; base and control are put into a memory layout, the control on the base's device."""
    memory_format = memory_format or layout(base.device)
    base.unet.to(memory_format=memory_format)  # type: ignore[call-overload]
    control.to(base.device, torch.float32).to(memory_format=memory_format)  # type: ignore[call-overload]
    return ControlObjective(
        base,
        control,
        min_snr_gamma=config.min_snr,
        noise_offset=config.noise_offset,
        only_middle=config.only_middle,
        unlock_decoder=config.unlock_decoder,
    )


class Trainer:
    """Trains a control on a locked base.

    Args:
        base: the base; it is moved to the device and its denoiser's memory layout chosen for it, no value changed.
        control: what is trained, in place.
        batches: gives the batch of samples `range(n, n + batch_size)`, always the same one for the same range.
        config: settings; those about the data are for whoever made `batches`.
        watcher: looks every `watch_every` steps.
        on_progress: called after each step.
        identity: what tells the base and the data of a run from others ("base", "data"): going on with a run whose
            checkpoint has another is refused.
    """

    def __init__(
        self,
        base: Base,
        control: ControlNet,
        batches: Batches,
        config: TrainConfig,
        *,
        watcher: Watcher | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.identity = dict(identity or {})
        self.base, self.control, self.config = base, control, config
        self.watcher, self.on_progress, self.batches = watcher, on_progress, batches
        # Whatever `accelerate launch` was told: the type of the computation is the config's, and cast here.
        self.accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision="no",
            log_with=installed_trackers(config.trackers) or None,
            project_dir=config.out / "logs",
        )
        device = self.accelerator.device
        self.dtype = resolve_precision(config.precision, device)
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if self.sharded and not self.accelerator.is_fsdp2:
            raise TetherError("FSDP's first version is not for new runs: use the second (--fsdp_version 2)")
        if self.sharded and self.dtype == torch.float16:
            raise TetherError("fp16 does not train sharded (FSDP): use precision bf16")
        if self.sharded and config.unlock_decoder:
            raise TetherError("a decoder is not unlocked sharded (FSDP): train it with DDP, or leave it locked")
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

        if base.device != device:
            base.to(device)
        # Sharded parameters must lie in memory as they are counted.
        self.objective = make_objective(base, control, config, torch.contiguous_format if self.sharded else None)
        self.checkpointed = [control, base.unet] if config.gradient_checkpointing else []
        optimizer = make_optimizer(config, [p for p in self.objective.parameters() if p.requires_grad])
        # Together, so that an optimiser of sharded parameters gets the shards; unwrapped, as scaling is done here.
        self.model, wrapped = self.accelerator.prepare(self.objective, optimizer)
        self.optimizer: torch.optim.Optimizer = wrapped.optimizer
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.average = MovingAverage(self.parameters, config.ema) if config.ema else None

        self.step, self.samples = 0, 0
        self.curve: list[Look] = []
        self.converged_at: int | None = None
        self.appeared_at: int | None = None
        self.loss_limit = LossLimit(config.explosion)
        self.saved_step: int | None = None
        self.saved_time = time.monotonic()

    @property
    def accumulation(self) -> int:
        """Forward passes a step; more of them after convergence, where the config says so."""
        raised = self.converged_at is not None and self.config.after_convergence == "raise"
        return self.config.gradient_accumulation * (self.config.raise_accumulation if raised else 1)

    @property
    def streams(self) -> bool:
        """Whether each gradient is used and freed as soon as the backward pass has it, so that never all are there."""
        return steps_while_backward(self.config, self.dtype, self.accumulation * self.accelerator.num_processes)

    @property
    def checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    def fit(self) -> Outcome:
        """Trains until all steps are done, convergence where the config stops there, or a signal to leave.

        Goes on from the last whole checkpoint in `out/checkpoints`, where there is one.

        Raises:
            Diverged: when the loss or its gradient is not finite, or the loss has exploded; the checkpoints before
                stay.
            TetherError: when a checkpoint cannot be written.
        """
        self.resume()
        if self.accelerator.is_main_process:  # now that nothing stands against it
            self.config.save(self.config.out / CONFIG)
        before = self.objective.locked_fingerprint()
        self.accelerator.init_trackers("tether", {key: str(value) for key, value in self.config.model_dump().items()})
        for module in self.checkpointed:
            module.enable_gradient_checkpointing()
        feed, started, first = Prefetch(self.batches, self.config.workers), time.monotonic(), self.samples
        try:
            with interruption() as leave, retained_memory(self.accelerator.device):
                reason = self._loop(feed, leave, started, first)
        finally:
            feed.close()
            for module in self.checkpointed:
                module.disable_gradient_checkpointing()
            # The processes are not taken apart yet: the result is still to be gathered.
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers = []
        after = self.objective.locked_fingerprint()
        if after != before:
            raise TetherError(
                f"the locked base has changed while training ({before} -> {after}): do not use the result"
            )
        return Outcome(reason, self.step, self.samples, self.curve, self.converged_at, after, self.appeared_at)

    def end(self) -> None:
        """Takes the processes apart; a trainer cannot be used after it.

        DDP's reducer goes first. Were it the last to hold the process group, PyTorch would destroy that under the
        GIL, which a thread of Gloo may be waiting for with the group's lock in its hands: neither would ever go on.
        """
        del self.model
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _loop(
        self, feed: Prefetch, leave: threading.Event, started: float, first: int
    ) -> Literal["finished", "converged", "interrupted"]:
        config = self.config
        if self.step == 0 and not self.curve:
            self._look()
        while self.step < config.steps:
            if self.converged_at is not None and config.after_convergence == "stop":
                return "converged"
            rate = learning_rate(config, self.step)
            loss, norm, told_to_leave, due = self._train_step(feed, rate, leave)
            # Told to leave, it looks all the same: going on from here it would not, and the curve would lack a point.
            tag = self._look() if config.watch_every and self.step % config.watch_every == 0 else ""
            self._report(loss, rate, norm, (self.samples - first) / (time.monotonic() - started))
            due = due or self.step % config.checkpoint_every == 0 or self.step == config.steps
            if tag or told_to_leave or due:
                self.save(tag)
            if told_to_leave and self.step < config.steps:
                return "interrupted"
        return "finished"

    def _train_step(self, feed: Prefetch, rate: float, leave: threading.Event) -> tuple[float, float, bool, bool]:
        """One update. Returns the mean loss over all processes, the gradients' norm, whether any process was told to
        leave, and whether a checkpoint is due by the clock of any."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        plan = self._plan(self.samples)
        following = self._plan(self.samples + self._samples_a_step)
        losses, names, norm, streams = [], [], 0.0, self.streams
        for index, samples in enumerate(plan):
            batch = feed(samples, [*plan[index + 1 :], *following]).to(self.accelerator.device)
            names += batch.names or [str(number) for number in samples]
            last = index == len(plan) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                each = self._losses(batch, samples)
                if streams:
                    self._check_loss(each.mean().item(), each.detach(), names)
                    norm = self._stream(each.mean())
                    self._check_norm(norm, each.detach(), names)
                else:
                    self.scaler.scale(each.mean() / len(plan)).backward()
            losses.append(each.detach())

        late = time.monotonic() - self.saved_time > 60 * self.config.checkpoint_minutes
        told = torch.tensor([float(leave.is_set()), float(late)], device=self.accelerator.device)
        everywhere = self.accelerator.gather(torch.cat([*losses, told])).view(-1, len(names) + 2)  # type: ignore[union-attr]
        loss = everywhere[:, :-2].mean().item()
        if not streams:
            self._check_loss(loss, torch.cat(losses), names)
            norm = self._update(torch.cat(losses), names)
        if self.average is not None:
            self.average.update(self.step)
        self.step, self.samples = self.step + 1, self.samples + self._samples_a_step
        return loss, norm, bool(everywhere[:, -2].any()), bool(everywhere[:, -1].any())

    def _losses(self, batch: Batch, samples: range) -> Tensor:
        """The loss of each sample, `(B,)`."""
        noise = sample_generators(self.config.seed, samples)
        with self._autocast():
            return self.model(batch.latents, batch.conditions, batch.text_states, noise, batch.added)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.accelerator.device.type, self.dtype) if self.dtype else nullcontext()

    def _stream(self, loss: Tensor) -> float:
        """The backward pass with the updates in it. Returns the gradients' norm."""
        return float(backward_and_step(loss, self.optimizer, self.parameters))

    def _update(self, losses: Tensor, names: list[str]) -> float:
        """Clips and steps. Returns the gradients' norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        limit = self.config.max_grad_norm
        if self.sharded and limit:
            norm = self.accelerator.clip_grad_norm_(self.parameters, limit)
        elif self.scaler.is_enabled():
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit or float("inf"))
        else:
            norm = clip_gradients(self.optimizer, self.parameters, limit)
        self._check_norm(float(norm), losses, names)  # type: ignore[arg-type]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)  # type: ignore[arg-type]

    @property
    def global_batch(self) -> int:
        """Samples a step of all processes together, while the batch is not raised."""
        return self.config.samples_a_step * self.accelerator.num_processes

    @property
    def _samples_a_step(self) -> int:
        return self.config.batch_size * self.accumulation * self.accelerator.num_processes

    def _plan(self, start: int) -> list[range]:
        """The samples of each of this process's forward passes in the step that begins with sample `start`."""
        size, processes = self.config.batch_size, self.accelerator.num_processes
        firsts = (start + (k * processes + self.accelerator.process_index) * size for k in range(self.accumulation))
        return [range(first, first + size) for first in firsts]

    def _check_loss(self, loss: float, losses: Tensor, names: list[str]) -> None:
        """Raises `Diverged` before the weights are touched."""
        problem = self.loss_limit.problem(loss)
        if problem:
            raise self._diverged(problem, losses, names)

    def _check_norm(self, norm: float, losses: Tensor, names: list[str]) -> None:
        """Raises `Diverged` for gradients that are not finite, before anything is saved; a scaler skips those itself.

        A finite loss can have such gradients: where the root of 0 is taken, or a product overflows on its way back.
        """
        vanished = self.scaler.is_enabled() and self.scaler.get_scale() < _LEAST_SCALE
        if vanished or (not math.isfinite(norm) and not self.scaler.is_enabled()):
            raise self._diverged("the loss is finite, its gradient is not", losses, names)

    def _diverged(self, problem: str, losses: Tensor, names: list[str]) -> Diverged:
        return diverged(f"step {self.step + 1}: {problem}", losses, names, list_checkpoints(self.checkpoints))

    def _report(self, loss: float, rate: float, norm: float, speed: float) -> None:
        self.accelerator.log({"loss": loss, "learning_rate": rate, "gradient_norm": norm}, step=self.step)
        if self.on_progress is not None and self.accelerator.is_main_process:
            left = (self.config.steps - self.step) * self._samples_a_step / speed
            look = self.curve[-1] if self.curve else None
            progress = Progress(self.step, self.config.steps, loss, rate, norm, speed, left, look, self.appeared_at)
            self.on_progress(progress)

    def _look(self) -> str:
        """Has the watcher look, on the main process; returns the tag for the checkpoint, "converged" or ""."""
        if self.watcher is None or not self.config.watch_every:
            return ""
        with self.result() as control, self._autocast():
            seen = [self.watcher(self.step, control) if self.accelerator.is_main_process else None]
        look: Look = broadcast_object_list(seen)[0]  # type: ignore[assignment]
        self.curve.append(look)
        if look.obedience is None or look.without_prompt is None:
            return ""
        self.accelerator.log({"obedience": look.obedience, "without_prompt": look.without_prompt}, step=self.step)
        curve = [(seen.step, seen.obedience) for seen in self.curve if seen.obedience is not None]
        verdict = find_convergence([step for step, _ in curve], [obedience for _, obedience in curve])
        if self.converged_at is not None:
            return ""
        if verdict.kind == "sudden":
            self.converged_at, self.appeared_at = self.step, verdict.step
            return "converged"
        if self.appeared_at is None:
            self.appeared_at = verdict.step
        return ""

    @contextmanager
    def result(self) -> Iterator[ControlNet]:
        """The control as it would be used: the average where there is one, whole, in evaluation mode.

        It shares memory with what is trained where it can: read it, inside the context only. All processes must
        enter it; all but the main one get a control without values.
        """
        with self.average.swapped() if self.average else nullcontext():
            prefix = "control."
            tensors = {n.removeprefix(prefix): t for n, t in weights(self.model).items() if n.startswith(prefix)}
            with torch.device("meta"):
                control = type(self.control).from_config(self.control.config)
            if self.accelerator.is_main_process:
                control.load_state_dict(tensors, assign=True)
            yield control.requires_grad_(False).eval()

    def save(self, tag: str = "") -> None:
        """Writes a checkpoint, unless this step has one.

        Raises:
            TetherError: on every process, where it cannot be written.
        """
        if self.saved_step == self.step:
            return
        problem: list[str | None] = [None]
        try:
            checkpoint = capture(self)
            if self.accelerator.is_main_process:
                save_checkpoint(self.checkpoints, checkpoint, keep=self.config.keep_checkpoints, tag=tag)
        except (TetherError, OSError) as error:
            problem = [str(error)]
        problem = broadcast_object_list(problem)
        if problem[0]:
            raise TetherError(problem[0])
        self.saved_step, self.saved_time = self.step, time.monotonic()

    def resume(self) -> None:
        """Takes over the last whole checkpoint, where there is one.

        Raises:
            TetherError: where it belongs to a run with other settings, another base or other data, or where the
                processes do not see the same checkpoints.
        """
        found = latest_checkpoint(self.checkpoints)
        if len(set(gather_object([None if found is None else found.step]))) > 1:
            raise TetherError(f"not every machine sees the checkpoints in {self.checkpoints}: give a folder they share")
        if found is not None:
            restore(self, found)
            logger.info("going on from step %d", self.step)
