"""Manifests and the records of unfinished runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tether.datasets.build import build_dataset
from tether.datasets.check import check_dataset
from tether.datasets.manifest import Manifest, Parts, ShardRecord, difference, digest, read_manifest, write_manifest
from tether.errors import TetherError


def test_a_manifest_that_was_edited_is_refused(photos: Path, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "out", "canny", workers=0)
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"samples": 10', '"samples": 11', 1))
    with pytest.raises(TetherError, match=r"is damaged or was edited: delete .* and build it again"):
        check_dataset(tmp_path / "out")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"shard")
    manifest = Manifest(settings={"size": 8}, samples=3, shards=(ShardRecord.of(tmp_path / "a.tar", 3),))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.faults(tmp_path) == []


def test_a_folder_without_a_manifest_of_ours_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    assert read_manifest(tmp_path) is None


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    plain = {"settings": {}, "pages": 3}
    (tmp_path / "manifest.json").write_text(f'{{"settings": {{}}, "pages": 3, "sha256": "{digest(plain)}"}}')
    with pytest.raises(TetherError, match="has another format"):
        read_manifest(tmp_path)


def test_records_continue_a_run_with_the_same_settings_only_and_go_with_the_temporary_files(tmp_path: Path) -> None:
    Parts(tmp_path, {"size": 8}).save(0, {"shard": None})
    assert Parts(tmp_path, {"size": 8}).load(0) == {"shard": None}
    assert Parts(tmp_path, {"size": 8}).load(1) is None
    with pytest.raises(
        TetherError, match="contains an unfinished run with size 8 instead of 9: give the same settings"
    ):
        Parts(tmp_path, {"size": 9})
    (tmp_path / ".shard-00000.0123abcd.part.tar").touch()
    Parts.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_difference_names_each_changed_setting() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == "b 2 instead of 3"
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})
