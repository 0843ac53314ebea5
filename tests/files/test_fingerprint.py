"""A model's files are told apart by a sample of their bytes, and found wherever they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tether.files.fingerprint import BLOCK, find_model, fingerprint, named_alike


def write(path: Path, size: int = 3_000_000, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def test_a_file_keeps_its_fingerprint_under_another_name_and_another_has_another(tmp_path: Path) -> None:
    one = write(tmp_path / "one.safetensors")
    renamed = Path(shutil.copy(one, tmp_path / "two.ckpt"))
    assert fingerprint(one) == fingerprint(renamed)
    assert str(fingerprint(one)).startswith("3000000:")
    others = [write(tmp_path / "other", seed=1), write(tmp_path / "longer", 3_000_001)]
    assert len({fingerprint(path) for path in (one, *others)}) == 3


@pytest.mark.parametrize("where", ["first", "last", "middle"])
def test_a_file_that_is_changed_in_a_fiftieth_has_another_fingerprint(where: str, tmp_path: Path) -> None:
    """A finetune changes all tensors."""
    path = write(tmp_path / "a.safetensors")
    before, content = fingerprint(path), bytearray(path.read_bytes())
    length = len(content) // 50
    start = {"first": 0, "last": len(content) - length, "middle": len(content) // 2}[where]
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    assert fingerprint(path) != before


def test_of_a_folder_the_weights_count(tmp_path: Path) -> None:
    write(tmp_path / "base" / "unet" / "a.safetensors")
    write(tmp_path / "base" / "vae" / "b.safetensors", 1000)
    first = fingerprint(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("notes")
    assert fingerprint(tmp_path / "base") == first
    (tmp_path / "base" / "unet" / "a.safetensors").rename(tmp_path / "base" / "unet" / "c.safetensors")
    assert fingerprint(tmp_path / "base") != first


def test_nothing_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "none") is None
    assert fingerprint(tmp_path) is None  # a folder without weights
    (tmp_path / "empty.pt").touch()
    assert fingerprint(tmp_path / "empty.pt") is not None
    assert fingerprint(write(tmp_path / "small", BLOCK // 2)) is not None


def test_models_are_searched_below_a_place_through_links_and_not_in_circles(tmp_path: Path) -> None:
    wanted = str(fingerprint(write(tmp_path / "disk" / "a" / "b" / "model.safetensors")))
    (place := tmp_path / "place").mkdir()
    os.symlink(tmp_path / "disk", place / "linked")
    os.symlink(place, tmp_path / "disk" / "a" / "back")
    found = place / "linked" / "a" / "b" / "model.safetensors"
    assert find_model(wanted, [tmp_path / "none", place]) == found
    assert named_alike("model.safetensors", [place]) == [found]
    assert find_model(wanted.replace(":", "0:", 1), [place]) is None
    assert find_model(str(fingerprint(write(place / ".hidden" / "x.ckpt", 99))), [place]) is None
