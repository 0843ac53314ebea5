"""What is known of a run's data before anything is built: how many samples there are, and what may be wrong with them.

`tether train` says it before it starts, `--dry-run` with its plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tether.base import Base
from tether.control.control import Control
from tether.datasets.build import describe_conditions
from tether.datasets.check import open_dataset
from tether.datasets.content import known_repeated
from tether.datasets.latents.resolution import Resolution, Size
from tether.datasets.latents.views import GoneView
from tether.datasets.manifest import Manifest, read_manifest
from tether.datasets.prepare import Preparation, check_sample
from tether.datasets.shards import TarReader
from tether.datasets.source import Rejected, Sample, Source, image_data_size
from tether.datasets.sources.open import BUILTIN
from tether.errors import TetherError
from tether.training.config import TrainConfig
from tether.training.packed import check_shares, is_packed, read_counts
from tether.training.source import gone_view, is_read_on_demand, open_run_source, preparation_of, resolution_of

__all__ = ["Inspection", "check_channels", "find_built", "inspect_data"]

_LOOKED_AT = 64
"""Samples, at even distances, whose captions and sizes are looked at."""
_CHANNELS = 3


@dataclass(frozen=True)
class Inspection:
    """What is known of a run's data.

    Attributes:
        samples: how many there are; of a source that is not built yet, before unusable ones are left out.
        conditions: where the conditions come from: "given (column 'guide')", "annotated (canny)", "exact (scenes)".
        notes: what the user should know, a line each.
        buckets: with aspect buckets, how many images each size gets, of all or of those looked at, in words.
    """

    samples: int
    conditions: str
    notes: tuple[str, ...] = ()
    buckets: str = ""

    def lines(self) -> list[str]:
        """All of it but the number of samples, a line each."""
        found = [f"conditions: {self.conditions}", *([f"buckets: {self.buckets}"] if self.buckets else [])]
        return [*found, *self.notes]


def inspect_data(config: TrainConfig, base: Base) -> Inspection:
    """Looks at the data of a run.

    Raises:
        TetherError: when there are no such data, they are of another kind or size, or there are too few of them.
    """
    if is_packed(config.data):
        return _of_packed(config)
    if config.shares is not None:
        raise TetherError(f"shares are for a packed latents file (.npz), not for {config.data}")
    folder = find_built(config, base)
    if folder is None:
        gone = gone_view(config, base)
        return _of_source(config, base) if gone is None else _of_gone(config, gone)
    manifest, reader = open_dataset(folder)
    _check_count(config, manifest.samples)
    notes = [*_left_out(manifest.left_out | manifest.quarantined), *_validation_notes(config, manifest.samples)]
    looked_at = list(_some(reader))
    notes += _sample_notes(config, base, looked_at, manifest.samples)
    buckets = _buckets(resolution_of(config, base), map(_size, looked_at), manifest.samples)
    return Inspection(manifest.samples, describe_conditions(manifest), tuple(notes), buckets)


def find_built(config: TrainConfig, base: Base) -> Path | None:
    """The folder of the finished data set that a run uses; None if it is still to be built.

    That is `config.data` itself, or what the run has built of it, for which the source is not needed any more.

    Raises:
        TetherError: when it is of another kind or smaller than the training images, or options for reading a source
            are given for it.
    """
    given = Path(config.data)
    built = read_manifest(given)
    if built is not None:
        if named := ", ".join(config.reading.given()):
            raise TetherError(f"{given} is built already: {named} must be given to `tether dataset build`")
        _check_built(given, built, config, base)
        return given
    own = config.out / "data"
    if given.exists() and config.data not in BUILTIN:
        return None
    kept = read_manifest(own)
    if kept is None or kept.settings.get("size") != resolution_of(config, base).built_size:
        return None
    _check_built(own, kept, config, base)
    return own


def _check_built(folder: Path, manifest: Manifest, config: TrainConfig, base: Base) -> None:
    kind, size = manifest.settings.get("condition"), int(manifest.settings.get("size", 0))
    if (kind,) != config.kinds:
        wanted = ", ".join(config.kinds)
        raise TetherError(f"{folder} was built for the condition {kind!r}, but the condition is {wanted!r}")
    resolution = resolution_of(config, base)
    if size < resolution.shorter:
        fitting = size // base.latent_factor * base.latent_factor
        raise TetherError(
            f"{folder} was built with images of {size} pixels, and the training images have {resolution.shorter}: "
            f"build it with --size {resolution.built_size}, or set resolution={fitting}"
        )


def check_channels(control: Control) -> None:
    """Raises a TetherError for a control whose conditions are not RGB images."""
    channels = control.condition_channels
    if channels != _CHANNELS:
        raise TetherError(
            f"the control takes conditions of {channels} channels, and those of a data set have {_CHANNELS}: start "
            "from another control"
        )


def _of_packed(config: TrainConfig) -> Inspection:
    """Of a packed latents file; its small array of counts is read, and nothing else."""
    counts = read_counts(Path(config.data))
    if config.validation_every:
        raise TetherError(f"{config.data} is a packed latents file, without validation images: set validation_every=0")
    check_shares(Path(config.data), counts, config.shares or counts)
    return Inspection(sum(counts.values()), "exact (packed latents)")


def _of_gone(config: TrainConfig, view: GoneView) -> Inspection:
    note = f"{config.data} is gone: the run goes on with the samples that it has shown before"
    return Inspection(len(view), "as before", (note,))


def _of_source(config: TrainConfig, base: Base) -> Inspection:
    source, resolution = open_run_source(config, base), resolution_of(config, base)
    usable = min((source.usable(kind) for kind in config.kinds), key=len)
    on_demand = is_read_on_demand(config, source)
    repeated = len(known_repeated(source, usable, config.out, keep=False)) if on_demand else 0
    count = len(usable) - repeated
    conditions = ", ".join(dict.fromkeys(_conditions(source, kind) for kind in config.kinds))
    _check_count(config, count)
    notes = [*_left_out(source.left_out), *_validation_notes(config, count)]
    if repeated:
        notes.append(f"{repeated} left out: samples whose files are the same as others'")
    if source.layout in BUILTIN:
        return Inspection(count, conditions, tuple(notes), _buckets(resolution, [source.size(0)], count))
    looked_at = list(_some(source))
    notes += _fault_notes(config, preparation_of(config, base), source, count)
    notes += _sample_notes(config, base, looked_at, count)
    buckets = _buckets(resolution, map(_size, looked_at), count)
    return Inspection(count, conditions, tuple(notes), buckets)


def _fault_notes(config: TrainConfig, how: Preparation, source: Source, count: int) -> Iterator[str]:
    """How many samples cannot be used, as far as that can be told without decoding images, by some of them.

    Raises:
        TetherError: when none of those that are looked at can be used.
    """
    places, reasons, first = _places(len(source)), Counter[str](), ""
    for index in places:
        try:
            check_sample(source.sample(index), how)
        except Rejected as fault:
            reasons[fault.reason] += 1
            first = first or f"{source.key(index)}: {fault.detail}"
        except OSError as error:
            reasons["unreadable"] += 1
            first = first or f"{source.key(index)}: {error.strerror}"
    counts = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    if reasons.total() == len(places):
        raise TetherError(
            f"{config.data} has no usable sample (of {len(places)} looked at, {counts}); the first, {first}"
        )
    if reasons:
        about = "" if len(places) == count else "about "
        number = round(reasons.total() / len(places) * count)
        yield f"{about}{number} of {count} samples cannot be used ({counts}); the first, {first}"


def _conditions(source: Source, kind: str) -> str:
    if not source.brings(kind):
        return f"annotated ({kind})"
    if source.layout in BUILTIN:
        return f"exact ({source.layout})"
    return f"given ({source.conditions_from})" if source.conditions_from else "given"


def _check_count(config: TrainConfig, samples: int) -> None:
    if samples < config.batch_size:
        raise TetherError(
            f"{config.data} has {samples} samples, and batch_size is {config.batch_size}: lower batch_size, or add "
            "images"
        )


def _left_out(counts: Mapping[str, int]) -> Iterator[str]:
    return (f"{number} left out: {what}" for what, number in sorted(counts.items()))


def _validation_notes(config: TrainConfig, samples: int) -> Iterator[str]:
    kept = min(config.validation_images, samples)
    if config.validation_every and samples < 4 * kept:
        yield (
            f"the {kept} validation images are trained on too: {samples} samples are too few to hold them back "
            f"(at least {4 * config.validation_images}, or lower validation_images)"
        )


def _places(count: int) -> list[int]:
    """A few numbers below `count`, at even distances."""
    return np.unique(np.linspace(0, count - 1, min(_LOOKED_AT, count)).round().astype(int)).tolist()


def _some(samples: Source | TarReader) -> Iterator[Sample]:
    """A few samples, at even distances; those that cannot be read are left out."""
    for index in _places(len(samples)):
        try:
            yield samples.sample(index)
        except (Rejected, OSError):
            continue


def _sample_notes(config: TrainConfig, base: Base, samples: Iterable[Sample], count: int) -> list[str]:
    """What the captions and sizes of a few samples say of all."""
    seen, long, small, window = 0, 0, 0, base.text.window
    resolution = resolution_of(config, base)
    for sample in samples:
        seen += 1
        size = _size(sample)
        small += size is not None and _is_small(size, resolution)
        tokens = (len(base.tokenizer(caption, verbose=False).input_ids) for caption in sample.captions)
        long += max(tokens, default=0) > window
    about = "" if seen == count else "about "
    notes = []
    if small:
        notes.append(
            f"{about}{round(small / seen * count)} of {count} images are smaller than {resolution.said}: enlarged"
        )
    if long:
        notes.append(f"{about}{round(long / seen * count)} of {count} captions have more than {window} tokens: cut")
    return notes


def _is_small(image: Size, resolution: Resolution) -> bool:
    """Whether the crops of an image are enlarged."""
    width, height = resolution.nearest(image)
    return image[0] < width or image[1] < height


def _buckets(resolution: Resolution, images: Iterable[Size | None], count: int) -> str:
    """How many of `count` images each bucket gets, by the sizes of some of them."""
    if len(resolution.sizes) == 1:
        return ""
    found = Counter(resolution.nearest(size) for size in images if size is not None)
    seen = found.total()
    about = "" if seen in (1, count) else "about "  # a set that is drawn has images of one size
    shares = [f"{w}x{h}: {about}{round(found[w, h] / seen * count)}" for w, h in resolution.sizes if found[w, h]]
    return f"{len(found)} of {len(resolution.sizes)} are used ({', '.join(shares)})"


def _size(sample: Sample) -> Size | None:
    return image_data_size(sample.image)
