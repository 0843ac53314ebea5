"""Shards are a function of their samples, and give them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.datasets.prepare import Prepared, encode
from tether.datasets.shards import TarReader, caption_of, decode_caption, write_tar
from tether.datasets.source import Rejected
from tether.errors import TetherError

from .conftest import picture


def prepared(number: int) -> Prepared:
    image = encode(picture(number), "png")
    return Prepared(f"key {number}", image, "png", encode(picture(9), "png"), f"caption {number}", f"{number:064d}")


def test_what_is_written_is_read_back_and_always_has_the_same_bytes(tmp_path: Path) -> None:
    samples = [(4, prepared(0)), (7, prepared(1))]
    write_tar(tmp_path / "a.tar", samples)
    write_tar(tmp_path / "b.tar", samples)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    reader = TarReader([tmp_path / "a.tar"])
    assert [member.key for member in reader.members] == ["a/00000004", "a/00000007"]
    for index, (_, one) in enumerate(samples):
        sample = reader.sample(index)
        assert (sample.image, sample.condition, sample.caption) == (one.image, one.condition, one.caption)
        assert reader.meta(index) == {"key": one.key, "content": one.content}


def test_captions_are_utf8_with_or_without_a_mark_and_under_any_usual_key() -> None:
    assert decode_caption("\ufeffcafé".encode()) == decode_caption("café".encode()) == "café"
    with pytest.raises(Rejected, match="its caption is not UTF-8"):
        decode_caption(b"caf\xe9")
    assert caption_of({"prompt": "a cat", "url": "x"}) == "a cat"
    assert caption_of({"text": 3}) == ""


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(TetherError, match="is not an uncompressed tar file"):
        TarReader([tmp_path / "a.tar"])
