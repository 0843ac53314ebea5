"""Leaving when told to: Ctrl-C and SIGTERM end a run after the step that is running, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["interruption"]


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. A second signal acts as it always does."""
    leave = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield leave  # only the main thread may listen
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, _: Any) -> None:
        leave.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, told)
    try:
        yield leave
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
