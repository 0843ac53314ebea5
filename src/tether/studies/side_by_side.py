"""Runs the parts of a study in several processes, each with a bench of its own on the same folder.

What they train and draw is kept in the folder. The study itself runs afterwards, finds it there, and is left with
measuring and judging. All files that parts share are written atomically, or by one process each.

Signals are the parent's: it asks the processes to stop, and each writes the checkpoint of its training first. So they
are in process groups of their own, which Ctrl-C on a terminal does not reach.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from tether.errors import TetherError
from tether.studies import find_study
from tether.studies.bench import Bench
from tether.studies.study import Budget
from tether.training.processes import interruption

__all__ = ["run_parts"]

SECONDS = 0.5
"""How often the parent looks for signals, and says how much is done."""


@dataclass(frozen=True)
class _Order:
    """What a process needs to do parts: the study's name, what its bench is made of, and its share of the threads."""

    study: str
    out: Path
    budget: Budget
    quick: bool
    base: str
    device: str
    threads: int


@dataclass(frozen=True)
class _Worker:
    """A process, and the pipe through which it gets numbers of parts, and returns None or an error for each."""

    process: SpawnProcess
    pipe: Connection


def run_parts(name: str, bench: Bench, jobs: int) -> None:
    """Runs all parts of a study, `jobs` at once; the first error ends all of them.

    Args:
        name: what `tether.studies.find_study` opens: the processes open it too.
        bench: where the study runs; theirs are the same, each with its share of the threads.
        jobs: processes.

    Raises:
        TetherError: when the study has no parts, or a process died; and as a part that failed, as any other error.
        KeyboardInterrupt: after SIGINT or SIGTERM, when all checkpoints are written. On Windows processes end at once,
            and what they trained goes on from the checkpoints before.
    """
    parts = find_study(name).parts
    if parts is None:
        raise TetherError(f"study {name!r} has no parts that could run side by side")
    count = len(parts(bench))
    jobs = max(1, min(jobs, count))
    threads = max(1, torch.get_num_threads() // jobs)
    order = _Order(name, bench.out, bench.budget, bench.quick, bench.base, bench.device, threads)
    with interruption() as leave, _workers(order, jobs) as workers:
        _hand_out(workers, count, leave, lambda done: bench.on_progress("parts", done, count))
    if leave.is_set():  # a signal while the last part ended
        raise KeyboardInterrupt


@contextmanager
def _workers(order: _Order, count: int) -> Iterator[list[_Worker]]:
    """Some processes. If the block raises, they are asked to stop; a second Ctrl-C kills them."""
    workers: list[_Worker] = []
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    asked = context.Event()
    try:
        for _ in range(count):
            workers.append(_start(context, order, asked))
        yield workers
    except BaseException:
        asked.set()
        for worker in workers:
            worker.process.terminate()
        raise
    finally:
        try:
            for worker in workers:
                worker.pipe.close()  # which ends those that wait
            for worker in workers:
                worker.process.join()
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.kill()
            raise


def _start(context: SpawnContext, order: _Order, asked: Event) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(order, theirs, asked))
    with _ignoring_ctrl_c():  # which the process inherits: it would print a traceback while it imports
        process.start()
    theirs.close()  # so that ours ends with the process
    return _Worker(process, ours)


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _hand_out(workers: list[_Worker], count: int, leave: threading.Event, report: Callable[[int], None]) -> None:
    """Gives each process another part when it is done with one, until all are done."""
    numbers, done = iter(range(count)), 0
    busy: dict[Any, _Worker] = {worker.pipe: worker for worker in workers}
    for worker in workers:
        with _living(leave):
            worker.pipe.send(next(numbers))
    while done < count:
        report(done)
        for pipe in wait(list(busy), SECONDS):
            worker = busy[pipe]
            with _living(leave):
                error = worker.pipe.recv()
            if error is not None:
                raise error
            done += 1
            number = next(numbers, None)
            if number is None:
                del busy[pipe]
                continue
            with _living(leave):
                worker.pipe.send(number)
        if leave.is_set():
            raise KeyboardInterrupt
    report(done)


@contextmanager
def _living(leave: threading.Event) -> Iterator[None]:
    """For a word with a process: says what it means if it has died."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if leave.wait(SECONDS):  # a signal that all processes got
            raise KeyboardInterrupt from None
        raise TetherError(
            "a process of the study died, most likely out of memory: give fewer jobs; the same command continues"
        ) from None


def _work(order: _Order, pipe: Connection, asked: Event) -> None:
    """What a process runs: the parts whose numbers it receives, until there are no more or one fails."""
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a training leaves with its checkpoint, all else here
    threading.Thread(target=_leave_with_parent, args=(asked,), daemon=True).start()
    torch.set_num_threads(order.threads)
    try:
        bench = Bench(order.out, order.budget, quick=order.quick, base=order.base, device=order.device)
        make = find_study(order.study).parts
        parts = [] if make is None else make(bench)
        while (number := _next(pipe)) is not None:
            parts[number]()
            pipe.send(None)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with suppress(OSError):
            pipe.send(_portable(error))


def _next(pipe: Connection) -> int | None:
    """The number of the next part; None if the parent has no more."""
    try:
        return pipe.recv()
    except EOFError:
        return None


def _leave_with_parent(asked: Event) -> None:
    """A killed parent cannot stop its processes. If it has asked them before, a second signal would cut off what the
    first one lets them write."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        if not asked.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def _portable(error: BaseException) -> BaseException:
    """An error as another process can raise it, with the traceback of this one."""
    told = "".join(traceback.format_exception(error))
    try:
        found = pickle.loads(pickle.dumps(error))
    except Exception:  # an error whose arguments are not those of its class
        found = TetherError(str(error)) if isinstance(error, TetherError) else RuntimeError(str(error))
    found.add_note(told)
    return found
