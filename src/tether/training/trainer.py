"""The training loop.

    every step:  feed -> forward -> backward -> check -> clip, update, average -> validate? -> checkpoint?

Everything random about sample n of a run (its image, noise, timestep, dropped prompt) is a function of the seed and n.
`RunState` is therefore all that a run is at any moment, a checkpoint holds it, and a run that was killed ends with the
bits that it would have had.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from tether.base import Base
from tether.control.control import Control
from tether.control.store import NOTES, notes
from tether.errors import TetherError
from tether.training.auxiliary import AuxiliaryLoss, make_auxiliary_losses
from tether.training.average import MovingAverage
from tether.training.batch import Batches, Prefetch
from tether.training.checkpoints import latest_checkpoint, save_checkpoint
from tether.training.config import CONFIG, TrainConfig
from tether.training.convergence import find_convergence
from tether.training.divergence import LossLimit
from tether.training.events import Outcome, Progress, Validation, Validator
from tether.training.objective import ControlObjective, silence_skips
from tether.training.optimizer import learning_rate, make_optimizer
from tether.training.performance.memory import layout, retained_memory
from tether.training.performance.precision import attention_kernel, autocast, resolve_precision
from tether.training.processes import check_sharding, interruption, make_accelerator
from tether.training.state import RunState
from tether.training.step import Sections, Step, StepResult, no_sections
from tether.training.terms import RunTerms

__all__ = ["Trainer", "make_objective"]

logger = logging.getLogger(__name__)


def make_objective(
    base: Base,
    control: Control,
    config: TrainConfig,
    auxiliary: Mapping[str, AuxiliaryLoss] | None = None,
    memory_format: torch.memory_format | None = None,
) -> ControlObjective:
    """The objective of a run; the control is moved to the base's device, both into a memory layout."""
    memory_format = memory_format or layout(base.device, config.optimizer)
    base.unet.to(memory_format=memory_format)  # type: ignore[call-overload]
    control.to(base.device, torch.float32).to(memory_format=memory_format)  # type: ignore[call-overload]
    return ControlObjective(
        base,
        control,
        auxiliary,
        min_snr_gamma=config.min_snr,
        velocity_cap=config.velocity_cap,
        noise_offset=config.noise_offset,
        stratified=config.stratified_timesteps,
        shift=config.timestep_shift,
        only_middle=config.only_middle,
        unlock_decoder=config.unlock_decoder,
    )


class Trainer:
    """Trains a control on a locked base.

    Args:
        base: the base; it is moved to the device and its denoiser's memory layout changed, no value.
        control: what is trained, in place; of any family.
        batches: gives the batch of samples `range(n, n + batch_size)`, always the same one for the same range.
        config: settings; those about the data are for whoever made `batches`.
        validator: called every `validation_every` steps.
        on_progress: called after each step.
        identity: "base" and "data" -> what tells them from others of the same name: resuming a run whose checkpoint
            has another is an error.
        sections: for measuring the sections of a step, see `tether.training.step.Sections`.

    Attributes:
        state: everything that changes while training.
    """

    def __init__(
        self,
        base: Base,
        control: Control,
        batches: Batches,
        config: TrainConfig,
        *,
        validator: Validator | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        identity: Mapping[str, str] | None = None,
        sections: Sections = no_sections,
    ) -> None:
        self.base, self.control, self.config, self.batches = base, control, config, batches
        self.validator, self.on_progress = validator, on_progress
        self.accelerator = make_accelerator(config)
        device, sharded = self.accelerator.device, check_sharding(self.accelerator, config)
        dtype = resolve_precision(config.precision, device)
        if base.device != device:
            base.to(device)
        self._blank = _without_values(control)
        auxiliary = make_auxiliary_losses(config.auxiliary_losses, control, base)
        # Sharded parameters must be contiguous.
        self.objective = make_objective(
            base,
            control,
            config,
            {name: loss for name, (_, loss) in auxiliary.items()},
            torch.contiguous_format if sharded else None,
        )
        # Together, so that an optimizer of sharded parameters gets the shards; unwrapped, as scaling is done here.
        model, wrapped = self.accelerator.prepare(self.objective, make_optimizer(config, self.objective))
        self.state = RunState(
            model,
            wrapped.optimizer,
            torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            LossLimit(config.divergence_factor),
        )
        if config.ema:
            self.state.average = MovingAverage(self.state.parameters, config.ema, config.ema_warmup)
        weights = {name: settings for name, (settings, _) in auxiliary.items()}
        self.take_step = Step(self.state, config, self.accelerator, dtype, weights, sharded=sharded, sections=sections)
        self.terms = RunTerms(config, self.accelerator.num_processes, dict(identity or {}))
        self._saved_step: int | None = None
        self._saved_time = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.config.out / "checkpoints"

    def fit(self) -> Outcome:
        """Trains until all steps are done, until convergence if the config stops there, or until a signal.

        Resumes from the latest whole checkpoint in `out/checkpoints`, if there is one.

        Raises:
            Diverged: when the loss or its gradient is not finite, or the loss has exploded; earlier checkpoints stay.
            TetherError: when a checkpoint cannot be written.
        """
        self.resume()
        if self.accelerator.is_main_process:  # now that nothing forbids it
            self.config.save(self.config.out / CONFIG)
        before = self.objective.locked_fingerprint()
        with self._tracking():
            settings = {key: str(value) for key, value in self.config.model_dump().items()}
            self.accelerator.init_trackers("tether", settings)
        feed = Prefetch(self.batches, self.config.workers)
        try:
            with (
                interruption() as leave,
                retained_memory(self.accelerator.device),
                attention_kernel(self.config.attention),
                self._gradient_checkpointing(),
            ):
                reason = self._loop(feed, leave)
        finally:
            feed.close()
            # The processes are not taken apart yet: the result is still to be gathered.
            with self._tracking():
                for tracker in self.accelerator.trackers:
                    tracker.finish()
            self.accelerator.trackers = []
        after = self.objective.locked_fingerprint()
        if after != before:
            raise TetherError(f"the locked base changed during training ({before} -> {after}): do not use the result")
        state = self.state
        return Outcome(reason, state.step, state.samples, state.curve, state.converged_at, after, state.appeared_at)

    def _loop(self, feed: Prefetch, leave: threading.Event) -> Literal["finished", "converged", "interrupted"]:
        config, state = self.config, self.state
        started, first = time.monotonic(), state.samples
        if state.step == 0 and not state.curve:
            self._validate()
        while state.step < config.steps:
            if state.converged_at is not None and config.after_convergence == "stop":
                return "converged"
            rate = learning_rate(config, state.step)
            done = self.take_step(feed, rate, (leave.is_set(), self._is_late()))
            interrupted, late = done.flags
            # Validate even if interrupted: a resumed run would not, and the curve would lack a point.
            tag = self._validate() if config.validation_every and state.step % config.validation_every == 0 else ""
            self._report(done, rate, (state.samples - first) / (time.monotonic() - started))
            due = late or state.step % config.checkpoint_every == 0 or state.step == config.steps
            if tag or interrupted or due:
                self.save(tag)
            if interrupted and state.step < config.steps:
                return "interrupted"
        return "finished"

    def _is_late(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        return time.monotonic() - self._saved_time > 60 * self.config.checkpoint_minutes

    def _validate(self) -> str:
        """Validates on the main process; returns the tag of the checkpoint, "converged" or ""."""
        state = self.state
        if self.validator is None or not self.config.validation_every:
            return ""
        found: list[Validation | None] = [None]
        with self.result() as control, autocast(self.accelerator.device, self.take_step.dtype):
            if self.accelerator.is_main_process:
                found = [self.validator(state.step, control)]
        (seen,) = broadcast_object_list(found)
        assert seen is not None
        state.curve.append(seen)
        if seen.fidelity is None or seen.without_prompt is None:
            return ""
        with self._tracking():
            self.accelerator.log({"fidelity": seen.fidelity, "without_prompt": seen.without_prompt}, step=state.step)
        return self._judge()

    def _judge(self) -> str:
        """Looks for convergence in the curve of fidelity; returns the tag of the checkpoint."""
        state = self.state
        if state.converged_at is not None:
            return ""
        curve = [(seen.step, seen.fidelity) for seen in state.curve if seen.fidelity is not None]
        verdict = find_convergence([step for step, _ in curve], [fidelity for _, fidelity in curve])
        if verdict.kind == "sudden":
            state.converged_at, state.appeared_at = state.step, verdict.step
            return "converged"
        if state.appeared_at is None:
            state.appeared_at = verdict.step
        return ""

    def _report(self, done: StepResult, rate: float, speed: float) -> None:
        state, config = self.state, self.config
        values = {"loss": done.loss, "learning_rate": rate, "gradient_norm": done.gradient_norm}
        with self._tracking():
            self.accelerator.log(values | dict(done.auxiliary), step=state.step)
        if self.on_progress is not None and self.accelerator.is_main_process:
            self.on_progress(
                Progress(
                    state.step,
                    config.steps,
                    done.loss,
                    rate,
                    done.gradient_norm,
                    speed,
                    (config.steps - state.step) * self.take_step.samples / speed,
                    state.curve[-1] if state.curve else None,
                    state.appeared_at,
                    done.auxiliary,
                )
            )

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        """Inside, trackers may fail to write: the run then goes on without them."""
        try:
            yield
        except OSError as error:
            logger.warning("the trackers cannot write (%s): nothing is logged to them from here on", error)
            self.accelerator.trackers = []

    @contextmanager
    def _gradient_checkpointing(self) -> Iterator[None]:
        """Inside, control and denoiser recompute activations, if the config says so."""
        if not self.config.gradient_checkpointing:
            yield
            return
        set_gradient_checkpointing(self.base, self.control, True)
        try:
            yield
        finally:
            set_gradient_checkpointing(self.base, self.control, False)

    @contextmanager
    def result(self) -> Iterator[Control]:
        """The control as it would be used: the average if there is one, whole, in evaluation mode.

        It shares memory with what is trained where possible: read it, inside the context only. All processes must
        enter it; all but the main one get a control without values.
        """
        with self.state.averaged():
            tensors = self.state.weights("control.")
            control = deepcopy(self._blank)
            if self.accelerator.is_main_process:
                control.load_state_dict(tensors, assign=True)
            if self.config.only_middle:
                silence_skips(control)
            yield control.requires_grad_(False).eval()

    def save(self, tag: str = "") -> None:
        """Writes a checkpoint, unless this step has one.

        Raises:
            TetherError: on every process, when it cannot be written.
        """
        if self._saved_step == self.state.step:
            return
        problem: list[str | None] = [None]
        try:
            checkpoint = self.state.capture(self.terms.to_json())
            checkpoint.control["config.json"] = self.control.saved_config()
            if found := notes(self.control.kind, self.control.sides):
                checkpoint.control[NOTES] = found
            if self.accelerator.is_main_process:
                save_checkpoint(self.checkpoints, checkpoint, keep=self.config.keep_checkpoints, tag=tag)
        except (TetherError, OSError) as error:
            problem = [str(error)]
        problem = broadcast_object_list(problem)
        if problem[0]:
            raise TetherError(problem[0])
        self._saved_step, self._saved_time = self.state.step, time.monotonic()

    def resume(self) -> None:
        """Takes over the latest whole checkpoint, if there is one.

        Raises:
            TetherError: when it belongs to a run with other settings, another base or other data, or when the
                processes do not see the same checkpoints.
        """
        found = latest_checkpoint(self.checkpoints)
        if len(set(gather_object([None if found is None else found.step]))) > 1:
            raise TetherError(f"not every machine sees the checkpoints in {self.checkpoints}: use a shared folder")
        if found is not None:
            self.terms.check_continues(found.state)
            self.state.restore(found, self.accelerator.process_index)
            self._saved_step = self.state.step
            logger.info("resuming from step %d", self.state.step)

    def end(self) -> None:
        """Takes the processes apart; a trainer cannot be used after it.

        DDP's reducer goes first. If it were the last to hold the process group, PyTorch would destroy that under the
        GIL, which a thread of Gloo may be waiting for while it holds the group's lock: a deadlock.
        """
        del self.state, self.take_step
        self.accelerator.free_memory()
        self.accelerator.end_training()


def set_gradient_checkpointing(base: Base, control: Control, enabled: bool) -> None:
    """Switches recomputation of activations on or off, in the denoiser and in a control that supports it."""
    for module in (base.unet, control):
        if enabled:
            module.enable_gradient_checkpointing()
        else:
            module.disable_gradient_checkpointing()


def _without_values(control: Control) -> Control:
    """A copy of a control whose parameters and saved buffers are on "meta", so that it takes no memory."""
    memo = {}
    for tensor in control.state_dict(keep_vars=True).values():
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return deepcopy(control, memo)
