"""What is kept on disk comes back, from any process, and damage costs only what is damaged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tether.datasets.latents.store import Store


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all stores."""
    found = Clock()
    monkeypatch.setattr("tether.datasets.latents.store.monotonic", found)
    return found


def test_what_was_put_comes_back_in_another_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.get("a") is None
    store.put("a", {"x": torch.arange(4), "y": torch.zeros(2, 2)})
    store.put("b", {"x": torch.ones(1)})
    for reader in (store, Store(tmp_path / "store")):
        assert len(reader) == 2
        found = reader.get("a")
        assert found is not None
        assert torch.equal(found["x"], torch.arange(4))
        assert torch.equal(found["y"], torch.zeros(2, 2))


def test_what_another_process_puts_meanwhile_is_found_after_a_second(tmp_path: Path, clock: Clock) -> None:
    one, other = Store(tmp_path / "store"), Store(tmp_path / "store")
    for name in "ab":
        assert other.get(name) is None
        one.put(name, {"x": torch.full((3,), ord(name))})
        clock.now += 0.9
        assert other.get(name) is None
        clock.now += 0.1
        found = other.get(name)
        assert found is not None
        assert torch.equal(found["x"], torch.full((3,), ord(name)))


def test_a_record_that_is_being_written_is_found_when_it_is_whole(tmp_path: Path, clock: Clock) -> None:
    writer = Store(tmp_path)
    for name in "ab":
        writer.put(name, {"x": torch.full((100,), ord(name))})
    (path,) = tmp_path.glob("part-*.bin")
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    reader = Store(tmp_path)
    for there, whole in ((10, False), (5, False), (5, False), (0, True)):
        path.write_bytes(data[: len(data) - there])
        clock.now += 1
        assert (reader.get("b") is not None) is whole


def test_a_file_that_did_not_grow_is_not_read_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Store(tmp_path)
    for name in "ab":
        writer.put(name, {"x": torch.ones(100)})
    (path,) = tmp_path.glob("part-*.bin")
    path.write_bytes(path.read_bytes()[:-10])
    reader = Store(tmp_path)
    opened, open_file = [], Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: opened.append(self) or open_file(self, *mode))
    clock.now += 1
    assert reader.get("b") is None
    assert opened == []


def test_a_record_that_was_cut_off_is_missing_and_the_others_are_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in "abc":
        store.put(name, {"x": torch.full((100,), ord(name))})
    (path,) = tmp_path.glob("part-*.bin")
    path.write_bytes(path.read_bytes()[:-10])
    again = Store(tmp_path)
    assert [again.get(name) is None for name in "abc"] == [False, False, True]
    again.put("c", {"x": torch.zeros(1)})
    assert Store(tmp_path).get("c") is not None


def test_a_record_that_was_changed_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a", {"x": torch.arange(100)})
    (path,) = tmp_path.glob("part-*.bin")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Store(tmp_path).get("a") is None


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "below")
    store.put("a", {"x": torch.ones(1)})
    assert store.get("a") is None


def test_a_reserve_of_the_disk_is_left_free_and_what_is_kept_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = 3000
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    store = Store(tmp_path, reserve=2000)
    store.put("a", {"x": torch.ones(1)})
    free = 2000
    store.put("b", {"x": torch.ones(1)})
    store.put("c", {"x": torch.ones(1)})
    assert store.get("a") is not None
    assert store.get("b") is store.get("c") is None
    assert caplog.text.count("what is encoded from now on is not kept") == 1
