"""Manifests and the records of unfinished runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.datasets.build import build_dataset
from tether.datasets.check import check_dataset
from tether.errors import TetherError


def test_a_manifest_that_was_edited_is_refused(photos: Path, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "out", "canny", workers=0)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"samples": 10', '"samples": 11', 1))
    with pytest.raises(TetherError, match="damaged or was edited"):
        check_dataset(tmp_path / "out")
