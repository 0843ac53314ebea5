"""Latents and text states of a dataset, computed once: training never runs the autoencoder or the text encoders.

    OUT/latents-KEY/shard-00000.safetensors ...   for each of n samples and k crops of it:
        latents     float16 `(n, k, 4, H/8, W/8)`: the posterior's mean, scaled (LDM, 2112.10752)
        conditions  uint8 `(bytes,)`: the crops' conditions, PNG, concatenated
        ends        int64 `(n, k)`: the end of each of them
        crops       int32 `(n, k, 6)`: left, top, width, flip, and the image's width and height
    OUT/latents-KEY/samples.jsonl                 a line {"name", "caption"} a sample; "captions" if it has several
    OUT/text-KEY/shard-00000.safetensors ...      for each caption, the empty prompt first:
        states      float16 `(n, T, D)`; for SDXL also pooled, float16 `(n, P)`

KEY is the SHA-256 of everything that determines the content: the dataset's bytes, crops and seed, and the encoders'
weights. So latents of another encoder are never used, and folders with other keys are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tether.base import Base
from tether.datasets.build import Progress
from tether.datasets.check import open_dataset
from tether.datasets.latents.crops import formerly_mirrored, may_flip
from tether.datasets.latents.encode import Cut, cut, encode_captions, encode_samples
from tether.datasets.latents.encoders import hash_text_encoders, hash_vae
from tether.datasets.latents.resolution import Resolution
from tether.datasets.manifest import (
    Manifest,
    Parts,
    ShardRecord,
    digest,
    read_manifest,
    write_manifest,
)
from tether.datasets.shards import TarReader
from tether.datasets.source import Rejected
from tether.errors import TetherError
from tether.files.atomic import atomic_write, make_folder, write_text
from tether.files.hashing import hash_file

__all__ = ["SAMPLES", "Cache", "CachePlan", "build_cache", "check_cache", "plan_cache"]

FORMAT = 2
SAMPLES = "samples.jsonl"
SMALLEST_SHARD, MOST_SHARDS = 64, 256
"""Least samples a shard (the work that a killed run repeats), and the largest number of files held open."""


@dataclass(frozen=True)
class Cache:
    """The folders of the latents and of the text states of one dataset, for one base."""

    latents: Path
    text: Path


def build_cache(plan: CachePlan, *, batch_size: int = 16, on_progress: Progress | None = None) -> Cache:
    """Builds a cache, continues an unfinished one, or returns a finished one.

    Damaged shards are rebuilt. With the same arguments, an interrupted run ends with the same bytes as any other.

    Args:
        plan: what it contains, and for which base.
        batch_size: images (or captions) that are encoded at once.
        on_progress: called after each shard with the number of samples and captions done, and their total.

    Raises:
        TetherError: if an argument is out of range, an encoder gives NaN, or the disk is full.
    """
    if batch_size < 1:
        raise TetherError(f"batch_size is {batch_size}: give at least 1")
    if len(plan.resolution.sizes) > 1 or plan.moments:
        raise TetherError("a whole cache has images of one size, and no moments: encode samples on demand")
    prompts, count, base, crops = plan.prompts, len(plan.names), plan.base, plan.crops

    def cuts(index: int) -> list[Cut]:
        size = plan.resolution.sizes[0]
        return cut(plan.reader, index, plan.kind, size, crops, plan.mirrored[index], plan.seed)

    total = count + len(prompts)
    latents, text = _Shards(plan.latents, plan.latent_settings), _Shards(plan.text, plan.text_settings)
    files = {SAMPLES: _lines(plan.names, plan.captions)}
    report = _offset(on_progress, 0, total)
    latents.fill(count, lambda rows: encode_samples(base, rows, cuts, crops, batch_size), report, files)
    report = _offset(on_progress, count, total)
    text.fill(len(prompts), lambda rows: encode_captions(base, prompts[rows.start : rows.stop], batch_size), report)
    return Cache(latents.folder, text.folder)


@dataclass(frozen=True)
class CachePlan:
    """What a cache of a dataset contains, before any of it is computed.

    Attributes:
        base: the model whose encoders are used, on its current device and in its current dtype.
        reader: the dataset's samples.
        kind: of the conditions.
        resolution: the sizes of the training images.
        crops, seed: crops of each sample, k, and the seed of the random ones.
        moments: whether latents come with their posterior's variance.
        names, captions, mirrored: of each sample; whether it may be mirrored.
        latents, text: folders of the cache; their names identify what is in them.
        latent_settings, text_settings: what determines the content of each folder.
    """

    base: Base
    reader: TarReader
    kind: str
    resolution: Resolution
    crops: int
    seed: int
    moments: bool
    names: list[str]
    captions: list[tuple[str, ...]]
    mirrored: list[bool]
    latents: Path
    text: Path
    latent_settings: dict[str, Any]
    text_settings: dict[str, Any]

    @property
    def prompts(self) -> list[str]:
        """The captions, each once, the empty one first."""
        return _prompts(self.captions)

    def finished(self) -> Cache | None:
        """The cache, if it exists already."""
        try:
            found = all(read_manifest(folder) is not None for folder in (self.latents, self.text))
        except TetherError:
            return None
        return Cache(self.latents, self.text) if found else None


def plan_cache(
    data: Path | str,
    base: Base,
    out: Path | str,
    *,
    resolution: Resolution | int | None = None,
    crops: int = 4,
    flips: bool | None = None,
    seed: int = 0,
    moments: bool = False,
) -> CachePlan:
    """What the cache of a dataset contains.

    Args:
        data: a finished dataset.
        base: the model whose encoders are used, on its current device and in its current dtype.
        out: the folder for caches.
        resolution: the sizes of the training images, or the side of square ones; by default the base's own.
        crops: crops of each sample, k: the largest in the middle, and k - 1 random ones.
        flips: mirror half of the random ones, unless the caption names a side or writing. None asks the kind, which
            says no if it is unknown; True mirrors unknown kinds too, False none.
        seed: of the crops.
        moments: whether latents come with their posterior's variance, so that they can be sampled.

    Raises:
        TetherError: if there is no finished dataset, or an argument is out of range.
    """
    manifest, reader = open_dataset(data)
    if crops < 1 or seed < 0:
        raise TetherError(f"crops is {crops}, seed {seed}: give at least 1 and 0")
    if not isinstance(resolution, Resolution):
        resolution = Resolution.of(base, resolution)
    names, captions = _names_and_captions(reader)
    kind = str(manifest.settings["condition"])
    settings = {
        "format": FORMAT,
        "data": manifest.content,
        "condition": kind,
        "encoder": hash_vae(base),
        "resolution": resolution.described,
        "crops": crops,
        "flips": flips is not False,
        "seed": seed,
    }
    mirrored = [all(may_flip(kind, caption, flips) for caption in one) for one in captions]
    if moments:
        settings["moments"] = True
    if flips is not False and mirrored != [formerly_mirrored(kind, one) for one in captions]:
        settings["mirrored"] = digest(mirrored)  # caches that mirrored more are not used, the others stay valid
    for_text = {"format": FORMAT, "captions": digest(_prompts(captions)), "encoder": hash_text_encoders(base)}
    latents, text = (Path(out) / f"{w}-{digest(of)[:16]}" for w, of in (("latents", settings), ("text", for_text)))
    return CachePlan(
        base,
        reader,
        kind,
        resolution,
        crops,
        seed,
        moments,
        names,
        captions,
        mirrored,
        latents,
        text,
        settings,
        for_text,
    )


def _prompts(captions: list[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(["", *chain.from_iterable(captions)]))


def _names_and_captions(reader: TarReader) -> tuple[list[str], list[tuple[str, ...]]]:
    """Of all samples; each has at least one caption, which may be empty."""
    try:
        metas = [reader.meta(index) for index in range(len(reader))]
        captions = [reader.captions(index) or ("",) for index in range(len(reader))]
    except Rejected as fault:
        raise TetherError(f"the dataset is damaged ({fault.detail}): run `tether dataset check`") from None
    return [str(meta.get("key", member.key)) for meta, member in zip(metas, reader.members, strict=True)], captions


def _lines(names: list[str], captions: list[tuple[str, ...]]) -> str:
    """The content of `samples.jsonl`."""
    listed: list[dict[str, Any]] = []
    for name, (first, *others) in zip(names, captions, strict=True):
        listed.append({"name": name, "caption": first} | ({"captions": [first, *others]} if others else {}))
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in listed)


def _offset(on_progress: Progress | None, start: int, total: int) -> Callable[[int], None]:
    return lambda done: None if on_progress is None else on_progress(start + done, total)


@dataclass(frozen=True)
class _Shards:
    """A folder of shards that is filled, and the settings that determine its content."""

    folder: Path
    settings: dict[str, Any]

    def fill(
        self,
        count: int,
        make: Callable[[range], dict[str, Tensor]],
        report: Callable[[int], None],
        files: dict[str, str] | None = None,
    ) -> None:
        """Makes the shards that are missing or damaged, then the manifest.

        Args:
            count: rows in all shards.
            make: a range of rows -> the tensors of their shard.
            report: called after each shard with the number of rows done.
            files: text files beside the shards, by name.
        """
        make_folder(self.folder)
        try:
            manifest = read_manifest(self.folder)
        except TetherError:
            manifest = None  # damaged: rebuilt from the shards' records
        if manifest is not None and not manifest.faults(self.folder):
            Parts.clear(self.folder)
            report(count)
            return
        known = {} if manifest is None else {shard.name: shard for shard in manifest.shards}
        parts = Parts(self.folder, self.settings)
        size = max(SMALLEST_SHARD, -(-count // MOST_SHARDS))
        shards = []
        for number, start in enumerate(range(0, count, size)):
            rows = range(start, min(start + size, count))
            shards.append(self._make_shard(number, rows, make, parts, known))
            report(rows.stop)
        self._finish(count, shards, files or {})

    def _make_shard(
        self,
        number: int,
        rows: range,
        make: Callable[[range], dict[str, Tensor]],
        parts: Parts,
        known: dict[str, ShardRecord],
    ) -> ShardRecord:
        path = self.folder / f"shard-{number:05d}.safetensors"
        saved = parts.load(number)
        record = ShardRecord(**saved) if saved else known.get(path.name)
        if record is None or record.fault(self.folder):
            tensors = make(rows)
            with atomic_write(path) as part:
                _save(tensors, part)
            record = ShardRecord.of(path, len(rows))
            parts.save(number, record.model_dump())
        return record

    def _finish(self, count: int, shards: list[ShardRecord], files: dict[str, str]) -> None:
        for name, text in files.items():
            write_text(self.folder / name, text, errors="backslashreplace")
        hashes = {name: hash_file(self.folder / name) for name in files}
        manifest = Manifest(settings=self.settings, samples=count, shards=tuple(shards), files=hashes)
        write_manifest(self.folder, manifest)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def check_cache(cache: Cache) -> list[str]:
    """What is wrong with a cache, a line each; `build_cache` repairs it.

    Raises:
        TetherError: if it is unfinished or its manifest is damaged.
    """
    faults = []
    for folder in (cache.latents, cache.text):
        manifest = read_manifest(folder)
        if manifest is None:
            raise TetherError(f"{folder} contains no finished cache: run the same command again")
        faults += [f"{folder.name}: {fault}" for fault in manifest.faults(folder)]
    return faults
