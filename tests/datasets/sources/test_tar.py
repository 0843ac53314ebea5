"""Tar files that are damaged or make false claims."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tether.datasets.source import Rejected
from tether.datasets.sources import open_source

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
