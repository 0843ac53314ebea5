"""Where a run logs to: accelerate's trackers, by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from tether.errors import TetherError

__all__ = ["installed_trackers"]

logger = logging.getLogger(__name__)


def installed_trackers(names: Sequence[str]) -> list[Any]:
    """Those of accelerate's trackers that are installed; says which are not.

    Raises:
        TetherError: for a name that accelerate does not know.
    """
    known = {str(kind) for kind in LoggerType} - {"all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TetherError(f"unknown tracker {unknown[0]!r}: choose among {', '.join(sorted(known))}")
    installed = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in installed:
            logger.warning("the tracker %s is not installed: nothing is logged there", name)
    return [name for name in names if name in installed]
