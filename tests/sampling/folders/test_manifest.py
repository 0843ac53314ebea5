"""The manifest of a folder of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tether.errors import TetherError
from tether.sampling.folders import MANIFEST, Entry, Manifest

ONE = Entry("b.jpg", "b.png", "drawn", "ab", 7, "a cat", "cd")
TWO = Entry("a.jpg", "a.png", "failed", error="it is empty")


def test_lines_are_added_and_the_last_of_a_picture_counts(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "new")
    manifest.add(ONE)
    manifest.add(TWO)
    assert Manifest(tmp_path / "new").entries == {"b.png": ONE, "a.png": TWO}
    manifest.add(Entry("a.jpg", "a.png", "drawn", "ef"))
    assert Manifest(tmp_path / "new").entries["a.png"].state == "drawn"
    assert len((tmp_path / "new" / MANIFEST).read_text().splitlines()) == 3
    manifest.close()
    lines = (tmp_path / "new" / MANIFEST).read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == ["a.jpg", "b.jpg"]
    assert json.loads(lines[1]) == {
        "input": "b.jpg", "output": "b.png", "state": "drawn", "request": "ab", "seed": 7, "prompt": "a cat",
        "sha256": "cd",
    }  # fmt: skip


def test_half_a_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(ONE.line() + TWO.line()[:20])
    manifest = Manifest(tmp_path)
    assert manifest.entries == {"b.png": ONE}
    manifest.add(TWO)
    (tmp_path / MANIFEST).write_text((tmp_path / MANIFEST).read_text().replace(TWO.line()[:20] + "\n", ""))
    assert Manifest(tmp_path).entries == {"b.png": ONE, "a.png": TWO}


def test_names_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    Manifest(tmp_path).add(Entry(name, name, "drawn"))
    assert list(Manifest(tmp_path).entries) == [name]


@pytest.mark.parametrize(
    "text",
    ["hello\n", "[1]\n", '{"a": 1}\n', '{"input": 1, "output": "b", "state": "drawn"}\n', "\x00\n", "1\n" + "x"],
)
def test_another_programs_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(TetherError, match=r"manifest.jsonl, line 1, is not of a manifest: give another --out"):
        Manifest(tmp_path)


def test_keys_of_later_versions_are_left_out(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(ONE.line().replace("{", '{"later": 1, ', 1))
    assert Manifest(tmp_path).entries == {"b.png": ONE}
