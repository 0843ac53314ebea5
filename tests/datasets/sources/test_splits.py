"""Only the training split of a set is read, and what that leaves out is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tether.datasets.names import Reading
from tether.datasets.sources import open_source
from tether.errors import TetherError

from ..conftest import picture, png


def captioned(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
        path.with_suffix(".txt").write_text(name)
    return folder


def test_images_of_other_splits_are_left_out(tmp_path: Path) -> None:
    captioned(tmp_path, ["train/a.png", "train/b.png", "test/c.png", "val/d.png"])
    source = open_source(tmp_path)
    assert [source.key(index) for index in range(len(source))] == ["train/a.png", "train/b.png"]
    assert source.left_out == {"images of the split test": 1, "images of the split validation": 1}
    assert len(open_source(tmp_path, reading=Reading(split="all"))) == 4
    assert open_source(tmp_path, reading=Reading(split="val")).key(0) == "val/d.png"
    with pytest.raises(TetherError, match="no split 'first'"):
        open_source(tmp_path, reading=Reading(split="first"))


def test_a_test_split_is_not_trained_on_where_there_is_no_train_split(tmp_path: Path) -> None:
    captioned(tmp_path, ["a.png", "b.png", "test/c.png"])
    source = open_source(tmp_path)
    assert [source.key(index) for index in range(len(source))] == ["a.png", "b.png"]
    assert source.left_out == {"images of the split test": 1}
    assert open_source(tmp_path, reading=Reading(split="test")).key(0) == "test/c.png"


def test_images_of_which_all_are_held_out_are_all_there_is(tmp_path: Path) -> None:
    captioned(tmp_path, ["test/c.png", "val/d.png"])
    assert len(open_source(tmp_path)) == 2


def test_a_folder_of_trains_is_no_split(tmp_path: Path) -> None:
    captioned(tmp_path, ["train/a.png", "car/b.png"])
    source = open_source(tmp_path)
    assert (len(source), dict(source.left_out)) == (2, {})


def test_rows_of_other_splits_are_left_out_of_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, count in (("train", 3), ("test", 2), ("validation", 1)):
        rows = [{"image": {"bytes": png(picture(k))}, "text": name} for k in range(count)]
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / f"{name}-00000-of-00001.parquet")
    source = open_source(tmp_path)
    assert [sample.caption for sample in source] == ["train"] * 3
    assert source.left_out == {"rows of the split test": 2, "rows of the split validation": 1}


@pytest.mark.parametrize("form", ["files", "folders", "keys"])
def test_records_of_other_splits_are_left_out(form: str, tmp_path: Path) -> None:
    for split, count in (("train", 2), ("test", 1)):
        folder = tmp_path / split if form == "folders" else tmp_path
        folder.mkdir(exist_ok=True)
        lines = []
        for k in range(count):
            picture(k).save(folder / f"{split}-{k}.png")
            lines.append(
                {"file_name": f"{split}-{k}.png", "text": split} | ({"split": split} if form == "keys" else {})
            )
        name = {"files": f"{split}.jsonl", "folders": "metadata.jsonl", "keys": "metadata.jsonl"}[form]
        with (folder / name).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    source = open_source(tmp_path)
    assert [sample.caption for sample in source] == ["train", "train"]
    assert source.left_out == {"records of the split test": 1}
