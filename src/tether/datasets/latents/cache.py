"""Latents and text states of a dataset, computed once: training never runs the autoencoder or the text encoder.

    OUT/latents-KEY/shard-00000.safetensors ...   for each of n samples and k crops of it:
        latents     float16 `(n, k, 4, R/8, R/8)`: the posterior's mean, scaled
        conditions  uint8 `(bytes,)`: the crops' conditions, PNG, one after the other
        ends        int64 `(n, k)`: where each of them ends
        crops       int32 `(n, k, 6)`: left, top, side, flip, and the picture's width and height
    OUT/latents-KEY/samples.jsonl                 a line {"name", "caption"} a sample
    OUT/text-KEY/shard-00000.safetensors ...      for each caption, the empty prompt first:
        states      float16 `(n, T, D)`; for SDXL also pooled, float16 `(n, P)`

KEY is the SHA-256 of all that decides the content: the dataset's bytes, crops and seed, and the encoders' weights. So
another encoder never finds latents that it did not make, and what belongs to other keys is left alone.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tether.base import Base
from tether.base.text import text_window
from tether.datasets.build import Progress
from tether.datasets.check import open_dataset
from tether.datasets.latents.crops import may_flip, random_crops
from tether.datasets.latents.encoders import hash_text_encoders, hash_vae
from tether.datasets.manifest import (
    Manifest,
    Parts,
    ShardRecord,
    digest,
    hash_file,
    read_manifest,
    write_file,
    write_manifest,
)
from tether.datasets.samples import Rejected, encode
from tether.datasets.shards import TarReader
from tether.errors import TetherError
from tether.images import open_image

__all__ = ["Cache", "build_cache", "check_cache"]

FORMAT = 2
SAMPLES = "samples.jsonl"
SMALLEST_SHARD, MOST_SHARDS = 64, 256
"""Samples a shard at least: what a killed run does again. And how many files are held open at most."""
READERS = 4
"""Threads that decode and crop while the autoencoder works."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Cache:
    """Where the latents and the text states of one dataset, for one base, lie."""

    latents: Path
    text: Path


def build_cache(
    data: Path | str,
    base: Base,
    out: Path | str,
    *,
    resolution: int | None = None,
    crops: int = 4,
    flips: bool = True,
    seed: int = 0,
    batch_size: int = 16,
    on_progress: Progress | None = None,
) -> Cache:
    """Makes the cache of a dataset for a base, or goes on with one, or finds it whole; damaged shards are made again.

    With the same arguments a run that was killed ends in the same bytes as one that was not.

    Args:
        data: a finished dataset.
        base: whose encoders to use, on the device and in the dtype it is in.
        out: the folder for caches.
        resolution: side of the training pictures in pixels; the base's own when left out.
        crops: crops of each sample, k: the largest in the middle, and k - 1 random ones.
        flips: mirror half of the random ones, where condition and caption do not tell left from right.
        seed: of the crops.
        batch_size: pictures (or captions) that are encoded at once.
        on_progress: called after each shard with the samples and captions that are done, and all of them.

    Raises:
        TetherError: where there is no finished dataset, a number makes no sense, an encoder gives NaN, or the disk is
            full.
    """
    manifest, reader = open_dataset(data)
    resolution = base.sample_size if resolution is None else resolution
    if resolution < 1 or resolution % base.latent_factor:
        raise TetherError(f"resolution {resolution} does not fit: give a multiple of {base.latent_factor}")
    if crops < 1 or batch_size < 1 or seed < 0:
        raise TetherError(f"crops is {crops}, batch_size {batch_size}, seed {seed}: give at least 1, 1 and 0")
    names, captions = _words(reader)
    unique = list(dict.fromkeys(["", *captions]))
    kind = str(manifest.settings["condition"])
    for_latents = {
        "format": FORMAT,
        "data": manifest.content,
        "condition": kind,
        "encoder": hash_vae(base),
        "resolution": resolution,
        "crops": crops,
        "flips": flips,
        "seed": seed,
    }
    for_text = {"format": FORMAT, "captions": digest(unique), "encoder": hash_text_encoders(base)}
    latents = Path(out) / f"latents-{digest(for_latents)[:16]}"
    text = Path(out) / f"text-{digest(for_text)[:16]}"
    listed = [{"name": name, "caption": caption} for name, caption in zip(names, captions, strict=True)]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in listed)

    def cut(index: int) -> list[tuple[np.ndarray, bytes, list[int]]]:
        allowed = flips and may_flip(kind, captions[index])
        return _cut(reader, index, resolution, crops, allowed, seed)

    def encode_samples(samples: range) -> dict[str, Tensor]:
        return _encode_samples(base, samples, cut, crops, batch_size)

    total = len(reader) + len(unique)
    _fill(latents, for_latents, len(reader), encode_samples, {SAMPLES: lines}, _part(on_progress, 0, total))
    _fill(
        text,
        for_text,
        len(unique),
        lambda rows: _encode_captions(base, unique[rows.start : rows.stop], batch_size),
        {},
        _part(on_progress, len(reader), total),
    )
    return Cache(latents, text)


def _words(reader: TarReader) -> tuple[list[str], list[str]]:
    """Names and captions of all samples."""
    try:
        metas = [reader.meta(index) for index in range(len(reader))]
        captions = [reader.caption(index) for index in range(len(reader))]
    except Rejected as fault:
        raise TetherError(f"the dataset is damaged: {fault.detail}; `tether dataset check` says more") from None
    return [str(meta.get("key", member.key)) for meta, member in zip(metas, reader.members, strict=True)], captions


def _cut(
    reader: TarReader, index: int, resolution: int, count: int, flips: bool, seed: int
) -> list[tuple[np.ndarray, bytes, list[int]]]:
    """The crops of a sample: pixels uint8 `(R, R, 3)`, the condition as PNG, and the crop's numbers."""
    try:
        sample, content = reader.sample(index), str(reader.meta(index)["content"])
        assert isinstance(sample.image, bytes)
        assert isinstance(sample.condition, bytes)
        image, condition = open_image(io.BytesIO(sample.image)), open_image(io.BytesIO(sample.condition))
    except (Rejected, KeyError, TetherError) as fault:
        key = reader.members[index].key
        raise TetherError(f"{key} cannot be read ({fault}): `tether dataset check` says more") from None
    rng = np.random.default_rng([seed, int(content[:16], 16)])
    return [
        (
            np.asarray(crop.of_picture(image, resolution)),
            encode(crop.of_condition(condition, resolution), "png"),
            [crop.left, crop.top, crop.side, int(crop.flip), image.width, image.height],
        )
        for crop in random_crops(image.width, image.height, resolution, count, flips, rng)
    ]


def _encode_samples(
    base: Base,
    samples: range,
    cut: Callable[[int], list[tuple[np.ndarray, bytes, list[int]]]],
    crops: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """The tensors of a shard of latents."""
    latents: list[Tensor] = []
    conditions: list[bytes] = []
    numbers: list[list[int]] = []
    waiting: list[np.ndarray] = []

    def encode_waiting(at_least: int) -> None:
        while len(waiting) >= at_least:
            pixels = torch.from_numpy(np.stack(waiting[:batch_size])).permute(0, 3, 1, 2)
            del waiting[:batch_size]
            latents.append(_half(base.encode_pictures(pixels.float().div_(127.5).sub_(1)), "the autoencoder"))

    for cuts in _ahead(cut, samples):
        for pixels, condition, crop in cuts:
            waiting.append(pixels)
            conditions.append(condition)
            numbers.append(crop)
        encode_waiting(batch_size)
    encode_waiting(1)
    whole = torch.cat(latents)
    return {
        "latents": whole.reshape(len(samples), crops, *whole.shape[1:]),
        "conditions": torch.frombuffer(bytearray(b"".join(conditions)), dtype=torch.uint8),
        "ends": torch.tensor([len(one) for one in conditions]).cumsum(0).reshape(len(samples), crops),
        "crops": torch.tensor(numbers, dtype=torch.int32).reshape(len(samples), crops, -1),
    }


def _encode_captions(base: Base, captions: list[str], batch_size: int) -> dict[str, Tensor]:
    """The tensors of a shard of text states: of one window each, as the released training has them."""
    room = text_window(base.tokenizer, base.text_encoder) - 2
    prompts = [_plain(_fit(base.tokenizer, caption, room)) for caption in captions]
    batches = [base.encode_prompts(prompts[i : i + batch_size]) for i in range(0, len(prompts), batch_size)]
    tensors = {"states": _half(torch.cat([batch.tokens for batch in batches]), "the text encoder")}
    pooled = [batch.pooled for batch in batches if batch.pooled is not None]
    return tensors | ({"pooled": _half(torch.cat(pooled), "the second text encoder")} if pooled else {})


def _fit(tokenizer: Any, caption: str, room: int) -> str:
    """The caption without the words at its end that there is no room for, in tokens."""
    words = caption.split()[:room]
    while (excess := len(tokenizer(" ".join(words), add_special_tokens=False).input_ids) - room) > 0:
        # A letter is at most four tokens: so a script without spaces does not lose too much.
        words = words[:-1] if len(words) > 1 else [words[0][: -max(1, excess // 4)]]
    return " ".join(words)


def _plain(caption: str) -> str:
    """A caption's brackets are brackets, not weights."""
    return caption.replace("(", r"\(").replace(")", r"\)")


def _half(tensor: Tensor, encoder: str) -> Tensor:
    """float16 on the CPU."""
    half = tensor.detach().to("cpu", torch.float16).contiguous()
    if not bool(half.isfinite().all()):
        raise TetherError(f"{encoder} gave NaN or infinite numbers: load the base in float32")
    return half


def _ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)`, a little ahead of whoever asks, in threads."""
    with ThreadPoolExecutor(READERS) as pool:
        jobs: deque[Future[R]] = deque()
        try:
            for item in items:
                jobs.append(pool.submit(work, item))
                if len(jobs) > 2 * READERS:
                    yield jobs.popleft().result()
            while jobs:
                yield jobs.popleft().result()
        finally:
            for job in jobs:
                job.cancel()


def _part(on_progress: Progress | None, start: int, total: int) -> Callable[[int], None]:
    return lambda done: None if on_progress is None else on_progress(start + done, total)


def _fill(
    folder: Path,
    settings: dict[str, Any],
    count: int,
    make: Callable[[range], dict[str, Tensor]],
    files: dict[str, str],
    report: Callable[[int], None],
) -> None:
    """Makes the shards that are not there or not whole, and the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        manifest = read_manifest(folder)
    except TetherError:
        manifest = None  # damaged: the shards tell what they are
    if manifest is not None and not manifest.faults(folder):
        Parts.clear(folder)
        report(count)
        return
    known = {} if manifest is None else {shard.name: shard for shard in manifest.shards}
    parts = Parts(folder, settings)
    size = max(SMALLEST_SHARD, -(-count // MOST_SHARDS))
    shards = []
    for number, start in enumerate(range(0, count, size)):
        samples = range(start, min(start + size, count))
        path = folder / f"shard-{number:05d}.safetensors"
        saved = parts.load(number)
        record = ShardRecord(**saved) if saved else known.get(path.name)
        if record is None or record.fault(folder):
            tensors = make(samples)
            write_file(path, lambda part, tensors=tensors: _save(tensors, part))
            record = ShardRecord.of(path, len(samples))
            parts.save(number, record.model_dump())
        shards.append(record)
        report(samples.stop)
    for name, text in files.items():
        write_file(folder / name, lambda part, text=text: part.write_text(text, "utf-8", "backslashreplace"))
    hashes = {name: hash_file(folder / name) for name in files}
    write_manifest(folder, Manifest(settings=settings, samples=count, shards=tuple(shards), files=hashes))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def check_cache(cache: Cache) -> list[str]:
    """What is wrong with a cache, a line each; `build_cache` mends it.

    Raises:
        TetherError: where it is unfinished or its manifest is damaged.
    """
    faults = []
    for folder in (cache.latents, cache.text):
        manifest = read_manifest(folder)
        if manifest is None:
            raise TetherError(f"{folder} holds no finished cache: make it with the same command again")
        faults += [f"{folder.name}: {fault}" for fault in manifest.faults(folder)]
    return faults


def decode_condition(png: bytes) -> np.ndarray:
    """A cached condition as uint8 `(3, R, R)`."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
