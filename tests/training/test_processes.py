"""Trackers, and leaving on a signal."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tether.errors import TetherError


def test_an_unknown_tracker_is_refused_and_a_missing_one_gives_a_warning(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TetherError, match="unknown tracker 'tensorbord'"):
        tiny.make_trainer(tmp_path, trackers=("tensorbord",))
    tiny.make_trainer(tmp_path, trackers=("swanlab",))
    assert "swanlab is not installed" in caplog.text
