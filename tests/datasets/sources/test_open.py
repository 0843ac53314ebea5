"""Every layout gives the same samples, whatever reader its files need."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tether.datasets.sources import open_source
from tether.errors import TetherError

from ..conftest import as_folder, as_tar, assert_same, pixels, triples


def test_every_layout_gives_the_same_samples(laid_out: Path) -> None:
    source = open_source(laid_out)
    assert source.has_conditions
    assert len(source) == len(triples())
    for sample, (image, condition, words) in zip(source, triples(), strict=True):
        assert sample.caption == words
        assert np.array_equal(pixels(sample.image), np.asarray(image))
        assert np.array_equal(pixels(sample.condition), np.asarray(condition))


def test_keys_are_unique_and_stay_the_same_when_opened_again(laid_out: Path) -> None:
    source, again = open_source(laid_out), open_source(laid_out)
    keys = [source.key(index) for index in range(len(source))]
    assert len(set(keys)) == len(keys)
    assert keys == [again[index].key for index in range(len(again))]
    assert source.fingerprint() == again.fingerprint()


def test_a_source_is_the_same_in_another_process(laid_out: Path) -> None:
    source = open_source(laid_out)
    first = source[4]
    copy = pickle.loads(pickle.dumps(source))
    assert_same(copy[4], first)


def test_an_archive_deeper_down_does_not_hide_pictures(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "old").mkdir(parents=True)
    as_tar(pictures / "old")
    assert open_source(pictures).layout == "webdataset"
    as_folder(pictures)
    assert open_source(pictures).layout == "folder"


@pytest.mark.parametrize("stray", ["extra/metadata.jsonl", "backup.tar", "extra/prompt.json"])
def test_captioned_images_are_not_hidden_by_a_stray_file(stray: str, tmp_path: Path) -> None:
    as_folder(tmp_path)
    path = tmp_path / stray
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".tar":
        (as_tar(tmp_path) / "part-0.tar").rename(path)
        (tmp_path / "part-3.tar").unlink()
    else:
        path.write_text('{"file_name": "a.png", "target": "a.png", "text": "a cat"}\n')
    with pytest.raises(TetherError, match=f"has images with captions, and also {stray}"):
        open_source(tmp_path)


def test_hidden_files_are_no_source(tmp_path: Path) -> None:
    as_folder(tmp_path)
    for name in ("._train-0.parquet", "._metadata.jsonl", "._a.tar"):
        (tmp_path / name).write_bytes(b"Mac OS X")
    assert open_source(tmp_path).layout == "folder"


def test_what_is_no_source_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "b.txt").write_text("words")
    cases = {
        "nowhere": "does not exist: give a folder",
        "empty": "contains no samples: expected images",
        "a.tar": "is not an uncompressed tar file",
        "b.txt": "is not a supported source: give a folder",
    }
    for name, told in cases.items():
        with pytest.raises(TetherError, match=told) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(TetherError, match="leave count out"):
        open_source(tmp_path, count=3)
