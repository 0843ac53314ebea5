"""From a data set to batches: built if necessary, cached, ordered, with a few samples held back for validation.

Of the N cached samples V are held back, a fixed pseudo-random subset; training never sees them (unless there are fewer
than 4V). Which of the other N - V sample n of a run is, `tether.training.order` says. Its prompt is replaced by the
empty one with the probability `prompt_dropout` (section 3.4 of arXiv:2302.05543). If latents are sampled, its are
mean + exp(log-variance / 2) ε. All of this is a function of the seed and n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from tether.base import Base
from tether.control.conditioning import Conditioning
from tether.datasets.build import build_dataset
from tether.datasets.latents.cache import CachePlan, plan_cache
from tether.datasets.latents.encode import as_prompts
from tether.datasets.latents.ondemand import OnDemandSamples, encoders_of
from tether.datasets.latents.resolution import Size
from tether.datasets.latents.samples import CachedSamples, Samples
from tether.datasets.latents.views import DatasetView, View
from tether.datasets.manifest import digest
from tether.errors import TetherError
from tether.images import from_pixels
from tether.training.batch import Batch, Batches, sample_generators
from tether.training.batch import stacked as stacked_conditions
from tether.training.config import TrainConfig
from tether.training.inspection import find_built
from tether.training.objective import drop_prompts
from tether.training.order import Order
from tether.training.packed import PackedBatches, is_packed
from tether.training.rota import Rota
from tether.training.source import (
    gone_view,
    is_read_on_demand,
    kind_view,
    open_run_source,
    preparation_of,
    resolution_of,
    source_identity,
    source_view,
)
from tether.training.validation import ValidationSample

__all__ = ["CachedBatches", "Data", "KindBatches", "encodes_on_demand", "open_data", "validation_subset"]

_PROMPTS, _POSTERIOR = 1, 6  # streams of random numbers; others are in `batch`, `order`, `packed` and `rota`

OnStage = Callable[[str, int, int], None]
"""Called with what is being made, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Data:
    """What a run learns from.

    Attributes:
        batches: the samples.
        validation: samples held back.
        content: a hash that tells this data from other data of the same name.
        encodes_prompts: whether batches need the base's text encoders while training.
    """

    batches: Batches
    validation: list[ValidationSample] = field(default_factory=list)
    content: str = ""
    encodes_prompts: bool = False


class CachedBatches:
    """Batches of cached samples, by the samples' numbers in the run.

    Args:
        samples: the cache.
        entries: which of them to train on.
        prompt_dropout: share of prompts that are replaced by the empty one.
        seed: the run's.
        block: samples of a step, over all processes; those of a block have images of one size.
        place: which of the run's kinds of condition they show; each has the samples in an order of its own.
    """

    def __init__(
        self,
        samples: Samples,
        entries: list[int],
        prompt_dropout: float,
        seed: int,
        block: int = 1,
        place: int = 0,
    ) -> None:
        self.samples, self.entries, self.prompt_dropout, self.seed = samples, entries, prompt_dropout, seed
        by_size: dict[Size, list[int]] = {}
        for entry in entries:
            by_size.setdefault(samples.size_of(entry), []).append(entry)
        self.order = Order([by_size[size] for size in sorted(by_size)], block, seed, place)

    def __call__(self, numbers: range) -> Batch:
        """The samples with these numbers.

        Raises:
            TetherError: when they are of several sizes: of several blocks.
        """
        return as_batch([self.sample(number) for number in numbers], numbers, self.seed, self.prompt_dropout)

    def sample(self, number: int) -> dict[str, Any]:
        """One sample, as `Samples.sample` returns it. It shows another of its crops in every pass."""
        return self.samples.sample(*self.order(number))


class KindBatches:
    """Batches of cached samples of several kinds of condition, by the samples' numbers in the run.

    Args:
        kinds: the batches of each kind.
        rota: which kind each sample of the run shows.
    """

    def __init__(self, kinds: Mapping[str, CachedBatches], rota: Rota, prompt_dropout: float) -> None:
        self.kinds, self.rota, self.prompt_dropout = dict(kinds), rota, prompt_dropout

    def __call__(self, numbers: range) -> Batch:
        """The samples with these numbers."""
        turns = [self.rota(number) for number in numbers]
        found = [self.kinds[turn.kind].sample(turn.number) for turn in turns]
        batch = as_batch(found, numbers, self.rota.seed, self.prompt_dropout)
        return replace(batch, kinds=[turn.kind for turn in turns])


def as_batch(found: list[dict[str, Any]], numbers: range, seed: int, prompt_dropout: float) -> Batch:
    """The batch of samples with these numbers, of which a share loses its prompt.

    Raises:
        TetherError: when they have several sizes: they are of several steps.
    """
    if len({sample["latents"].shape for sample in found}) > 1:
        raise TetherError(f"samples {numbers.start} to {numbers.stop - 1} have several sizes: ask for those of a step")

    def stacked(name: str) -> Tensor:
        return torch.stack([sample[name] for sample in found])

    def dropped(name: str) -> Tensor:
        generators = sample_generators(seed, numbers, _PROMPTS)  # the same ones for each name
        return drop_prompts(stacked(name), stacked(f"empty_{name}"), prompt_dropout, generators)

    conditioning = Conditioning(dropped("text_states"))
    if "pooled" in found[0]:
        conditioning = Conditioning(dropped("text_states"), dropped("pooled"), {"time_ids": stacked("time_ids")})
    latents = stacked("latents")
    if "log_variance" in found[0]:
        latents = _sampled(latents, stacked("log_variance"), sample_generators(seed, numbers, _POSTERIOR))
    names = [sample["name"] for sample in found]
    return Batch(latents, stacked_conditions([sample["condition"] for sample in found]), conditioning, names)


def open_data(config: TrainConfig, base: Base, on_stage: OnStage | None = None) -> Data:
    """Builds and caches what does not exist yet, on the main process, and opens it.

    Args:
        config: the run.
        base: its encoders make the cache, in float32.
        on_stage: called while something is made.

    Raises:
        TetherError: when there is no such data set, or it was built for another kind of condition.
    """
    if is_packed(config.data):
        return _open_packed(config, base)
    if config.trains_union:
        return _open_kinds(config, base, on_stage)
    with PartialState().main_process_first():
        samples, content = _samples(config, base, on_stage)
    batches, held_back = _batches(config, samples, config.validation_images)
    shown = []
    for number, index in enumerate(held_back, 1):
        shown.append(_validation_sample(samples.sample(index), base))
        if on_stage is not None:
            on_stage("encoding validation images", number, len(held_back))
    return Data(batches, shown, content)


def _batches(config: TrainConfig, samples: Samples, images: int) -> tuple[CachedBatches, list[int]]:
    """The samples that are trained on, and those that are held back for `images` validation images."""
    held_back = _held_back(config, len(samples), images)
    return _batches_without(config, samples, held_back), held_back


def _held_back(config: TrainConfig, count: int, images: int) -> list[int]:
    """Which of `count` samples are held back for `images` validation images."""
    return validation_subset(count, min(images, count)) if config.validation_every else []


def _batches_without(config: TrainConfig, samples: Samples, held_back: Sequence[int], place: int = 0) -> CachedBatches:
    """The samples but those that are held back; all of them where there are too few."""
    entries = list(range(len(samples)))
    if len(samples) >= 4 * len(held_back):
        entries = sorted({*entries} - {*held_back})
        if isinstance(samples, OnDemandSamples):
            samples.view.apart = frozenset(held_back)
    block = config.samples_a_step * PartialState().num_processes
    return CachedBatches(samples, entries, config.prompt_dropout, config.seed, block, place)


def _open_kinds(config: TrainConfig, base: Base, on_stage: OnStage | None) -> Data:
    """The data of several kinds: a source, of whose images the conditions of each kind are made when they are needed.

    Validation images show one kind after the other.
    """
    if find_built(config, base) is not None:
        raise TetherError(f"{config.data} was built for one kind of condition: give the source that it was built from")
    source = open_run_source(config, base)
    if source.has_conditions:
        raise TetherError(f"{config.data} has conditions of one kind: leave them out with condition_column: none")
    identity = source_identity(config, source)
    samples_of: dict[str, OnDemandSamples] = {}
    held_back: dict[str, list[int]] = {}
    usable: dict[str, Sequence[int]] = {}
    contents, encoders = [], encoders_of(base)
    for place, kind in enumerate(config.kinds):
        view = kind_view(config, source, preparation_of(config, base, kind), identity)
        samples_of[kind] = _on_demand(config, base, view, encoders)
        images = len(range(place, config.validation_images, len(config.kinds)))
        usable[kind], held_back[kind] = view.usable, _held_back(config, len(view), images)
        contents.append(view.content)
        if on_stage is not None:
            on_stage("looking at the kinds", place + 1, len(config.kinds))
    # An image that is held back with the condition of one kind is not trained on with that of another.
    images_held = {usable[kind][index] for kind, indices in held_back.items() for index in indices}
    found = {
        kind: _batches_without(config, samples, [k for k, image in enumerate(usable[kind]) if image in images_held], n)
        for n, (kind, samples) in enumerate(samples_of.items())
    }
    shown = [
        _validation_sample(samples_of[kind].sample(index), base, kind)
        for kind, indices in held_back.items()
        for index in indices
    ]
    return Data(KindBatches(found, Rota(config.turns, config.seed), config.prompt_dropout), shown, digest(contents))


def _samples(config: TrainConfig, base: Base, on_stage: OnStage | None) -> tuple[Samples, str]:
    """The samples, and a hash of what determines them: of the data and the encoders.

    A cache that an earlier run has finished is used; else crops are encoded when they are needed.
    """
    view = _unbuilt(config, base)
    if view is None:
        plan = _plan(config, base, _built(config, base, on_stage))
        view, cache = DatasetView(plan), plan.finished()
        if cache is not None:
            return CachedSamples(cache, config.seed), view.content
    return _on_demand(config, base, view, encoders_of(base)), view.content


def _on_demand(config: TrainConfig, base: Base, view: View, encoders: Base) -> OnDemandSamples:
    """Samples that are encoded when they are shown. Their cache leaves room on its disk for two checkpoints of a
    control as large as the denoiser, with its average and two states of an optimizer, in float32."""
    return OnDemandSamples(
        view,
        encoders,
        config.cache or config.out / "cache",
        resolution=resolution_of(config, base),
        crops=config.crops,
        seed=config.seed,
        moments=config.latents == "sample",
        reserve=2 * 4 * 4 * sum(parameter.numel() for parameter in base.unet.parameters()),
    )


def _unbuilt(config: TrainConfig, base: Base) -> View | None:
    """The samples of a source that is read on demand; None if there is a built data set, or one is to be built."""
    if find_built(config, base) is not None:
        return None
    gone = gone_view(config, base)
    if gone is not None:
        return gone
    source = open_run_source(config, base)
    return source_view(config, base, source) if is_read_on_demand(config, source) else None


def encodes_on_demand(config: TrainConfig, base: Base) -> bool:
    """Whether a run keeps encoders of its own: if its data are not packed, and no earlier run finished their cache."""
    if is_packed(config.data):
        return False
    built = None if config.trains_union else find_built(config, base)
    if built is None:
        return True
    return _plan(config, base, built).finished() is None


def _plan(config: TrainConfig, base: Base, built: Path) -> CachePlan:
    """What a whole cache of a built data set contains."""
    return plan_cache(
        built,
        base,
        config.cache or config.out / "cache",
        resolution=resolution_of(config, base),
        crops=config.crops,
        flips=config.mirror,
        moments=config.latents == "sample",
    )


def _open_packed(config: TrainConfig, base: Base) -> Data:
    """A packed latents file, all of which is trained on."""
    batches = PackedBatches(
        Path(config.data),
        base,
        seed=config.seed,
        randomness=config.randomness,
        prompt_dropout=config.prompt_dropout,
        shares=config.shares,
        rota=Rota(config.turns, config.seed),
        tell_kinds=config.trains_union,
    )
    return Data(batches, content=batches.content, encodes_prompts=True)


def _sampled(means: Tensor, log_variances: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Samples of the posterior of latents, `(B, C, h, w)`; one generator each."""
    noise = [torch.randn(mean.shape, generator=each) for mean, each in zip(means, generators, strict=True)]
    return means + (0.5 * log_variances).exp() * torch.stack(noise)


def validation_subset(count: int, kept: int) -> list[int]:
    """Which `kept` of `count` samples are for validation: a fixed pseudo-random subset.

    At even distances they could be the same few drawings again and again, if a source repeats its drawings.
    """
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(0))[:kept].tolist())


def _built(config: TrainConfig, base: Base, on_stage: OnStage | None) -> Path:
    """The folder of the built data set that `config.data` is, or is made into."""
    found = find_built(config, base)
    if found is not None:
        return found
    folder, how = config.out / "data", preparation_of(config, base)
    manifest = build_dataset(
        config.data,
        folder,
        config.kinds[0],
        size=how.size,
        min_side=how.min_side,
        reading=config.reading,
        on_progress=_reporting(on_stage, "building"),
    )
    if manifest.samples < config.batch_size:
        raise TetherError(f"{config.data} has {manifest.samples} good samples: lower batch_size, or add images")
    return folder


def _reporting(on_stage: OnStage | None, stage: str) -> Callable[[int, int], None] | None:
    return None if on_stage is None else lambda done, total: on_stage(stage, done, total)


def _validation_sample(sample: dict[str, Any], base: Base, kind: str | None = None) -> ValidationSample:
    condition: Tensor = sample["condition"]
    (prompt,) = as_prompts(base, [sample["caption"]])  # cut as training cuts it
    (image,) = from_pixels(base.decode_latents(sample["latents"][None]))
    if not condition.is_floating_point():
        return ValidationSample(prompt, _image(condition), image, kind=kind)
    mask = Image.fromarray((255 * (condition < 0).any(dim=0)).to(torch.uint8).numpy())
    return ValidationSample(prompt, _image((255 * condition).clamp(min=0).round().byte()), image, mask, kind)


def _image(pixels: Tensor) -> Image.Image:
    """uint8 `(3, H, W)` as an image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
