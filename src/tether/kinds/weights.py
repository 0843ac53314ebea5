"""What an annotator with weights needs before it runs, and what tells its weights from others."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["hash_of", "needs"]


def needs(detector: str) -> Callable[[], None]:
    """A check that raises a TetherError, which says what to do, when a detector's weights are not there."""

    def check() -> None:
        from tether.detectors import check_installed

        check_installed(detector)

    return check


def hash_of(detector: str) -> Callable[[], str]:
    """A function that hashes the user's own weights of a detector."""

    def hashed() -> str:
        from tether.detectors import hash_own

        return hash_own(detector)

    return hashed
