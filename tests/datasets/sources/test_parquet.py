"""Parquet rows of unexpected types, and a missing pyarrow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.datasets.source import Rejected
from tether.datasets.sources import open_source
from tether.errors import TetherError

from ..conftest import picture, png


def test_rows_of_odd_types_cost_only_their_own_samples(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = png(picture(0))
    rows = [{"image": data, "caption": ["one", "two"]}, {"image": data, "caption": []}, {"image": None, "caption": []}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    parquet.write_table(arrow.table({"image": [[1, 2]], "caption": [3]}), tmp_path / "b.parquet")
    parquet.write_table(arrow.table({"other": [1]}), tmp_path / "c.parquet")
    source = open_source(tmp_path)
    assert [source[index].caption for index in (0, 1)] == ["one", ""]
    for index in (2, 3, 4):
        with pytest.raises(Rejected, match="no image"):
            source[index]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(TetherError, match=r"tether-control\[parquet\]"):
        open_source(tmp_path)
