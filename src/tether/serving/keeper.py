"""What keeps a process in step with the others that draw from its store.

It renews the leases of what this process draws, and hears whether those jobs should end; it queues again what a process
drew that has ended; and it tells the hub of the jobs that clients of this process follow and others draw.
"""

from __future__ import annotations

import time
from logging import ERROR
from threading import Event, Thread

from tether.serving.hub import Hub, Live
from tether.serving.log import log
from tether.serving.shared import Seen, SharedJobStore

__all__ = ["Keeper"]

LOOK = 0.25
"""Seconds between two looks."""
AGAIN = 3
"""Renewals of a lease before it would end."""
PREVIEWS = 2
"""`Lease.wanted` of a job whose previews are shown."""


class Keeper(Thread):
    """One thread a process.

    Args:
        store: the jobs.
        hub: hears and tells.
        attempts: how often a job is begun whose drawing ended with the process, before it counts as failed.
    """

    def __init__(self, store: SharedJobStore, hub: Hub, attempts: int) -> None:
        super().__init__(name="tether-keeper", daemon=True)
        self._store, self._hub, self._attempts = store, hub, attempts
        self._closing = Event()
        self._renewed = self._recovered = 0.0
        self._told: dict[str, Live] = {}
        self._seen: dict[str, Seen] = {}

    def stop(self) -> None:
        """Ends the thread, after what this process draws has ended."""
        self._closing.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """The thread."""
        while not self._closing.wait(LOOK):
            try:
                self.look()
            except Exception as error:  # the database is away: leases hold for a while
                log("keeper", level=ERROR, error=error)
                self._closing.wait(1.0)

    def look(self) -> None:
        """Hears and tells once."""
        self._recover()
        self._keep()
        self._watch()

    def _recover(self) -> None:
        """Queues again what no process draws any more."""
        if time.monotonic() - self._recovered < self._store.lease / AGAIN:
            return
        self._recovered = time.monotonic()
        queued, failed = self._store.recover(self._attempts)
        if queued or failed:
            log("recovered", queued=queued, failed=failed)
            self._hub.changed()

    def _keep(self) -> None:
        """Renews the leases of this process, sooner where someone follows a job that went on."""
        drawn = self._hub.running()
        if not drawn:
            return
        orders = self._store.orders(drawn)
        for id in drawn:
            cancelling, wanted = orders.get(id, (True, 0))  # without a lease, others draw it: this process need not
            if cancelling:
                self._hub.cancel(id)
            if wanted >= PREVIEWS:
                self._hub.want_preview(id)
        due = time.monotonic() - self._renewed >= self._store.lease / AGAIN
        if due:
            self._renewed = time.monotonic()
        followed = {id for id, (_, wanted) in orders.items() if wanted}
        told = {id: live for id, live in drawn.items() if due or (id in followed and self._told.get(id) != live)}
        if told:
            self._store.renew(told)
        self._told = {id: live for id, live in (self._told | told).items() if id in drawn}

    def _watch(self) -> None:
        """Tells the hub of jobs that are followed here and drawn elsewhere."""
        followed = self._hub.followed()
        seen = self._store.watch(followed) if followed else {}
        self._hub.see({id: one.live for id, one in seen.items() if one.live is not None and not one.mine})
        for id in followed:
            if self._seen.get(id) != seen.get(id):
                self._hub.wake(id)
        self._seen = seen
