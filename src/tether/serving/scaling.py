"""How many replicas there should be."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["JOBS", "ByQueue"]

JOBS = "jobs"
"""The measure that replicas report: how many jobs wait or run."""


class ByQueue:
    """One replica for each `jobs` jobs that wait or run; a policy of Ray Serve, called in its controller.

    Ray applies the limits, and waits whether it stays so.

    Args:
        jobs: for each replica.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The number of replicas, and no state.

        Args:
            context: `ray.serve.config.AutoscalingContext`. Every replica measures the same queue: the longest counts,
                which is the newest while it grows.
        """
        measured = (context.aggregated_metrics or {}).get("jobs", {})
        if not measured:
            return context.target_num_replicas, {}
        return math.ceil(max(measured.values()) / self._jobs), {}
