"""Connections that do not stay open for clients that have stopped; uvicorn's own limit is for those between two
requests alone.

A request whose body stops is the matter of `tether.serving.guard`; here are headers that do not come, and answers that
are not read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["protocol_with"]


def protocol_with(idle: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol of HTTP that drops a connection on which no request has come after so many seconds, or nothing
    of what waits to be sent was read in so many."""

    class Watched(_Watched):
        seconds = idle

    return Watched


class _Watched(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Looks at its connection every `seconds`: what is as it was then has stopped."""

    seconds: float
    loop: Any  # of both of uvicorn's classes
    transport: Any
    cycle: Any

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._resumed = 0
        self._looking = self.loop.call_later(self.seconds, self._look, None, (0, 0))

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._resumed += 1
        super().resume_writing()

    def _look(self, answered: Any, unread: tuple[int, int]) -> None:
        """Drops the connection if it has stopped.

        Args:
            answered: the request that was the last one, and answered, at the last look.
            unread: what waited to be sent then: bytes, and how often there had been room for more.
        """
        last, waiting = self.cycle, self.cycle is None or self.cycle.response_complete
        now = (self.transport.get_write_buffer_size(), self._resumed)
        if now[0] and now == unread:
            self.transport.abort()
        elif not now[0] and waiting and last is answered:
            self.transport.close()
        else:
            this = last if waiting else self
            self._looking = self.loop.call_later(self.seconds, self._look, this, now)
