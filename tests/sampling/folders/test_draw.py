"""A folder of images in, a folder of pictures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tether.errors import TetherError
from tether.images import fit, read_metadata, save_png
from tether.kinds import annotate
from tether.sampling import Cancelled, ControlRequest, Request, Session
from tether.sampling.folders import EMPTY, MANIFEST, Manifest, draw_folder, list_tasks
from tether.sampling.request import read_request


@pytest.fixture
def control(control_folder: Path) -> str:
    return str(control_folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for k, name in enumerate(("a.png", "b.jpg", "sub/a.png")):
        image = Image.new("RGB", (90, 70), (30, 30, 30))
        image.paste((220, 60, 60), (10 + 10 * k, 20, 60, 50))
        image.save(tmp_path / "photos" / name)
    return tmp_path / "photos"


class Folder:
    """Runs of one folder with one session."""

    def __init__(self, base: Path, control: str, photos: Path) -> None:
        self.session = Session()
        self.photos, self.out = photos, photos.parent / "drawn"
        entry = ControlRequest(ref=control, photo=EMPTY, strength=0.8)
        self.request = Request(prompt="", base=str(base), steps=1, controls=[entry])
        self.started: list[str] = []

    def run(self, prompt: str = "a cube", **options: Any) -> dict[str, str]:
        """Output -> state."""
        self.started = []
        tasks = list_tasks({0: self.photos}, self.request, prompt=prompt)
        on_start = lambda task: self.started.append(task.input)  # noqa: E731
        results = draw_folder(self.session, self.request, tasks, self.out, on_start=on_start, **options)
        return {result.task.output: result.state for result in results}

    def bytes(self) -> dict[str, bytes]:
        files = sorted(path for path in self.out.rglob("*") if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def folder(tiny_folder: Path, control: str, photos: Path) -> Folder:
    return Folder(tiny_folder, control, photos)


ALL = ("a.png", "b.png", "sub/a.png")


def test_each_picture_is_that_of_its_own_request(folder: Folder) -> None:
    assert folder.run() == dict.fromkeys(ALL, "drawn")
    for name, photo in zip(ALL, ("a.png", "b.jpg", "sub/a.png"), strict=True):
        request = read_request(folder.out / name)
        assert (request.prompt, request.count, request.controls[0].strength) == ("a cube", 1, 0.8)
        assert request.controls[0].source == Path(photo).name
        fitted = fit(Image.open(folder.photos / photo).convert("RGB"), 64, 64, "crop")
        assert request.controls[0].conditions[0].tobytes() == annotate("canny", fitted).tobytes()
        (drawn,) = Session().run(request)
        save_png(drawn.image, folder.out / "again.png", drawn.metadata)
        assert (folder.out / "again.png").read_bytes() == (folder.out / name).read_bytes()


def test_what_is_drawn_is_kept_and_what_changed_is_drawn_again(folder: Folder) -> None:
    folder.run()
    first = folder.bytes()
    assert folder.run() == dict.fromkeys(ALL, "kept")
    assert folder.bytes() == first
    Image.new("RGB", (80, 80), "red").save(folder.photos / "b.jpg")
    (folder.out / "sub/a.png").unlink()
    assert folder.run() == {"a.png": "kept", "b.png": "drawn", "sub/a.png": "drawn"}
    second = folder.bytes()
    assert [name for name in first if first[name] != second[name]] == ["b.png", MANIFEST]
    assert folder.run("a ball") == dict.fromkeys(ALL, "drawn")


def test_a_stopped_run_goes_on_and_gives_the_same_files(folder: Folder) -> None:
    folder.run()
    whole = folder.bytes()
    for path in sorted(folder.out.rglob("*.*")):
        path.unlink()
    asked = iter([False, False, True])  # before the first picture, after its step, before the second
    with pytest.raises(Cancelled):
        folder.run(cancel=lambda: next(asked))
    assert list(Manifest(folder.out).entries) == ["a.png"]
    assert folder.run() == {"a.png": "kept", "b.png": "drawn", "sub/a.png": "drawn"}
    assert folder.bytes() == whole


def test_a_picture_that_a_killed_run_did_not_note_is_found(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.run()
    whole = folder.bytes()
    lines = (folder.out / MANIFEST).read_text().splitlines()
    (folder.out / MANIFEST).write_text(lines[0] + "\n" + lines[1][:30])
    monkeypatch.setattr(folder.session, "draw", lambda *_, **__: pytest.fail("it was drawn already"))
    assert folder.run() == {"a.png": "kept", "b.png": "drawn", "sub/a.png": "drawn"}
    assert folder.bytes() == whole


def test_an_image_that_cannot_be_read_fails_alone_and_is_drawn_when_it_is_mended(folder: Folder) -> None:
    folder.run()
    good = (folder.photos / "b.jpg").read_bytes()
    (folder.photos / "b.jpg").write_bytes(good[:200])
    (folder.photos / "c.png").touch()
    assert folder.run("a ball") == {"a.png": "drawn", "b.png": "failed", "c.png": "failed", "sub/a.png": "drawn"}
    entries = Manifest(folder.out).entries
    assert "b.jpg is damaged or cut off" in entries["b.png"].error
    assert "c.png is empty" in entries["c.png"].error
    (folder.photos / "b.jpg").write_bytes(good)
    (folder.photos / "c.png").unlink()
    assert folder.run("a ball") == {"a.png": "kept", "b.png": "drawn", "sub/a.png": "kept"}


def test_files_that_the_manifest_does_not_know_are_not_replaced(folder: Folder) -> None:
    folder.out.mkdir()
    Image.new("RGB", (8, 8)).save(folder.out / "a.png")
    mine = (folder.out / "a.png").read_bytes()
    assert folder.run()["a.png"] == "failed"
    assert "exists, and is not as this manifest has it" in Manifest(folder.out).entries["a.png"].error
    assert (folder.out / "a.png").read_bytes() == mine


def test_a_picture_that_was_edited_fails_and_is_never_replaced(folder: Folder) -> None:
    folder.run()
    drawn = (folder.out / "b.png").read_bytes()
    text = read_metadata(folder.out / "b.png")
    for left in ({}, text):  # by an editor that leaves the metadata, too
        save_png(Image.new("RGB", (64, 64)), folder.out / "b.png", left)
        edited = (folder.out / "b.png").read_bytes()
        for prompt in ("a cube", "a cube", "a ball", "a cube"):
            assert folder.run(prompt)["b.png"] == "failed"
            assert (folder.out / "b.png").read_bytes() == edited
    (folder.out / "b.png").write_bytes(drawn[: len(drawn) // 2])
    assert folder.run()["b.png"] == "failed"
    (folder.out / "b.png").write_bytes(drawn)
    assert folder.run()["b.png"] == "drawn"
    assert folder.run() == dict.fromkeys(ALL, "kept")
    assert (folder.out / "b.png").read_bytes() == drawn


def test_a_request_that_cannot_be_drawn_is_refused_before_anything_is_written(folder: Folder) -> None:
    folder.request = folder.request.model_copy(update={"size": (60, 60)})
    with pytest.raises(TetherError, match="multiples of 8"):
        folder.run()
    assert not folder.out.exists()


def test_maps_of_a_second_folder_and_a_shared_image_go_together(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "maps" / "sub").mkdir(parents=True)
    for k, name in enumerate(("a.png", "sub/a.png")):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[10 + 20 * k] = 255
        Image.fromarray(pixels).save(tmp_path / "maps" / name)
    (entry,) = folder.request.controls
    shared = entry.model_copy(update={"photo": Image.new("L", (9, 9))})
    given = [entry, ControlRequest(ref=entry.ref, condition=EMPTY), shared]
    request = folder.request.model_copy(update={"controls": given})
    tasks = list_tasks({0: folder.photos, 1: tmp_path / "maps"}, request, prompt="x")
    results = {one.task.output: one.state for one in draw_folder(folder.session, request, tasks, folder.out)}
    assert results == {"a.png": "drawn", "b.png": "failed", "sub/a.png": "drawn"}
    drawn = read_request(folder.out / "sub/a.png")
    assert drawn.controls[1].conditions[0].tobytes() == Image.open(tmp_path / "maps/sub/a.png").tobytes()
    assert drawn.controls[2].conditions[0].getextrema() == ((0, 0),) * 3
    assert json.loads((folder.out / MANIFEST).read_text().splitlines()[1])["error"].endswith("maps has no image for it")
