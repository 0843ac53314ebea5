"""Parquet rows of unexpected types, and a missing pyarrow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.datasets.names import Reading
from tether.datasets.source import Rejected
from tether.datasets.sources import open_source
from tether.datasets.sources.parquet import ParquetSource
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


@pytest.mark.parametrize("path", [None, "own", "x.png"])
def test_several_rows_of_an_image_are_one_sample_with_several_captions(path: str | None, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "image": {"bytes": png(picture(k)), "path": f"{k}.png" if path == "own" else path},
            "conditioning_image": {"bytes": png(picture(10 + condition)), "path": None},
            "text": caption,
        }
        for k, condition, caption in [
            (0, 0, "a cat"),
            (1, 1, "a dog"),
            (0, 0, "a pet"),
            (0, 2, "a cat"),
            (1, 1, "a dog"),
        ]
    ]
    # Row groups of two rows: the captions of an image may be anywhere.
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    source = open_source(tmp_path)
    expected = [("a cat", "a pet"), ("a dog",), ("a cat",), ("a dog",)]  # another condition; another row of the same
    assert [sample.captions for sample in source] == expected
    assert [source.key(index) for index in range(4)] == ["a/0/0", "a/0/1", "a/1/1", "a/2/0"]
    assert source[2].condition == png(picture(12))


def test_images_of_different_paths_are_not_read_to_compare_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": png(picture(k)), "path": f"{k}.png"}, "text": "a cat"} for k in range(3)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    read: list[str] = []
    plain = ParquetSource._read

    def spied(self: ParquetSource, group: int, columns: list[str]) -> object:
        read.extend(columns)
        return plain(self, group, columns)

    monkeypatch.setattr(ParquetSource, "_read", spied)
    assert len(open_source(tmp_path)) == 3
    assert "image" not in read


def test_a_column_of_names_of_maps_is_refused_until_it_is_named(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    picture(1).save(tmp_path / "map.png")
    row = {"image": {"bytes": png(picture(0))}, "text": "a cat", "edge_map": "map.png", "url": "x/a.png"}
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(TetherError, match="edge_map may hold conditions"):
        open_source(tmp_path)
    assert open_source(tmp_path, reading=Reading(condition_column="edge_map"))[0].condition == tmp_path / "map.png"
    with pytest.raises(TetherError, match="does not apply to parquet"):
        open_source(tmp_path, reading=Reading(condition_folder="maps"))
