"""JSON records: a bad one costs only its own sample, and none reads files outside its folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tether.datasets.names import Reading
from tether.datasets.source import Rejected
from tether.datasets.sources import open_source
from tether.errors import TetherError

from ..conftest import as_imagefolder, picture, png


def test_where_a_picture_was_found_is_no_condition(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    record = {"file_name": "a.png", "text": "a cat", "source": "flickr"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(record) + "\n")
    source = open_source(tmp_path)
    assert not source.has_conditions
    assert source[0].condition is None


def test_the_fingerprint_changes_with_a_file_that_a_record_names(tmp_path: Path) -> None:
    folder = as_imagefolder(tmp_path)
    before = open_source(folder).fingerprint()
    assert open_source(folder).fingerprint() == before
    picture(50, 90, 70).save(folder / "train" / "1.png")
    assert open_source(folder).fingerprint() != before


def test_a_bad_line_costs_only_its_own_sample(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    lines = [json.dumps({"file_name": "a.png", "text": "a"}), "{torn", json.dumps(["a.png"]), json.dumps({"text": "b"})]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert source[0].caption == "a"
    for index, told in ((1, "line 2"), (2, "line 3"), (3, "no 'file_name'")):
        with pytest.raises(Rejected, match=told):
            source[index]


def test_a_name_that_is_no_text_costs_only_its_own_sample(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = [json.dumps({"file_name": name, "text": "x"}) for name in ("a.png", "\ud83d.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert len(source) == 2
    assert source.fingerprint() == open_source(tmp_path).fingerprint()


def test_ends_of_lines_within_a_caption_end_no_record(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    words = "one\u2028two\x85three"
    line = json.dumps({"file_name": "a.png", "text": words}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(f"{line}\r\n{line}\n", encoding="utf-8", newline="")
    assert [sample.caption for sample in open_source(tmp_path)] == [words, words]


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "a/../../secret.png", "a\0.png"])
@pytest.mark.parametrize("key", ["file_name", "conditioning_image"])
def test_a_record_cannot_name_files_elsewhere(name: str, key: str, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "secret.png")
    (tmp_path / "in").mkdir()
    picture(0).save(tmp_path / "in" / "a.png")
    record = {"file_name": "a.png", "conditioning_image": "a.png", "text": "a", key: name.format(tmp_path)}
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps(record))
    with pytest.raises(Rejected, match="leads out"):
        open_source(tmp_path / "in")[0]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


NAMES = [
    ("metadata.jsonl", "file_name", "conditioning_image", "text"),
    ("metadata.csv", "file_name", "conditioning_image_file_name", "text"),
    ("metadata.jsonl", "image_file_name", "conditioning_image_file_name", "caption"),
    ("metadata.jsonl", "image_path", "control_path", "caption"),
    ("train.jsonl", "image", "guide", "prompt"),
    ("captions.csv", "image", "hint", "captions"),
    ("metadata.jsonl", "target", "source", "prompt"),
]


@pytest.mark.parametrize(("name", "image", "condition", "caption"), NAMES)
def test_usual_names_of_files_and_keys_are_known(
    name: str, image: str, condition: str, caption: str, tmp_path: Path
) -> None:
    rows = []
    for k in range(3):
        picture(k).save(tmp_path / f"{k}.png")
        picture(10 + k).save(tmp_path / f"c{k}.png")
        rows.append({image: f"{k}.png", condition: f"c{k}.png", caption: f"number {k}, a cat"})
    write(tmp_path / name, rows)
    for source in (open_source(tmp_path), open_source(tmp_path / name)):
        assert source.has_conditions
        assert [sample.caption for sample in source] == [f"number {k}, a cat" for k in range(3)]
        assert [Path(str(sample.condition)).name for sample in source] == ["c0.png", "c1.png", "c2.png"]


def test_a_key_that_may_hold_conditions_is_refused_until_it_is_named(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    write(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "edges": "b.png", "text": "a cat"}])
    with pytest.raises(TetherError, match="edges may hold conditions"):
        open_source(tmp_path)
    assert open_source(tmp_path, reading=Reading(condition_column="edges")).has_conditions
    assert not open_source(tmp_path, reading=Reading(condition_column="none")).has_conditions


def test_several_captions_of_an_image_are_one_sample(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    rows = [("a.png", "a cat"), ("b.png", ["a dog", "a pet"]), ("a.png", "a pet")]
    write(tmp_path / "metadata.jsonl", [{"file_name": name, "text": text} for name, text in rows])
    assert [sample.captions for sample in open_source(tmp_path)] == [("a cat", "a pet"), ("a dog", "a pet")]


def test_a_row_with_too_few_columns_costs_only_its_own_sample(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat, grey"\nb.png\n')
    source = open_source(tmp_path)
    assert source[0].caption == "a cat, grey"
    with pytest.raises(Rejected, match="row 3"):
        source[1]


def test_other_ends_of_lines_within_a_caption_end_no_row(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    words = "one\u2028two\x85three"
    (tmp_path / "metadata.csv").write_text(f'file_name,text\na.png,{words}\na.png,"four\nfive"\n', encoding="utf-8")
    assert open_source(tmp_path)[0].captions == (words, "four\nfive")


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat\nb.png,a dog\n')
    with pytest.raises(TetherError, match=r"metadata\.csv is not a table, near its line"):
        open_source(tmp_path)


def test_images_that_no_record_names_are_counted(tmp_path: Path) -> None:
    for k in range(3):
        picture(k).save(tmp_path / f"{k}.png")
    write(tmp_path / "metadata.jsonl", [{"file_name": "1.png", "text": "a cat"}])
    assert open_source(tmp_path).left_out == {"images that no record names": 2}


@pytest.mark.parametrize("image", ["images/{}.png", "{}.png", "images/cats/{}.png"])
def test_a_folder_of_conditions_beside_records_is_refused_until_it_is_named(image: str, tmp_path: Path) -> None:
    map_of = image.replace("images", "control") if "/" in image else f"control/{image}"
    rows = []
    for k in range(3):
        for number, form in ((k, image), (10 + k, map_of)):
            path = tmp_path / form.format(k)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(path)
        rows.append({"file_name": image.format(k), "text": f"number {k}"})
    write(tmp_path / "metadata.jsonl", rows)
    for place in (tmp_path, tmp_path / "metadata.jsonl"):
        with pytest.raises(TetherError, match="control may hold conditions"):
            open_source(place)
        source = open_source(place, reading=Reading(condition_folder="control"))
        assert source.conditions_from == "folder 'control'"
        assert [sample.condition for sample in source] == [tmp_path / map_of.format(k) for k in range(3)]
        assert not open_source(place, reading=Reading(condition_folder="none")).has_conditions
    (tmp_path / map_of.format(1)).unlink()
    before = source.fingerprint()
    source = open_source(tmp_path, reading=Reading(condition_folder="control"))
    assert source.fingerprint() != before
    with pytest.raises(Rejected, match="no image in 'control'"):
        source[1]
    for missing in ("maps", "../maps"):
        with pytest.raises(TetherError, match=f"no folder '{missing}'"):
            open_source(tmp_path, reading=Reading(condition_folder=missing))


def test_a_quoted_word_at_the_beginning_of_a_caption_is_read(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "captions.tsv").write_text('file_name\ttext\na.png\t"Red" dress\n')
    assert open_source(tmp_path)[0].caption == "Red dress"
