"""What a cache's shards contain: crops through the autoencoder, captions through the text encoders."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tether.base import Base
from tether.datasets.latents.crops import random_crops
from tether.datasets.latents.resolution import Size
from tether.datasets.prepare import encode
from tether.datasets.shards import TarReader
from tether.datasets.source import Rejected
from tether.errors import TetherError
from tether.images import open_image

__all__ = [
    "Cut",
    "Stored",
    "as_prompts",
    "cut",
    "cut_stored",
    "encode_captions",
    "encode_moments",
    "encode_pixels",
    "encode_samples",
    "stored_sample",
]

READERS = 4
"""Threads that decode and crop while the autoencoder works."""

T = TypeVar("T")
R = TypeVar("R")

Cut = tuple[np.ndarray, bytes, list[int]]
"""A crop: pixels uint8 `(H, W, 3)`; its condition as PNG; left, top, width, flip, and the image's width and height."""


@dataclass(frozen=True)
class Stored:
    """A sample as a dataset stores it: encoded image and condition, and the hash of its content."""

    image: bytes
    condition: bytes
    content: str


def cut(reader: TarReader, index: int, kind: str, size: Size, count: int, flips: bool, seed: int) -> list[Cut]:
    """`count` crops of a sample of a dataset.

    Raises:
        TetherError: if the sample cannot be read.
    """
    return cut_stored(stored_sample(reader, index), kind, size, count, flips, seed)


def stored_sample(reader: TarReader, index: int) -> Stored:
    """A sample of a dataset.

    Raises:
        TetherError: if it cannot be read.
    """
    try:
        sample, content = reader.sample(index), str(reader.meta(index)["content"])
        assert isinstance(sample.image, bytes)
        assert isinstance(sample.condition, bytes)
    except (Rejected, KeyError) as fault:
        key = reader.members[index].key
        raise TetherError(f"cannot read {key} ({fault}): run `tether dataset check`") from None
    return Stored(sample.image, sample.condition, content)


def cut_stored(
    stored: Stored, kind: str, size: Size, count: int, flips: bool, seed: int, only: int | None = None
) -> list[Cut]:
    """The `count` crops of a sample, or only one of them.

    Raises:
        TetherError: if its image or condition is damaged.
    """
    try:
        image, condition = open_image(io.BytesIO(stored.image)), _open_condition(stored.condition)
    except (TetherError, OSError) as fault:
        raise TetherError(f"a sample is damaged ({fault}): run `tether dataset check`") from None
    rng = np.random.default_rng([seed, int(stored.content[:16], 16)])
    crops = random_crops(image.width, image.height, size, count, flips, rng)
    return [
        (
            np.asarray(crop.of_image(image, size)),
            encode(crop.of_condition(condition, kind, size), "png"),
            [crop.left, crop.top, crop.width, int(crop.flip), image.width, image.height],
        )
        for number, crop in enumerate(crops)
        if only in (None, number)
    ]


def _open_condition(png: bytes) -> Image.Image:
    """A stored condition: RGB, or RGBA if it has holes to inpaint."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as stored:
        if stored.mode == "RGBA":
            return stored.copy()
    return open_image(io.BytesIO(png))


def encode_samples(
    base: Base,
    samples: range,
    cuts: Callable[[int], list[Cut]],
    crops: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """The tensors of a shard of latents; `cuts` gives the `crops` crops of a sample."""
    latents: list[Tensor] = []
    conditions: list[bytes] = []
    numbers: list[list[int]] = []
    waiting: list[np.ndarray] = []

    def encode_waiting(at_least: int) -> None:
        while len(waiting) >= at_least:
            pixels = torch.from_numpy(np.stack(waiting[:batch_size])).permute(0, 3, 1, 2)
            del waiting[:batch_size]
            latents.append(encode_pixels(base, pixels))

    for one in _ahead(cuts, samples):
        for pixels, condition, crop in one:
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


def encode_pixels(base: Base, pixels: Tensor) -> Tensor:
    """uint8 `(B, 3, H, W)` -> latents float16 `(B, C, H/8, W/8)`, on the CPU.

    Raises:
        TetherError: when they are NaN or infinite.
    """
    return _half(base.encode_images(pixels.float().div_(127.5).sub_(1)), "the autoencoder")


def encode_moments(base: Base, pixels: Tensor) -> dict[str, Tensor]:
    """Mean and log-variance of the latents' posterior, both of the scaled latents; shapes as for `encode_pixels`.

    Raises:
        TetherError: when they are NaN or infinite.
    """
    mean, log_variance = base.encode_moments(pixels.float().div_(127.5).sub_(1))
    return {
        name: _half(tensor, "the autoencoder") for name, tensor in (("latents", mean), ("log_variance", log_variance))
    }


def encode_captions(base: Base, captions: list[str], batch_size: int) -> dict[str, Tensor]:
    """The tensors of a shard of text states; one window of tokens each, as in the original training code."""
    prompts = as_prompts(base, captions)
    batches = [
        base.encode_prompts(prompts[i : i + batch_size], syntax="plain") for i in range(0, len(prompts), batch_size)
    ]
    tensors = {"states": _half(torch.cat([batch.tokens for batch in batches]), "the text encoder")}
    pooled = [batch.pooled for batch in batches if batch.pooled is not None]
    return tensors | ({"pooled": _half(torch.cat(pooled), "the second text encoder")} if pooled else {})


def as_prompts(base: Base, captions: list[str]) -> list[str]:
    """Captions as prompts of one window of tokens each, to be encoded with the "plain" syntax."""
    room = base.text.window - 2
    return [_fit(base.tokenizer, caption, room) for caption in captions]


def _fit(tokenizer: Any, caption: str, room: int) -> str:
    """The caption, cut after the last word that fits into `room` tokens."""
    words = caption.split()[:room]
    while (excess := len(tokenizer(" ".join(words), add_special_tokens=False).input_ids) - room) > 0:
        # A character is at most four tokens, so a script without spaces does not lose too much.
        words = words[:-1] if len(words) > 1 else [words[0][: -max(1, excess // 4)]]
    return " ".join(words)


def _half(tensor: Tensor, encoder: str) -> Tensor:
    """float16 on the CPU."""
    half = tensor.detach().to("cpu", torch.float16).contiguous()
    if not bool(half.isfinite().all()):
        raise TetherError(f"{encoder} produced NaN or Inf: load the base in float32")
    return half


def _ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)` in threads, a little ahead of the consumer."""
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
