"""The log of the server."""

from __future__ import annotations

import json
import logging

from tether.serving.log import JsonLines


def test_an_event_is_one_line_of_ascii_whatever_a_client_sent() -> None:
    path = "/a\u2028b\x85c\x9bd\x1b[0m\ne"
    record = logging.LogRecord("tether.serving", logging.INFO, "", 0, "http", None, None)
    record.fields = {"path": path}
    line = JsonLines().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["path"] == path
