"""The one family of errors that Tether raises for a person to read."""

from __future__ import annotations

__all__ = ["TetherError"]


class TetherError(Exception):
    """One line: what was wrong, what was expected, what to do. The command line prints it and exits 2."""
