"""Parquet rows of unexpected types, and a missing pyarrow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.datasets.names import Reading
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


@pytest.mark.parametrize(
    ("image", "condition", "caption"),
    [("image", "guide", "text"), ("original_image", "condtioning_image", "caption"), ("target", "source", "prompt")],
)
def test_usual_names_of_columns_are_known(image: str, condition: str, caption: str, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {image: {"bytes": png(picture(0))}, condition: {"bytes": png(picture(1))}, caption: ["a cat", "a pet"]}
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    sample = open_source(tmp_path)[0]
    assert sample.condition == png(picture(1))
    assert sample.captions == ("a cat", "a pet")


def test_other_columns_are_named_by_the_user_and_never_passed_over(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {"image": {"bytes": png(picture(0))}, "edges": {"bytes": png(picture(1))}, "zh": "\u732b", "id": 3}
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(TetherError, match="--caption-column"):
        open_source(tmp_path)
    with pytest.raises(TetherError, match="edges may hold conditions"):
        open_source(tmp_path, reading=Reading(caption_column="zh"))
    source = open_source(tmp_path, reading=Reading(caption_column="zh", condition_column="edges"))
    assert (source[0].caption, source.conditions_from) == ("\u732b", "column 'edges'")
    assert not open_source(tmp_path, reading=Reading(captions="none", condition_column="none")).has_conditions
