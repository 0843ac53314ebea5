"""Instruments of the benchmarks: a clock of steps, a profile of a trainer's step, the memory of a process."""

from __future__ import annotations

import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WARM_UP = 1  # steps that are not timed: the first allocates


class Enough(Exception):
    """All steps are done."""


class Clock:
    """Times of steps: call it at the end of each. Raises `Enough` after the last.

    Args:
        steps: how many are timed.
        more: how many come after them, untimed.

    Attributes:
        seconds: of each step but the first `WARM_UP`.
        page_faults: of the same steps: how often the system had to provide a page of memory.
    """

    def __init__(self, steps: int, more: int = 0) -> None:
        self.seconds: list[float] = []
        self.page_faults: list[int] = []
        self._steps, self._more, self._seen = steps, more, 0
        self._last = (0.0, 0)

    def __call__(self, *_: object) -> None:
        now = (time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        self._seen += 1
        if WARM_UP < self._seen <= WARM_UP + self._steps:
            self.seconds.append(now[0] - self._last[0])
            self.page_faults.append(now[1] - self._last[1])
        self._last = now
        if self._seen == WARM_UP + self._steps + self._more:
            raise Enough


class Parts:
    """Times the parts of a trainer's step. They cover the step except feeding, noise and the loss.

    It is made before the trainer, whose `sections` is `parts.section`; then `watch` gets the trainer.

    Args:
        steps: how many are timed; the operators are those of the step after them.

    Attributes:
        operators: seconds of a step by kind of operator.
        peak: the process's memory before that step, as the profiler takes some.
    """

    KINDS = (
        ("convolutions", ("convolution", "_slow_conv2d")),
        ("attention", ("attention",)),
        ("matrix products", ("::mm", "::addmm", "::bmm")),
        ("casts and copies", ("::copy_",)),
        ("AdamW", ("adamw",)),
    )
    TIMED = ("backward", "optimizer")
    """Sections that are parts."""

    def __init__(self, steps: int) -> None:
        self.operators: dict[str, float] = {}
        self.peak = 0
        self._steps = steps
        self._started: dict[str, float] = {}
        self._times: dict[str, list[float]] = defaultdict(list)

    def watch(self, trainer: Any) -> None:
        """Times the networks of a `tether.training.Trainer`."""
        for name, module in (
            ("encode", trainer.control.controlnet_cond_embedding),
            ("control forward", trainer.control),
            ("unet forward", trainer.base.unet),
        ):
            module.register_forward_pre_hook(lambda *_, name=name: self._start(name))
            module.register_forward_hook(lambda *_, name=name: self._end(name))

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """The `tether.training.step.Sections` of the trainer."""
        if name == "step":
            done = len(self._times.get("rest", ())) == WARM_UP + self._steps
            with self._profiled() if done else self._timed("rest"):  # the whole; `medians` subtracts its parts
                yield
        elif name in self.TIMED:
            with self._timed(name):
                yield
        else:
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        self._start(name)
        yield
        self._end(name)

    @contextmanager
    def _profiled(self) -> Iterator[None]:
        from torch.profiler import ProfilerActivity, profile

        self.peak = resident("VmHWM")
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            yield
        found: dict[str, float] = defaultdict(float)
        for event in seen.key_averages():
            kind = next((kind for kind, names in self.KINDS if any(name in event.key for name in names)), "others")
            found[kind] += event.self_cpu_time_total / 1e6
        self.operators = dict(found)

    def _start(self, name: str) -> None:
        self._started[name] = time.perf_counter()

    def _end(self, name: str) -> None:
        self._times[name].append(time.perf_counter() - self._started[name])

    def medians(self) -> dict[str, float]:
        """Median seconds of each part, without the first step; the optimizer's are in the backward's unless clipped."""
        found = {name: statistics.median(times[WARM_UP : WARM_UP + self._steps]) for name, times in self._times.items()}
        # The trainer's control is called with a hint that is encoded before: no part is inside another.
        found["rest"] -= sum(seconds for name, seconds in found.items() if name != "rest")
        return found


def resident(name: str, pid: int | str = "self") -> int:
    """Bytes of a process: "VmRSS" now, "VmHWM" at most; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
