"""A checkpoint is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tether.errors import TetherError
from tether.training.checkpoints import Checkpoint, latest_checkpoint, list_checkpoints, save_checkpoint


def make(step: int) -> Checkpoint:
    tensors = {"model": {"w": torch.full((64,), float(step))}, "optimizer": {"w/step": torch.tensor(float(step))}}
    return Checkpoint(step, tensors, {"samples": 4 * step, "curve": [[1, 0.5]]})


def save(folder: Path, *steps: int, keep: int = 9) -> list[Path]:
    return [save_checkpoint(folder, make(step), keep=keep) for step in steps]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    save(tmp_path, 3)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.state) == (3, {"samples": 12, "curve": [[1, 0.5]]})
    assert torch.equal(found.tensors["model"]["w"], torch.full((64,), 3.0))
    assert found.tensors["optimizer"]["w/step"].item() == 3


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "not there") is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "a bit turned"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "step-00000002" in caplog.text


def test_a_manifest_without_the_model_is_torn(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["model.safetensors"]
    path.write_text(json.dumps(manifest))
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_all_damaged_is_as_none(tmp_path: Path) -> None:
    for path in save(tmp_path, 1, 2):
        (path / "model.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) is None


def test_the_last_ones_and_all_tagged_ones_stay(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=2)
    save_checkpoint(tmp_path, make(2), keep=2, tag="converged")
    save(tmp_path, 3, 4, 5, keep=2)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-00000002-converged", "step-00000004", "step-00000005"]


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TetherError, match=r"No space left on device.*step-00000001"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_file_system_that_refuses_more_bytes_stops_with_one_line_and_the_checkpoint_before(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    save(tmp_path, 1)
    large = make(2)
    large.tensors["model"]["w"] = torch.zeros(1_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(TetherError, match="step-00000001") as caught:
            save_checkpoint(tmp_path, large, keep=9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_process_left_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    save(tmp_path, 1)
    left = tmp_path / ".part-step-00000002-999"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    save(tmp_path, 3)
    assert not left.exists()


def test_a_damaged_later_checkpoint_takes_no_whole_ones_place(tmp_path: Path) -> None:
    (later,) = save(tmp_path, 9)
    (later / "state.json").write_text("{")
    for step in (2, 3):
        save(tmp_path, step, keep=1)
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.step == step
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000009"]


def test_a_step_is_written_anew_over_a_damaged_checkpoint_of_it(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 1)
    (path / "state.json").write_text("{")
    save(tmp_path, 1)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_the_names_order_checkpoints_by_step(tmp_path: Path) -> None:
    save(tmp_path, 9, 100, 20)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000009", "step-00000020", "step-00000100"]
