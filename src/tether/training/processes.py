"""The processes of a run: their accelerator, their trackers, and leaving on a signal."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, LoggerType

from tether.errors import TetherError
from tether.training.config import TrainConfig
from tether.training.performance.precision import resolve_precision

__all__ = ["check_sharding", "installed_trackers", "interruption", "make_accelerator"]

logger = logging.getLogger(__name__)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerator of a run. Whatever `accelerate launch` was given, precision is the config's, and cast by us.

    Raises:
        TetherError: for an unknown tracker.
    """
    # A process whose samples show some of a union's kinds has no gradients of the others: DDP must look for them.
    find = DistributedDataParallelKwargs(find_unused_parameters=config.trains_union)
    return Accelerator(
        cpu=config.device == "cpu",
        mixed_precision="no",
        log_with=installed_trackers(config.trackers) or None,
        project_dir=config.out / "logs",
        kwargs_handlers=[find],
    )


def check_sharding(accelerator: Accelerator, config: TrainConfig) -> bool:
    """Whether parameters are sharded over the processes (FSDP).

    Raises:
        TetherError: when they are, and the config has a setting that sharding does not support.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    if not accelerator.is_fsdp2:
        raise TetherError("FSDP version 1 is not supported: use --fsdp_version 2")
    if resolve_precision(config.precision, accelerator.device) == torch.float16:
        raise TetherError("precision fp16 is not supported with FSDP: use bf16")
    if config.unlock_decoder:
        raise TetherError("unlock_decoder is not supported with FSDP: use DDP, or leave the decoder locked")
    if config.optimizer == "muon":
        raise TetherError("optimizer muon is not supported with FSDP, which splits the matrices: use adamw")
    if config.auxiliary_losses:
        raise TetherError("auxiliary_losses are not supported with FSDP: use DDP")
    return True


def installed_trackers(names: Sequence[str]) -> list[Any]:
    """The named trackers of accelerate that are installed; warns about the others.

    Raises:
        TetherError: for a name that accelerate does not know.
    """
    known = {str(kind) for kind in LoggerType} - {"all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TetherError(f"unknown tracker {unknown[0]!r}: expected one of {', '.join(sorted(known))}")
    installed = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in installed:
            logger.warning("tracker %s is not installed: nothing is logged to it", name)
    return [name for name in names if name in installed]


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal acts as it does outside."""
    leave = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield leave  # only the main thread may install handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def received(number: int, _: Any) -> None:
        leave.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, received)
    try:
        yield leave
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
