"""A build that is spread by Ray Data has the bytes of one process; `make test-scale` runs what needs Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tether.datasets.build import build_dataset
from tether.datasets.prepare import Prepared
from tether.datasets.source import Rejected
from tether.errors import TetherError
from tether.files.hashing import hash_file

from .conftest import picture, png

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'tether-control[ray]'")

KILLS = """
import os, re, signal, subprocess, sys
from tether.datasets.build import build_dataset

killed = []

def kill_one(done, total):
    if killed:
        return
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    actors = [int(line.split()[0]) for line in listed.splitlines() if re.search("ray::.*_Preparer", line)]
    os.kill(actors[0], signal.SIGKILL)
    killed.append(actors[0])

build_dataset(sys.argv[1], sys.argv[2], "canny", shard_size=16, workers=2, ray=True, on_progress=kill_one)
assert killed
"""


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


def add_broken(folder: Path) -> None:
    """Images that are rejected, one for each way to fail; the last has a name that is not UTF-8."""
    broken = {"torn.png": png(picture(20))[:90], "none.jpg": b"words", "small.png": png(picture(21, 72, 24))}
    broken |= {"mask.png": png(picture(22).convert("1")), "twin.png": png(picture(3)), os.fsdecode(b"\xff.png"): b""}
    for name, data in broken.items():
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("words")


def test_results_survive_the_way_through_arrow() -> None:
    from tether.datasets.spread import from_table, to_table

    odd = os.fsdecode(b"caf\xe9 \x00")
    results = [
        Prepared(odd, b"\x00image", "png", b"condition", "a café", "0" * 64, ("one", "two")),
        Rejected("unreadable", f"cannot read {odd}"),
        Prepared("b", b"", "jpg", b"", "x", "1" * 64),
    ]
    again = list(from_table(to_table(results)))
    assert [one for one in again if isinstance(one, Prepared)] == [results[0], results[2]]
    assert isinstance(again[1], Rejected)
    assert (again[1].reason, again[1].detail) == ("unreadable", f"cannot read {odd}")
    assert list(from_table(to_table([]))) == []


def test_without_ray_it_is_refused_in_a_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tether.datasets.build.find_spec", lambda name: None)
    with pytest.raises(TetherError, match=r"needs Ray and pyarrow: pip install 'tether-control\[ray\]'"):
        build_dataset(photos, tmp_path / "out", "canny", ray=True)


def test_no_actors_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TetherError, match="workers 0"):
        build_dataset(photos, tmp_path / "out", "canny", workers=0, ray=True)


@needs_ray
@pytest.mark.slow
def test_a_spread_build_has_the_bytes_of_one_process_and_goes_on_where_it_was(photos: Path, tmp_path: Path) -> None:
    add_broken(photos)
    build_dataset(photos, tmp_path / "alone", "canny", shard_size=4, workers=0)
    build_dataset(photos, tmp_path / "spread", "canny", shard_size=4, workers=2, ray=True)
    assert hashes(tmp_path / "spread") == hashes(tmp_path / "alone")

    def stop(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(photos, tmp_path / "again", "canny", shard_size=4, workers=0, on_progress=stop)
    build_dataset(photos, tmp_path / "again", "canny", shard_size=4, workers=1, ray=True)
    assert hashes(tmp_path / "again") == hashes(tmp_path / "alone")


@needs_ray
@pytest.mark.slow
def test_a_killed_actor_changes_no_byte(photos: Path, tmp_path: Path) -> None:
    add_broken(photos)
    for k in range(10, 120):
        picture(k, 256, 256).save(photos / f"{k}.png")
        (photos / f"{k}.txt").write_text("words")
    (tmp_path / "kills.py").write_text(KILLS)
    command = [sys.executable, tmp_path / "kills.py", photos, tmp_path / "spread"]
    subprocess.run([str(word) for word in command], check=True, timeout=400)
    build_dataset(photos, tmp_path / "alone", "canny", shard_size=16, workers=0)
    assert hashes(tmp_path / "spread") == hashes(tmp_path / "alone")
