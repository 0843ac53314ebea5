"""Files and folders are written completely or not at all."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tether.errors import TetherError
from tether.files import atomic
from tether.files.atomic import atomic_write, remove_leftovers, write_new, write_text


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with atomic_write(target) as part:
        part.write_text("new")
        assert not target.exists()
        assert part.parent == tmp_path
        assert part.suffix == ".json"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_write(target) as part:
        (part / "deep").mkdir(parents=True)
        (part / "deep" / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["deep"]
    assert (target / "deep" / "new").read_text() == "new"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_with_path_and_reason(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    full = pytest.raises(TetherError, match="model cannot be written: No space left on device")
    with full, atomic_write(target) as part:
        part.mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (target / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    replace = os.replace

    def fails_for_the_new_one(source: Path, destination: Path) -> None:
        if Path(source).name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, destination)

    monkeypatch.setattr(atomic.os, "replace", fails_for_the_new_one)
    with pytest.raises(TetherError, match="model cannot be written: Input/output"), atomic_write(target) as part:
        part.mkdir()
    assert (target / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(TetherError, match="model cannot be written: Is a directory"):
        write_text(tmp_path / "model", "text")
    assert (tmp_path / "model").is_dir()


def test_missing_parents_are_made_on_request_only(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"a\.txt cannot be written: No such file or directory"):
        write_text(tmp_path / "x" / "a.txt", "text")
    with atomic_write(tmp_path / "x" / "y" / "a.txt", parents=True) as part:
        part.write_text("text")
    assert (tmp_path / "x" / "y" / "a.txt").read_text() == "text"


def test_threads_that_write_one_file_never_mix(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: write_text(target, str(k) * 1000), range(10)))
    assert len(set(target.read_text())) == 1
    assert os.listdir(tmp_path) == ["a.txt"]


def test_leftovers_of_killed_processes_go_and_everything_else_stays(tmp_path: Path) -> None:
    for name in (".a.0123abcd.part", ".a.0123abcd.part.png"):
        (tmp_path / name).touch()
    (tmp_path / ".m.89abcdef.part").mkdir()
    kept = [".a.0123abcd.old", ".hidden.part", "a.part", "b.png"]
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == kept


def test_names_as_long_as_the_file_system_allows_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("ü" * 120 + ".txt"), "text")
    write_text(tmp_path / ("." + "x" * 254), "text")
    assert len(os.listdir(tmp_path)) == 2


def test_a_new_file_that_is_not_written_is_named_as_it_would_be(tmp_path: Path) -> None:
    def full(part: Path) -> None:
        with atomic_write(part):
            raise OSError(28, "No space left on device")

    with pytest.raises(TetherError) as caught:
        write_new([tmp_path / "cat.png"], full)
    assert str(caught.value) == f"{tmp_path / 'cat.png'} cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "..", "../inner", "/", ""])
def test_the_working_directory_and_what_contains_it_are_never_replaced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "precious").touch()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(TetherError, match="cannot be written: it is the working directory or contains it"):  # noqa: SIM117
        with atomic_write(name):
            raise AssertionError
    assert os.listdir() == ["precious"]


def test_a_path_may_end_in_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    (tmp_path / "inner" / "old").touch()
    monkeypatch.chdir(tmp_path)
    with atomic_write("inner/deep/..") as part:
        part.mkdir()
        (part / "new").touch()
    assert os.listdir(tmp_path / "inner") == ["new"]


def test_what_is_above_a_link_is_where_the_link_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    (tmp_path / "a.txt").write_text("precious")
    monkeypatch.chdir(tmp_path)
    write_text("link/../a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "precious"
    assert (tmp_path / "far" / "a.txt").read_text() == "text"


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no working directory")
@pytest.mark.parametrize("name", ["a.txt", ".", "x/.."])
def test_a_working_directory_that_was_deleted_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(TetherError, match="cannot be written: No such file or directory"):
        write_text(name, "text")
