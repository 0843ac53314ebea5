"""Every layout gives the same samples; the package's own sets are functions of the number; faults are told in words."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tether.datasets.source import ImageData, Rejected, Sample
from tether.datasets.sources import open_source
from tether.datasets.synthetic.circles import COLORS, draw_circle
from tether.datasets.synthetic.emoji import is_held_out
from tether.errors import TetherError

from .conftest import as_folder, as_imagefolder, as_tar, picture, png, triples


def pixels(value: ImageData | None) -> np.ndarray:
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    assert value is not None
    with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as image:
        return np.asarray(image.convert("RGB"))


def assert_same(one: Sample, other: Sample) -> None:
    assert (one.key, one.caption) == (other.key, other.caption)
    assert np.array_equal(pixels(one.image), pixels(other.image))


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


def test_a_caption_of_the_same_length_makes_it_another_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "a.txt").write_text("a red cat")
    before = open_source(tmp_path).fingerprint()
    (tmp_path / "a.txt").write_text("a tan cat")
    assert open_source(tmp_path).fingerprint() != before


def test_where_a_picture_was_found_is_no_condition(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    record = {"file_name": "a.png", "text": "a cat", "source": "flickr"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(record) + "\n")
    source = open_source(tmp_path)
    assert not source.has_conditions
    assert source[0].condition is None


def test_a_source_is_the_same_in_another_process(laid_out: Path) -> None:
    source = open_source(laid_out)
    first = source[4]
    copy = pickle.loads(pickle.dumps(source))
    assert_same(copy[4], first)


def test_the_fingerprint_changes_with_the_source(tmp_path: Path) -> None:
    folder = as_folder(tmp_path)
    before = open_source(folder).fingerprint()
    (folder / "1.txt").write_text("other words")
    assert open_source(folder).fingerprint() != before


def test_the_fingerprint_changes_with_a_file_that_a_record_names(tmp_path: Path) -> None:
    folder = as_imagefolder(tmp_path)
    before = open_source(folder).fingerprint()
    assert open_source(folder).fingerprint() == before
    picture(50, 90, 70).save(folder / "train" / "1.png")
    assert open_source(folder).fingerprint() != before


def test_an_archive_deeper_down_does_not_hide_pictures(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "old").mkdir(parents=True)
    as_tar(pictures / "old")
    assert open_source(pictures).layout == "webdataset"
    as_folder(pictures)
    assert open_source(pictures).layout == "folder"


@pytest.mark.parametrize("name", ["emoji3d", "scenes", "circles"])
def test_the_packages_own_sets_are_functions_of_the_number(name: str) -> None:
    source = open_source(name, size=64, count=6)
    copy = pickle.loads(pickle.dumps(open_source(name, size=64, count=6)))
    assert len(source) == len(copy) == 6
    assert len({source.key(index) for index in range(6)}) == 6
    for index in (5, 0):
        assert_same(source[index], copy[index])
        assert pixels(source[index].image).shape == (64, 64, 3)
    assert not np.array_equal(pixels(source[0].image), pixels(source[1].image))


def test_held_out_emoji_are_never_in_the_training_set() -> None:
    source = open_source("emoji3d", size=32)
    names = {source.key(index).rpartition("-")[0] for index in range(len(source))}
    assert len(names) > 900
    assert not any(is_held_out(name) for name in names)


def test_scenes_end_before_the_held_out_ones() -> None:
    with pytest.raises(TetherError, match="ask for fewer"):
        open_source("scenes", count=1_000_001)


@pytest.mark.parametrize("number", range(8))
def test_a_circle_has_the_colours_of_its_caption_and_the_outline_of_its_disc(number: int) -> None:
    image, outline, caption = draw_circle(128, np.random.default_rng(number))
    disc, _, ground = caption.removesuffix(" background").partition(" circle with ")
    inside = (image == COLORS[disc]).all(axis=2)
    outside = (image == COLORS[ground]).all(axis=2)
    assert inside.sum() + outside.sum() > 0.95 * inside.size  # the rest is the smooth edge
    line = outline[..., 0] > 0
    # A disc may touch the frame: what lies beyond the frame counts as background.
    beyond = cv2.copyMakeBorder(outside.astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=1)
    ground_near = cv2.dilate(beyond, np.ones((5, 5)))[4:-4, 4:-4]
    near = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5))) & ground_near
    assert line.any()
    assert bool(near[line].all())
    # The outline is closed: a fill from a corner does not reach the disc's middle.
    filled = outline[..., 0].copy()
    middle = np.argwhere(inside).mean(axis=0).round().astype(int)
    corner = next(c for c in itertools.product((0, 127), (0, 127)) if outside[c])
    cv2.floodFill(filled, None, corner[::-1], 128)
    assert filled[tuple(middle)] == 0


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


def test_a_member_that_claims_to_be_huge_costs_only_its_own_sample(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("0.png")
        entry.size = len(data := png(picture(0)))
        archive.addfile(entry, io.BytesIO(data))
    huge = tarfile.TarInfo("1.png")
    huge.size = 2**62
    with path.open("r+b") as file:
        file.seek(512 + -(-len(data) // 512) * 512)
        file.write(huge.tobuf(tarfile.GNU_FORMAT) + b"x" * 100)
        file.truncate()
    source = open_source(path)
    assert np.array_equal(pixels(source[0].image), np.asarray(picture(0)))
    for index in range(1, len(source)):
        with pytest.raises(Rejected, match=r"truncated|damaged"):
            source[index]


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


def test_a_tar_that_is_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    path = as_tar(tmp_path) / "part-0.tar"
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-3]  # the third sample's picture
    path.write_bytes(path.read_bytes()[: last.offset_data + last.size // 2])
    source = open_source(path)
    assert [source[index].caption for index in (0, 1)] == [words for _, _, words in triples()[:2]]
    with pytest.raises(Rejected, match=r"truncated|damaged"):
        source[2]


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


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(TetherError, match=r"tether-control\[parquet\]"):
        open_source(tmp_path)
