"""How the threads of a command wait for each other, and how many there are; set before PyTorch reads it.

By default OpenMP's threads spin while they wait. On a machine that does other work too, each then keeps a core from the
thread that it waits for: a command of 15 seconds took a minute and more. Threads that sleep cost nothing measurable on
a quiet machine. The number of threads stays as it is, since it can change single levels of an image; except in a
container that may use fewer cores than it sees.

What the user has set in the environment stays.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from math import ceil
from pathlib import Path

__all__ = ["settle"]

QUOTAS = (
    (Path("/sys/fs/cgroup/cpu.max"), None),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)
"""Where Linux says how much of its cores a container may use: quota and period in one file, or in two."""


def settle(environment: MutableMapping[str, str], cores: int | None = None) -> None:
    """Sets what is not set yet.

    Args:
        environment: `os.environ`.
        cores: that the process sees.
    """
    if "OMP_WAIT_POLICY" not in environment and "GOMP_SPINCOUNT" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    allowed = _allowed()
    if allowed is not None and allowed < (cores or os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(allowed))


def _allowed() -> int | None:
    """The cores that this container may use, at least 1; None without a limit."""
    for file, divisor in QUOTAS:
        try:
            words = file.read_text().split() + ([] if divisor is None else divisor.read_text().split())
            quota, period = (int(word) for word in words[:2])
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            return max(ceil(quota / period), 1)
    return None
