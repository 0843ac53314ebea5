"""A cluster of Ray: one that there is, or one of processes on this machine."""

from __future__ import annotations

import os
import signal
from logging import ERROR
from threading import current_thread, main_thread

from tether.errors import TetherError

__all__ = ["join_cluster", "leave_cluster"]


def join_cluster(cpus: int, objects: int) -> bool:
    """Joins the cluster at `RAY_ADDRESS`; without that variable, makes one of processes on this machine that no other
    machine reaches.

    The processes of a cluster that is made end with the thread that made it. Ray replaces what handles SIGTERM by what
    ends the process three seconds later; from the main thread it is put back.

    Args:
        cpus: of a cluster that is made: so many tasks run at once.
        objects: bytes of its store of objects.

    Returns:
        Whether it was made.

    Raises:
        TetherError: when no cluster answers at `RAY_ADDRESS`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # type: ignore[import-not-found]

    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": ERROR}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            alone = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init(address="local", num_cpus=cpus, object_store_memory=objects, **alone, **quiet)
        return not address
    except ConnectionError:
        raise TetherError(f"no cluster of Ray answers at RAY_ADDRESS={address}: start it, or unset that") from None
    finally:
        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, handler)


def leave_cluster() -> None:
    """Leaves the cluster; one that was made ends."""
    import ray  # type: ignore[import-not-found]

    ray.shutdown()
