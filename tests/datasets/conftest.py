"""Small sets of images for tests: made from numbers, in every supported layout."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.datasets.source import ImageData, Sample

CAPTIONS = ["a red apple", "two grey geese", "a house, drawn", "stars & stripes", "a café at night"]
Layout = Callable[[Path], Path]


def picture(number: int, width: int = 72, height: int = 64) -> Image.Image:
    """Colored blocks of 8 pixels: a different image for every number."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def triples() -> list[tuple[Image.Image, Image.Image, str]]:
    """Image, condition and caption of five samples."""
    return [(picture(k), picture(100 + k).convert("L").convert("RGB"), words) for k, words in enumerate(CAPTIONS)]


def as_folder(out: Path) -> Path:
    for k, (image, condition, words) in enumerate(triples()):
        image.save(out / f"{k}.png")
        condition.save(out / f"{k}.condition.png")
        (out / f"{k}.{'txt' if k % 2 else 'caption'}").write_text(words, encoding="utf-8")
    return out


def as_imagefolder(out: Path) -> Path:
    folder = out / "train"
    folder.mkdir()
    lines = []
    for k, (image, condition, words) in enumerate(triples()):
        image.save(folder / f"{k}.png")
        condition.save(folder / f"c{k}.png")
        lines.append({"file_name": f"{k}.png", "text": words, "conditioning_image": f"c{k}.png"})
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return out


def as_fill50k(out: Path) -> Path:
    (out / "source").mkdir()
    (out / "target").mkdir()
    lines = []
    for k, (image, condition, words) in enumerate(triples()):
        image.save(out / "target" / f"{k}.png")
        condition.save(out / "source" / f"{k}.png")
        lines.append({"source": f"source/{k}.png", "target": f"target/{k}.png", "prompt": words})
    (out / "prompt.json").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return out


def as_tar(out: Path) -> Path:
    for start in (0, 3):
        with tarfile.open(out / f"part-{start}.tar", "w") as archive:
            for k, (image, condition, words) in list(enumerate(triples()))[start : start + 3]:
                caption = ("txt", words.encode()) if k % 2 else ("json", json.dumps({"caption": words}).encode())
                for suffix, data in [("png", png(image)), ("condition.png", png(condition)), caption]:
                    entry = tarfile.TarInfo(f"./{k:04d}.{suffix}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    return out


def as_parquet(out: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": png(image), "path": None}, "text": words, "conditioning_image": {"bytes": png(condition)}}
        for image, condition, words in triples()
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), out / "train-00000.parquet", row_group_size=2)
    return out


LAYOUTS: dict[str, Layout] = {
    "folder": as_folder,
    "imagefolder": as_imagefolder,
    "fill50k": as_fill50k,
    "webdataset": as_tar,
    "parquet": as_parquet,
}


def pixels(value: ImageData | None) -> np.ndarray:
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    assert value is not None
    with Image.open(io.BytesIO(value) if isinstance(value, bytes) else value) as image:
        return np.asarray(image.convert("RGB"))


def assert_same(one: Sample, other: Sample) -> None:
    assert (one.key, one.caption) == (other.key, other.caption)
    assert np.array_equal(pixels(one.image), pixels(other.image))


@pytest.fixture(params=sorted(LAYOUTS))
def laid_out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The five samples in one of the layouts."""
    folder = tmp_path / "source"
    folder.mkdir()
    return LAYOUTS[request.param](folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten images with captions and no conditions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(10):
        picture(k).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"picture {k}")
    return folder


@pytest.fixture
def mirrored(tmp_path: Path) -> Path:
    """A folder whose conditions are the images themselves, so that either shows what was done to the other."""
    folder = tmp_path / "mirrored"
    folder.mkdir()
    for k in range(6):
        picture(k, 128, 96).save(folder / f"{k}.png")
        picture(k, 128, 96).save(folder / f"{k}.condition.png")
        (folder / f"{k}.txt").write_text(f"number {k % 4}")
    return folder
