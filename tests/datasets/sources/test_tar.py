"""Tar files that are damaged or make false claims."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tether.datasets.names import Reading
from tether.datasets.source import Rejected
from tether.datasets.sources import open_source
from tether.errors import TetherError

from ..conftest import as_tar, picture, pixels, png, triples


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


def test_a_tar_that_is_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    path = as_tar(tmp_path) / "part-0.tar"
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-3]  # the third sample's picture
    path.write_bytes(path.read_bytes()[: last.offset_data + last.size // 2])
    source = open_source(path)
    assert [source[index].caption for index in (0, 1)] == [words for _, _, words in triples()[:2]]
    with pytest.raises(Rejected, match=r"truncated|damaged"):
        source[2]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("image", "condition"),
    [
        ("jpg", "control.png"),
        ("image.png", "hint.png"),
        ("target.png", "source.png"),
        ("PNG", "Conditioning_Image.PNG"),
    ],
)
def test_a_sample_is_named_up_to_the_first_dot(image: str, condition: str, tmp_path: Path) -> None:
    files = {f"a.b/0.{image}": png(picture(0)), f"a.b/0.{condition}": png(picture(1)), "a.b/0.txt": b"a cat"}
    source = open_source(pack(tmp_path / "a.tar", files))
    assert len(source) == 1
    assert source[0].caption == "a cat"
    assert np.array_equal(pixels(source[0].image), np.asarray(picture(0)))
    assert np.array_equal(pixels(source[0].condition), np.asarray(picture(1)))


def test_images_of_unknown_names_are_refused_until_they_are_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"0.png": png(picture(0)), "0.edge.png": png(picture(1)), "0.txt": b"a"})
    with pytest.raises(TetherError, match="edge may hold conditions"):
        open_source(path)
    assert open_source(path, reading=Reading(condition_column="edge")).has_conditions
    assert not open_source(path, reading=Reading(condition_column="none")).has_conditions
    with pytest.raises(TetherError, match="no sample has a condition"):
        open_source(path, reading=Reading(condition_column="depth"))


@pytest.mark.parametrize("name", ["part-0.tar.gz", "part-0.tgz", "part-0.tar"])
def test_a_compressed_tar_gives_the_samples_of_a_plain_one(name: str, tmp_path: Path) -> None:
    plain = as_tar(tmp_path) / "part-0.tar"
    before = [(sample.key, sample.caption) for sample in open_source(plain)]
    packed = tmp_path / "packed" / name
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    source = open_source(packed.parent)
    assert [(sample.key, sample.caption) for sample in source] == before
    assert pickle.loads(pickle.dumps(source))[0].caption == before[0][1]


def test_a_compressed_tar_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress((as_tar(tmp_path) / "part-0.tar").read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TetherError, match="cannot be decompressed"):
        open_source(tmp_path / "a.tar.gz")


def test_a_compressed_tar_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress((as_tar(tmp_path) / "part-0.tar").read_bytes()))
    packed[12:76] = bytes(byte ^ 0xFF for byte in packed[12:76])
    (tmp_path / "a.tar.gz").write_bytes(packed)
    with pytest.raises(TetherError, match=r"a\.tar\.gz cannot be decompressed"):
        open_source(tmp_path / "a.tar.gz")


def test_two_images_of_a_sample_are_told_apart_by_the_user(tmp_path: Path) -> None:
    files = {"0.jpg": png(picture(0)), "0.png": png(picture(1)), "0.txt": b"a cat"}
    path = pack(tmp_path / "a.tar", files)
    with pytest.raises(TetherError, match="--condition-column png"):
        open_source(path)
    source = open_source(path, reading=Reading(image_column="jpg", condition_column="png"))
    assert np.array_equal(pixels(source[0].image), np.asarray(picture(0)))
    assert np.array_equal(pixels(source[0].condition), np.asarray(picture(1)))
    for reading in (Reading(condition_column="PNG"), Reading(image_column="jpg", condition_column="none")):
        assert np.array_equal(pixels(open_source(path, reading=reading)[0].image), np.asarray(picture(0)))
    with pytest.raises(TetherError, match="png may hold conditions"):
        open_source(path, reading=Reading(image_column="jpg"))


def test_captions_in_a_list_are_all_kept(tmp_path: Path) -> None:
    words = json.dumps({"caption": ["a cat", "a pet"]}).encode()
    source = open_source(pack(tmp_path / "a.tar", {"0.png": png(picture(0)), "0.json": words}))
    assert source[0].captions == ("a cat", "a pet")
