"""From a dataset to batches: built where it must be, cached, ordered, and a few samples kept back to watch.

Of the N cached samples V are kept back, evenly spread; no training sees them (only a set of fewer than 4V is too small
for that). Sample n of a run is entry π_e(n mod M) of the other M = N - V, e = n div M, with a new random order π_e for
every pass. Its prompt is replaced by the empty one with the probability of section 3.4. All are functions of the seed
and n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from tether.base import Base
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import build_cache
from tether.datasets.latents.samples import CachedSamples
from tether.datasets.manifest import digest, read_manifest
from tether.errors import TetherError
from tether.images import from_pixels
from tether.training.batch import Batch, Batches, sample_generators
from tether.training.config import TrainConfig
from tether.training.objective import drop_text_states
from tether.training.watch import ValidationSample

__all__ = ["CachedBatches", "Data", "open_data", "validation_places"]

_PROMPTS, _ORDER = 1, 2  # streams of random numbers; 0 is the noise's

OnStage = Callable[[str, int, int], None]
"""Called with what is made, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Data:
    """What a run learns from, what it is watched by, and what tells this data from other."""

    batches: Batches
    validation: list[ValidationSample]
    content: str = ""


class CachedBatches:
    """Batches of cached samples, by the samples' numbers in the run.

    Args:
        samples: the cache.
        entries: which of them to train on.
        empty_prompts: share of prompts that are replaced by the empty one.
        seed: the run's.
    """

    def __init__(self, samples: CachedSamples, entries: list[int], empty_prompts: float, seed: int) -> None:
        self.samples, self.entries, self.empty_prompts, self.seed = samples, entries, empty_prompts, seed
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, epoch: int) -> list[int]:
        (generator,) = sample_generators(self.seed, range(epoch, epoch + 1), _ORDER)
        return torch.randperm(len(self.entries), generator=generator).tolist()

    def __call__(self, numbers: range) -> Batch:
        """The samples with these numbers."""
        found: list[dict[str, Any]] = []
        for number in numbers:
            epoch, place = divmod(number, len(self.entries))
            # A sample shows another of its crops in every epoch.
            found.append(self.samples.sample(self.entries[self._order(epoch)[place]], epoch))

        def stacked(name: str) -> Tensor:
            return torch.stack([sample[name] for sample in found])

        def dropped(name: str) -> Tensor:
            generators = sample_generators(self.seed, numbers, _PROMPTS)  # the same ones for each name
            return drop_text_states(stacked(name), stacked(f"empty_{name}"), self.empty_prompts, generators)

        added = {}
        if "pooled" in found[0]:
            added = {"text_embeds": dropped("pooled"), "time_ids": stacked("time_ids")}
        names = [sample["name"] for sample in found]
        return Batch(stacked("latents"), stacked("condition"), dropped("text_states"), names, added)


def open_data(config: TrainConfig, base: Base, on_stage: OnStage | None = None) -> Data:
    """Builds and caches what is not there yet, on the main process, and opens it.

    Args:
        config: the run.
        base: whose encoders make the cache, in float32.
        on_stage: called while something is made.

    Raises:
        TetherError: where there is no such dataset, or it was built for another kind of condition.
    """
    with PartialState().main_process_first():
        cache = build_cache(
            _built(config, base, on_stage),
            base,
            config.cache or config.out / "cache",
            resolution=config.resolution,
            crops=config.crops,
            on_progress=_telling(on_stage, "caching"),
        )
    samples = CachedSamples(cache, config.seed)
    count, kept = len(samples), min(config.watch_pictures, len(samples))
    validation = validation_places(count, kept) if config.watch_every else []
    entries = list(range(count))
    if count >= 4 * len(validation):
        entries = sorted({*entries} - {*validation})
    return Data(
        CachedBatches(samples, entries, config.empty_prompts, config.seed),
        [_validation_sample(samples.sample(index), base) for index in validation],
        digest([cache.latents.name, cache.text.name]),  # which say what data and whose encoders made them
    )


def validation_places(count: int, kept: int) -> list[int]:
    """Which `kept` of `count` samples are drawn at every look: chosen by chance, and always the same.

    At even distances they could be the same few drawings over and over, where a source goes round its drawings.
    """
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(0))[:kept].tolist())


def _built(config: TrainConfig, base: Base, on_stage: OnStage | None) -> Path:
    """The folder of the built dataset that `config.data` is, or is made into."""
    given = Path(config.data)
    built = read_manifest(given)
    if built is not None:
        kind = built.settings.get("condition")
        if kind != config.condition:
            raise TetherError(
                f"{given} was built for the condition {kind!r}, and {config.condition!r} is to be trained"
            )
        return given
    resolution = config.resolution or base.sample_size
    folder = config.out / "data"
    manifest = build_dataset(
        config.data,
        folder,
        config.condition,
        size=resolution * 9 // 8,  # so that crops of the training resolution can differ
        min_side=max(8, resolution // 2),  # what is smaller still would be enlarged more than twice
        on_progress=_telling(on_stage, "building"),
    )
    if manifest.samples < config.batch_size:
        raise TetherError(f"{config.data} has {manifest.samples} good samples: lower batch_size, or give more pictures")
    return folder


def _telling(on_stage: OnStage | None, stage: str) -> Callable[[int, int], None] | None:
    return None if on_stage is None else lambda done, total: on_stage(stage, done, total)


def _validation_sample(sample: dict[str, Any], base: Base) -> ValidationSample:
    condition = Image.fromarray(sample["condition"].permute(1, 2, 0).numpy())
    (picture,) = from_pixels(base.decode_latents(sample["latents"][None]))
    return ValidationSample(sample["caption"], condition, picture)
