"""What an annotator with weights needs before it runs."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["needs"]


def needs(detector: str) -> Callable[[], None]:
    """A check that raises a TetherError, which says what to do, when a detector's weights are not there."""

    def check() -> None:
        from tether.detectors import check_installed

        check_installed(detector)

    return check
