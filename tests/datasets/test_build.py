"""A build leaves out bad samples with their reasons, can be killed at any moment, and always ends in the same bytes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tether.datasets.build import build_dataset, describe_conditions
from tether.datasets.check import check_dataset, open_dataset
from tether.datasets.latents.views import SourceView
from tether.datasets.manifest import read_manifest, write_manifest
from tether.datasets.names import Reading
from tether.datasets.prepare import Preparation
from tether.datasets.sources import open_source
from tether.detectors import use
from tether.errors import TetherError
from tether.files.hashing import hash_file
from tether.kinds import canny
from tether.kinds.canny import edge_map

from .conftest import as_folder, picture, png, triples

KILLED = Path(__file__).with_name("killed.py")


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


def quarantined(out: Path) -> dict[str, tuple[str, str]]:
    lines = (out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["key"]: (line["reason"], line["detail"]) for line in map(json.loads, lines)}


def add(folder: Path, name: str, data: bytes, words: str | bytes = "words") -> None:
    (folder / name).write_bytes(data)
    (folder / name).with_suffix(".txt").write_bytes(words if isinstance(words, bytes) else words.encode())


def test_each_kind_of_bad_sample_is_quarantined_with_its_reason(photos: Path, tmp_path: Path) -> None:
    deep = io.BytesIO()
    Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(deep, "PNG")
    add(photos, "a-torn.png", png(picture(20))[:90])
    add(photos, "b-none.jpg", b"these are words")
    add(photos, "c-small.png", png(picture(21, 72, 24)))
    add(photos, "d-deep.png", deep.getvalue())
    add(photos, "e-mask.png", png(picture(22).convert("1")))
    add(photos, "f-twin.png", png(picture(3)))
    add(photos, "g-silent.png", png(picture(23)), " \n ")
    picture(24).save(photos / "h-alone.png")
    add(photos, "i-latin.png", png(picture(25)), "café".encode("latin-1"))
    manifest = build_dataset(photos, tmp_path / "out", "canny", min_side=32, workers=0)
    found = quarantined(tmp_path / "out")
    assert {key: reason for key, (reason, _) in found.items()} == {
        "a-torn.png": "unreadable",
        "b-none.jpg": "unreadable",
        "c-small.png": "too small",
        "d-deep.png": "wrong mode",
        "e-mask.png": "wrong mode",
        "f-twin.png": "duplicate",
        "g-silent.png": "empty caption",
        "h-alone.png": "empty caption",
        "i-latin.png": "unreadable",
    }
    assert "3.png" in found["f-twin.png"][1]
    assert "UTF-8" in found["i-latin.png"][1]
    assert manifest.samples == 10
    assert manifest.quarantined == {
        "duplicate": 1,
        "empty caption": 2,
        "too small": 1,
        "unreadable": 3,
        "wrong mode": 2,
    }


def test_a_bad_condition_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    as_folder(folder)
    picture(7, 64, 64).save(folder / "0.condition.png")
    (folder / "1.condition.png").write_bytes(b"no picture")
    (folder / "2.condition.png").unlink()
    build_dataset(folder, tmp_path / "out", "anything", workers=0)
    reasons = {key: reason for key, (reason, _) in quarantined(tmp_path / "out").items()}
    assert reasons == {"0.png": "condition size", "1.png": "condition unreadable", "2.png": "condition unreadable"}


def test_names_and_captions_that_are_no_utf8_stop_nothing(photos: Path, tmp_path: Path) -> None:
    """Names of files may be any bytes, and captions that were cut off hold half a character."""
    odd = os.fsdecode(b"caf\xe9.png")
    try:
        add(photos, odd, png(picture(20)))
        add(photos, os.fsdecode(b"\xff.png"), b"no picture")
    except OSError:
        pytest.skip("this file system knows UTF-8 names only")
    (photos / "metadata.jsonl").write_text(
        "".join(
            json.dumps({"file_name": name, "text": "cut off \ud83d"}) + "\n" for name in (odd, os.fsdecode(b"\xff.png"))
        )
    )
    manifest = build_dataset(photos, tmp_path / "out", "canny", workers=0)
    assert manifest.samples == 1
    _, reader = open_dataset(tmp_path / "out")
    assert reader.sample(0).caption == "cut off ?"
    assert str(reader.meta(0)["key"]).endswith(odd)
    assert [reason for reason, _ in quarantined(tmp_path / "out").values()] == ["unreadable"]
    assert check_dataset(tmp_path / "out").faults == ()


def test_an_annotator_that_fails_costs_only_its_own_sample(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
        if tuple(pixels[0, 0]) == bad:
            raise cv2.error("OpenCV stumbled")
        return edge_map(pixels, low, high)

    bad = picture(3).getpixel((0, 0))
    monkeypatch.setattr(canny, "edge_map", some)
    options = {"low": 100, "high": 200}
    assert build_dataset(photos, tmp_path / "out", "canny", options=options, workers=0).samples == 9
    assert quarantined(tmp_path / "out") == {"3.png": ("unreadable", "OpenCV stumbled")}


def test_a_duplicate_is_found_across_shards(photos: Path, tmp_path: Path) -> None:
    add(photos, "z.png", png(picture(0)))
    build_dataset(photos, tmp_path / "out", "canny", shard_size=2, workers=0)
    assert quarantined(tmp_path / "out")["z.png"] == ("duplicate", "the same pixels as 0.png")


def test_the_samples_of_a_dataset_are_those_of_its_source(laid_out: Path, tmp_path: Path) -> None:
    build_dataset(laid_out, tmp_path / "out", "mine", workers=0)
    _, reader = open_dataset(tmp_path / "out")
    for index, (image, condition, words) in enumerate(triples()):
        sample = reader.sample(index)
        assert sample.caption == words
        assert isinstance(sample.image, bytes)
        assert isinstance(sample.condition, bytes)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB")), np.asarray(image))
        shown = Image.open(io.BytesIO(sample.condition)).convert("RGB")
        assert np.array_equal(np.asarray(shown), np.asarray(condition))


def test_a_finished_dataset_is_left_as_it_is(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build_dataset(photos, out, "canny", shard_size=4, workers=0)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert build_dataset(photos, out, "canny", shard_size=4, workers=0) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert sorted(before) == [
        ".source.json",
        "manifest.json",
        "quarantine.jsonl",
        *[f"shard-0000{k}.tar" for k in range(3)],
    ]


def test_what_does_not_fit_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "out", "canny", workers=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "bad").mkdir()
    picture(0).save(tmp_path / "bad" / "a.png")
    cases = [
        (photos, "out", "canny", {"size": 32}, "size 512 instead of 32"),
        (photos, "full", "canny", {}, "not empty"),
        (photos, "file", "canny", {}, "is a file"),
        (photos, "new", "cany", {}, "did you mean canny"),
        (photos, "new", "canny", {"options": {"hue": 1}}, "no option 'hue'"),
        (photos, "new", "canny", {"size": 0}, "at least 8"),
        (photos, "new", "canny", {"shard_size": 0}, "at least 1"),
        (tmp_path / "bad", "new", "canny", {}, "no usable sample"),
        (photos, "photos/new", "canny", {}, "would be read as a source"),
    ]
    for source, out, kind, settings, told in cases:
        with pytest.raises(TetherError, match=told) as caught:
            build_dataset(source, tmp_path / out, kind, workers=0, **settings)
        assert "\n" not in str(caught.value)


def test_progress_ends_with_every_sample(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_dataset(photos, tmp_path / "out", "canny", shard_size=4, workers=0, on_progress=lambda *at: seen.append(at))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_a_build_killed_at_any_moment_goes_on_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    add(photos, "5.png", png(picture(2)))  # a duplicate across shards
    command = [sys.executable, str(KILLED), "build", str(photos), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["unlike"] == []
    # Source's stamp, settings, three shards and their records, quarantine, manifest; before and after each gets its
    # name.
    assert told["moments"] == 2 * (1 + 1 + 3 * 2 + 1 + 1)
    assert len(told["files"]) == 6


PARALLEL = """
import sys
from tether.datasets.build import build_dataset
if __name__ == "__main__":
    build_dataset(sys.argv[1], sys.argv[2], "canny", shard_size=2, workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes as Linux shows them")
def test_workers_change_no_byte_and_die_with_a_killed_parent(photos: Path, tmp_path: Path) -> None:
    for k in range(10, 40):
        add(photos, f"{k}.png", png(picture(k)))
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    out = tmp_path / "out"
    run = subprocess.Popen([sys.executable, str(script), str(photos), str(out)], env=ENVIRONMENT)
    while run.poll() is None and not (out / "shard-00000.tar").exists():
        time.sleep(0.001)
    children = [int(child) for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 60
    while alive := [child for child in children if _runs(child)]:
        assert time.monotonic() < deadline, f"workers {alive} outlived their parent"
        time.sleep(0.05)
    assert not (out / "manifest.json").exists(), "it was finished before it could be killed"
    build_dataset(photos, out, "canny", shard_size=2, workers=2)
    build_dataset(photos, tmp_path / "alone", "canny", shard_size=2, workers=0)
    assert hashes(out) == hashes(tmp_path / "alone")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_going_on_with_other_settings_is_refused(photos: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 5:
            raise Stopped

    with pytest.raises(Stopped):
        build_dataset(photos, tmp_path / "out", "canny", shard_size=4, workers=0, on_progress=stop)
    with pytest.raises(TetherError, match="unfinished run with options None instead of"):
        build_dataset(photos, tmp_path / "out", "canny", options={}, shard_size=4, workers=0)
    with pytest.raises(TetherError, match="unfinished dataset: run the same build again"):
        check_dataset(tmp_path / "out")


def test_a_source_whose_images_were_edited_in_place_is_another_one(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for number in (0, 1):
        picture(number).save(source / f"{number}.bmp")
        (source / f"{number}.txt").write_text("words")
    first, times = build_dataset(source, out, "canny", workers=0), (source / "0.bmp").stat()
    picture(5).save(source / "0.bmp")
    os.utime(source / "0.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))  # as some programs do
    with pytest.raises(TetherError, match=r"changed since \(its images differ\)"):
        build_dataset(source, out, "canny", workers=0)
    picture(0).save(source / "0.bmp")  # at another time, with the same bytes
    assert build_dataset(source, out, "canny", workers=0) == first
    moved = source.rename(tmp_path / "moved")
    assert build_dataset(moved, out, "canny", workers=0) == first


def test_a_dataset_that_records_no_content_stays_valid(photos: Path, tmp_path: Path) -> None:
    manifest = build_dataset(photos, tmp_path / "out", "canny", workers=0)
    source = {key: value for key, value in manifest.settings["source"].items() if key != "content"}
    older = manifest.model_copy(update={"settings": manifest.settings | {"source": source}})
    write_manifest(tmp_path / "out", older)
    assert build_dataset(photos, tmp_path / "out", "canny", workers=0) == older


def test_where_conditions_come_from_and_what_is_left_out_is_recorded(photos: Path, tmp_path: Path) -> None:
    (photos / "x.heic").write_bytes(b"x")
    annotated = build_dataset(photos, tmp_path / "a", "canny", workers=0)
    assert describe_conditions(annotated) == "annotated (canny)"
    assert annotated.left_out == {".heic files, which are not read": 1}
    assert read_manifest(tmp_path / "a") == annotated
    for k in range(10):
        picture(50 + k).save(photos / f"{k}_control.png")
    given = build_dataset(photos, tmp_path / "b", "canny", workers=0)
    assert describe_conditions(given).startswith("given (")
    exact = build_dataset("circles", tmp_path / "c", "canny", count=2, size=64, workers=0)
    assert describe_conditions(exact) == "exact (circles)"


def test_a_dataset_without_captions_is_whole(photos: Path, tmp_path: Path) -> None:
    for path in photos.glob("*.txt"):
        path.unlink()
    reading = Reading(captions="none")
    assert build_dataset(photos, tmp_path / "out", "canny", workers=0, reading=reading).samples == 10
    assert check_dataset(tmp_path / "out").faults == ()


def test_maps_of_another_depth_model_are_another_data_set(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TETHER_DETECTORS", str(tmp_path / "store"))
    monkeypatch.setattr("tether.detectors.depth.nearness", lambda pixels: pixels[..., 0] / 255)
    contents = set()
    for name in ("one", "two"):
        model = tmp_path / name
        model.mkdir()
        (model / "model.safetensors").write_text(name)
        use("depth", str(model))
        contents.add(SourceView(open_source(photos), Preparation("depth")).content)
        if name == "one":
            build_dataset(photos, tmp_path / "data", "depth", workers=0)
            build_dataset(photos, tmp_path / "data", "depth", workers=0)
    assert len(contents) == 2
    with pytest.raises(TetherError, match="detector"):
        build_dataset(photos, tmp_path / "data", "depth", workers=0)
    assert build_dataset(photos, tmp_path / "edges", "canny", workers=0).settings.get("detector") is None
