"""What is drawn of a folder: names, prompts, seeds."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tether.errors import TetherError
from tether.sampling import ControlRequest, Request
from tether.sampling.folders import EMPTY, Task, list_tasks, seed_of


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def tasks(path: Path, *, seed: int = 0, count: int = 1, **given: Any) -> dict[str, Task]:
    request = Request(prompt="", seed=seed, count=count, controls=[ControlRequest(ref="canny", photo=EMPTY)])
    return {task.output: task for task in list_tasks({0: path}, request, **{"prompt": "a cat"} | given)}


def test_a_seed_is_the_hash_of_the_name() -> None:
    digest = hashlib.sha256(b"7/sub/a.png").digest()
    assert seed_of("sub/a.png", 7) == int.from_bytes(digest[:4], "big")
    assert seed_of("sub/a.png", 8) != seed_of("sub/a.png", 7)
    composed, apart = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")
    assert composed != apart
    assert seed_of(composed, 0) == seed_of(apart, 0)
    assert seed_of(b"caf\xe9.png".decode(errors="surrogateescape"), 0) >= 0


def test_a_picture_keeps_its_name_and_its_seed_when_others_come(tmp_path: Path) -> None:
    folder(tmp_path, "b.png", "sub/b.jpg")
    before = tasks(tmp_path)
    assert list(before) == ["b.png", "sub/b.png"]
    folder(tmp_path, "a.png", "sub/a.png")
    after = tasks(tmp_path)
    assert {name: after[name] for name in before} == before
    assert before["sub/b.png"].files == {0: tmp_path / "sub/b.jpg"}


def test_images_with_one_name_keep_their_suffix_and_no_two_pictures_have_one_name(tmp_path: Path) -> None:
    folder(tmp_path, "a.jpg", "a.png", "A.webp", "b.jpg", "a.jpg.gif", "b-1.jpg")
    for count in (1, 2):
        request = Request(prompt="", count=count, controls=[ControlRequest(ref="canny", photo=EMPTY)])
        found = list_tasks({0: tmp_path}, request, prompt="")
        assert len({task.output for task in found}) == len(found) == 6 * count
    assert set(tasks(tmp_path)) == {"a.jpg.png", "a.png.png", "A.webp.png", "b.png", "a.jpg.gif.png", "b-1.png"}


def test_the_pictures_of_an_image_have_seeds_one_after_the_other(tmp_path: Path) -> None:
    found = tasks(folder(tmp_path, "a.png"), count=3, seed=5)
    assert [(name, task.seed - seed_of("a.png", 5)) for name, task in found.items()] == [
        ("a-1.png", 0), ("a-2.png", 1), ("a-3.png", 2),
    ]  # fmt: skip


def test_prompts_come_from_captions_or_from_a_file_by_name(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "b.png", "sub/c.png")
    (tmp_path / "a.txt").write_text("\ufeffa red\n house \n", encoding="utf-8")
    (tmp_path / "sub/c.txt").write_bytes(b"\xff\xfe\xfa")
    captions = tasks(tmp_path, prompt=None)
    assert captions["a.png"].prompt == "a red house"
    assert captions["b.png"].fault == "it has no prompt: give one, or write b.txt beside it"
    assert "c.txt cannot be read as text" in (captions["sub/c.png"].fault or "")
    assert {task.prompt for task in tasks(tmp_path).values()} == {"a cat"}
    named = tasks(tmp_path, prompt=None, prompts={"a.png": "one", "sub/c": "two"})
    assert [task.prompt for task in named.values()] == ["one", "", "two"]
    assert named["b.png"].fault == "the file of prompts does not name it"


def test_a_second_folder_has_an_image_of_the_same_name_each(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", "a.jpg", "b.jpg", "sub/c.jpg")
    depths = folder(tmp_path / "depths", "a.png", "a.jpg", "sub/c.png")
    control = ControlRequest(ref="canny", photo=EMPTY)
    first, second, third = list_tasks({0: photos, 2: depths}, Request(prompt="", controls=[control] * 3), prompt="")
    assert first.files == {0: photos / "a.jpg", 2: depths / "a.jpg"}
    assert second.fault == f"{depths} has no image for it"
    assert third.files[2] == depths / "sub/c.png"


def test_results_inside_the_folder_are_no_images_and_an_empty_folder_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "drawn/a.png")
    assert list(tasks(tmp_path, out=tmp_path / "drawn")) == ["a.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(TetherError, match=r"none has no image: expected \.png"):
        tasks(tmp_path / "none")
    assert Image.new("RGB", (64, 64), (128, 128, 128)).tobytes() == EMPTY.tobytes()
