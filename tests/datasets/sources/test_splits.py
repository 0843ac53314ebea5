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


HELD_OUT = [
    ("train2017/a.png", "val2017/b.png", "validation"),
    ("train/a.png", "test_unseen/b.png", "test"),
    ("train/a.png", "test-unseen/b.png", "test"),
    ("train/a.png", "holdout/b.png", "test"),
    ("train/a.png", "held-out/b.png", "test"),
    ("train/a.png", "Evaluation/b.png", "validation"),
    ("train_data/train/a.png", "train_data/val/b.png", "validation"),
]


@pytest.mark.parametrize(("trained", "held", "split"), HELD_OUT)
def test_folders_that_begin_like_a_split_are_one(trained: str, held: str, split: str, tmp_path: Path) -> None:
    source = open_source(captioned(tmp_path, [trained, held]))
    assert [source.key(index) for index in range(len(source))] == [trained]
    assert source.left_out == {f"images of the split {split}": 1}


def test_images_of_no_split_beside_several_splits_are_not_trained_on(tmp_path: Path) -> None:
    source = open_source(captioned(tmp_path, ["train/a.png", "val/b.png", "unseen/c.png"]))
    assert [source.key(index) for index in range(len(source))] == ["train/a.png"]
    assert source.left_out == {"images of the split validation": 1, "images of the split none": 1}


@pytest.mark.parametrize("name", ["prompt.json", "metadata.jsonl"])
def test_records_in_the_folder_of_another_split_are_not_read_instead(name: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for folder, number in (("source", 0), ("target", 1)):
            (tmp_path / split / folder).mkdir(parents=True)
            picture(number).save(tmp_path / split / folder / "0.png")
        record = {"source": "source/0.png", "target": "target/0.png", "prompt": split}
        (tmp_path / split / name).write_text(json.dumps(record) + "\n")
    source = open_source(tmp_path)
    assert [sample.caption for sample in source] == ["train"]
    assert source.left_out == {"records of the split test": 1}
    assert open_source(tmp_path, reading=Reading(split="test"))[0].caption == "test"


def test_a_record_whose_key_names_a_split_of_another_name_is_not_trained_on(tmp_path: Path) -> None:
    with (tmp_path / "metadata.jsonl").open("w") as file:
        for k, split in enumerate(("train", "unseen")):
            picture(k).save(tmp_path / f"{k}.png")
            file.write(json.dumps({"file_name": f"{k}.png", "text": split, "split": split}) + "\n")
    assert [sample.caption for sample in open_source(tmp_path)] == ["train"]
    assert open_source(tmp_path, reading=Reading(split="unseen"))[0].caption == "unseen"


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


def test_conditions_of_all_splits_in_one_folder_are_used(tmp_path: Path) -> None:
    images = captioned(tmp_path, ["train/a.png", "val/b.png"])
    (images / "conditioning_images").mkdir()
    for name in "ab":
        picture(9).save(images / "conditioning_images" / f"{name}.png")
    for reading in (Reading(), Reading(condition_folder="conditioning_images")):
        source = open_source(images, reading=reading)
        assert source.has_conditions
        assert [source.key(index) for index in range(len(source))] == ["train/a.png"]


def test_classes_that_begin_like_a_split_are_none(tmp_path: Path) -> None:
    names = ["test_tube/a.png", "train_station/b.png", "valley/c.png"]
    source = open_source(captioned(tmp_path, names))
    assert sorted(source.key(index) for index in range(len(source))) == names
