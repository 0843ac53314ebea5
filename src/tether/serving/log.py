"""Structured logs: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

__all__ = ["JsonLines", "log", "set_up"]

_LOGGER = logging.getLogger("tether.serving")
_FIELDS = "fields"


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Writes a line: what happened, and what belongs to it.

    Args:
        event: a word for programs: "accepted", "drawn", "failed", ...
        level: of `logging`.
        error: whose traceback is written.
        fields: that JSON has a form for.
    """
    _LOGGER.log(level, event, extra={_FIELDS: fields}, exc_info=error)


class JsonLines(logging.Formatter):
    """{"time": ..., "level": ..., "event": ..., ...}, in ASCII: what a client sent can hold separators of lines, and
    control characters of terminals."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{moment}.{int(record.msecs):03}Z", "level": record.levelname.lower()}
        line |= {"event": record.getMessage()} | getattr(record, _FIELDS, {})
        if record.name != _LOGGER.name:
            line["logger"] = record.name
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(level: str = "info") -> None:
    """Sends the server's log, and that of the HTTP server, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (_LOGGER.name, "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = ([handler] if name != "uvicorn.error" else []), name == "uvicorn.error"
        logger.setLevel(level.upper())
