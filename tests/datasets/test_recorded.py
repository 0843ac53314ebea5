"""Samples, datasets and caches are those that commit 2ffee90 made: what people have built stays valid.

But for depth maps that are reduced by less than two, which Pillow's BOX did badly; their cache keeps its key.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import build_cache, plan_cache
from tether.datasets.latents.samples import CachedSamples
from tether.datasets.manifest import digest
from tether.datasets.sources import open_source

from .conftest import picture, pixels

FOLDER = Path(__file__).parent / "recorded"
RECORDED: dict[str, Any] = json.loads((FOLDER / "recorded.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["emoji3d", "scenes", "circles"])
def test_samples_of_the_builtin_sets_have_the_recorded_pixels_and_captions(name: str) -> None:
    source = open_source(name, size=48, count=40)
    assert [open_source(name).fingerprint(), source.fingerprint()] == RECORDED["sources"][name]
    for index, key, caption in RECORDED["samples"][name]:
        sample = source[index]
        assert (sample.key, sample.caption) == (key, caption)
        recorded = pixels(FOLDER / f"{name}-{index}.png").astype(int)
        # One level: another processor may round a float to the other side.
        assert np.abs(pixels(sample.image) - recorded).max() <= 1
        if sample.condition is not None:
            assert np.array_equal(pixels(sample.condition), pixels(FOLDER / f"{name}-{index}.condition.png"))


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("circles", "canny", None),
        ("emoji3d", "canny", None),
        ("emoji3d", "scribble", None),
        ("emoji3d", "canny", {"low": 50, "high": 90}),
    ],
)
def test_a_build_has_the_recorded_manifest(
    name: str, kind: str, options: dict[str, float] | None, tmp_path: Path
) -> None:
    manifest = build_dataset(name, tmp_path, kind, options=options, size=64, count=6, workers=0, shard_size=4)
    recorded = RECORDED["built"][f"{name} {kind}{' low' if options else ''}"]
    assert digest(manifest.settings) == recorded["settings"]
    assert manifest.content == recorded["content"]
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["sha256"] == recorded["manifest"]


@pytest.mark.parametrize("kind", ["canny", "depth"])  # samples of unknown kinds are not mirrored any more
def test_a_cache_has_the_recorded_key_crops_and_conditions(kind: str, tiny_base: Base, tmp_path: Path) -> None:
    recorded = RECORDED["cached"][kind]
    source = tmp_path / "source"
    source.mkdir()
    for k in range(6):
        image = picture(k, 128, 96)
        image.save(source / f"{k}.png")
        lines = image.convert("L").point(lambda level: 255 if level > 127 else 0)
        (lines if kind == "canny" else image).save(source / f"{k}.condition.png")
        (source / f"{k}.txt").write_text(f"number {k % 4}")
    assert build_dataset(source, tmp_path / "data", kind, workers=0).content == recorded["dataset"]
    cache = build_cache(
        plan_cache(tmp_path / "data", tiny_base, tmp_path / "cache", resolution=64, crops=3, flips=True), batch_size=4
    )
    settings = json.loads((cache.latents / "manifest.json").read_text(encoding="utf-8"))["settings"]
    assert {name: value for name, value in settings.items() if name != "encoder"} == recorded["settings"]
    assert cache.latents.name == f"latents-{digest(settings)[:16]}"
    with safe_open(cache.latents / "shard-00000.safetensors", "np") as file:
        for name in ("crops", "conditions"):
            assert hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest() == recorded[name]
    samples = CachedSamples(cache, seed=5)
    assert [[samples.crop_of(index, epoch) for index in range(6)] for epoch in range(4)] == recorded["shown"]


def test_recorded_images_are_all_compared() -> None:
    compared = {f"{name}-{index}.png" for name, listed in RECORDED["samples"].items() for index, *_ in listed}
    files = {path.name for path in FOLDER.glob("*.png") if ".condition" not in path.name}
    assert files == compared
    for path in FOLDER.glob("*.png"):
        with Image.open(path) as image:
            assert image.size == (48, 48)
