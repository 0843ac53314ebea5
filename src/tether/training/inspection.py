"""What is known of a run's data before anything is built: how many samples there are, and what may be wrong with them.

`tether train` says it before it starts, `--dry-run` with its plan.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tether.base import Base
from tether.control.control import Control
from tether.datasets.build import describe_conditions
from tether.datasets.check import open_dataset
from tether.datasets.manifest import Manifest, read_manifest
from tether.datasets.prepare import Preparation
from tether.datasets.shards import TarReader
from tether.datasets.source import ImageData, Rejected, Sample, Source
from tether.datasets.sources.open import BUILTIN, open_source
from tether.errors import TetherError
from tether.training.config import TrainConfig
from tether.training.packed import is_packed

__all__ = ["Inspection", "built_size", "check_channels", "find_built", "inspect_data", "least_side"]

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
    """

    samples: int
    conditions: str
    notes: tuple[str, ...] = ()


def inspect_data(config: TrainConfig, base: Base) -> Inspection:
    """Looks at the data of a run.

    Raises:
        TetherError: when there are no such data, they are of another kind or size, or there are too few of them.
    """
    if is_packed(config.data):
        return Inspection(0, "exact (packed latents)")
    folder = find_built(config, base)
    if folder is None:
        return _of_source(config, base)
    manifest, reader = open_dataset(folder)
    _check_count(config, manifest.samples)
    notes = [*_left_out(manifest.left_out | manifest.quarantined), *_validation_notes(config, manifest.samples)]
    notes += _sample_notes(config, base, _some(reader), manifest.samples)
    return Inspection(manifest.samples, describe_conditions(manifest), tuple(notes))


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
    if kept is None or kept.settings.get("size") != built_size(config, base):
        return None
    _check_built(own, kept, config, base)
    return own


def _check_built(folder: Path, manifest: Manifest, config: TrainConfig, base: Base) -> None:
    kind, size = manifest.settings.get("condition"), int(manifest.settings.get("size", 0))
    if (kind,) != config.kinds:
        wanted = ", ".join(config.kinds)
        raise TetherError(f"{folder} was built for the condition {kind!r}, but the condition is {wanted!r}")
    side = config.resolution or base.sample_size
    if size < side:
        raise TetherError(
            f"{folder} was built with images of {size} pixels, and the training images have {side}: build it with "
            f"--size {built_size(config, base)}, or set resolution={size // base.latent_factor * base.latent_factor}"
        )


def built_size(config: TrainConfig, base: Base) -> int:
    """The size with which a run builds its data set, so that crops of the training resolution can differ."""
    return (config.resolution or base.sample_size) * 9 // 8


def least_side(config: TrainConfig, base: Base) -> int:
    """Images with a shorter side than this are left out: they would be enlarged more than twice."""
    return max(8, (config.resolution or base.sample_size) // 2)


def check_channels(control: Control) -> None:
    """Raises a TetherError for a control whose conditions are not RGB images."""
    channels = control.condition_channels
    if channels != _CHANNELS:
        raise TetherError(
            f"the control takes conditions of {channels} channels, and those of a data set have {_CHANNELS}: start "
            "from another control"
        )


def _of_source(config: TrainConfig, base: Base) -> Inspection:
    source = open_source(config.data, size=built_size(config, base), reading=config.reading)
    for kind in config.kinds:
        Preparation(kind, size=built_size(config, base)).check_condition(source)
    count = min(len(source.usable(kind)) for kind in config.kinds)
    _check_count(config, count)
    notes = [*_left_out(source.left_out), *_validation_notes(config, count)]
    if source.layout not in BUILTIN:
        notes += _sample_notes(config, base, _some(source), count)
    conditions = ", ".join(dict.fromkeys(_conditions(source, kind) for kind in config.kinds))
    return Inspection(count, conditions, tuple(notes))


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


def _some(samples: Source | TarReader) -> Iterator[Sample]:
    """A few samples, at even distances; those that cannot be read are left out."""
    for index in np.unique(np.linspace(0, len(samples) - 1, min(_LOOKED_AT, len(samples))).round().astype(int)):
        try:
            yield samples.sample(int(index))
        except (Rejected, OSError):
            continue


def _sample_notes(config: TrainConfig, base: Base, samples: Iterable[Sample], count: int) -> list[str]:
    """What the captions and sizes of a few samples say of all."""
    seen, long, small, window = 0, 0, 0, base.text.window
    side = config.resolution or base.sample_size
    for sample in samples:
        seen += 1
        size = _size(sample.image)
        small += size is not None and min(size) < side
        tokens = (len(base.tokenizer(caption, verbose=False).input_ids) for caption in sample.captions)
        long += max(tokens, default=0) > window
    about = "" if seen == count else "about "
    notes = []
    if small:
        notes.append(f"{about}{round(small / seen * count)} of {count} images are smaller than {side} pixels: enlarged")
    if long:
        notes.append(f"{about}{round(long / seen * count)} of {count} captions have more than {window} tokens: cut")
    return notes


def _size(data: ImageData) -> tuple[int, int] | None:
    """Width and height, from the header."""
    if isinstance(data, Image.Image):
        return data.size
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return image.size
    except (OSError, ValueError):
        return None
