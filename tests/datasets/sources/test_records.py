"""JSON records: a bad one costs only its own sample, and none reads files outside its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tether.datasets.source import Rejected
from tether.datasets.sources import open_source

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
