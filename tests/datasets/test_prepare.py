"""How one sample is prepared."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tether.datasets.build import build_dataset
from tether.datasets.check import open_dataset
from tether.kinds import annotate

from .conftest import picture


def test_conditions_are_annotated_at_the_size_that_is_kept(photos: Path, tmp_path: Path) -> None:
    build_dataset(photos, tmp_path / "out", "canny", options={"low": 50, "high": 90}, size=32, workers=0)
    _, reader = open_dataset(tmp_path / "out")
    for index in range(len(reader)):
        sample = reader.sample(index)
        assert isinstance(sample.image, bytes)
        assert isinstance(sample.condition, bytes)
        image = Image.open(io.BytesIO(sample.image)).convert("RGB")
        assert image.size == (36, 32)
        edges = annotate("canny", image, low=50, high=90)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample.condition)).convert("RGB")), np.asarray(edges))


def test_jpeg_stays_jpeg_and_the_rest_stays_lossless(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for k, name in enumerate(("a.jpg", "b.png", "c.webp")):
        picture(k).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("words")
    build_dataset(folder, tmp_path / "out", "canny", workers=0)
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as archive:
        assert [name for name in archive.getnames() if name.endswith((".jpg", "0.png", "1.png", "2.png"))] == [
            "00000000.jpg",
            "00000001.png",
            "00000002.png",
        ]
