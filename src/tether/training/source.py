"""The source of a run's samples: read on demand if it can be, and remembered, so that the run can go on without it.

    OUT/source.json     content of the source, its number of samples, and how they are prepared
    OUT/.source.json    see `tether.datasets.content`
    OUT/.repeated.json  see there

A source is identified by the bytes of its files, which are read once for that. The samples that a run has shown are
kept in its cache. So it goes on if the source is gone, until it needs one that it has never shown.
"""

from __future__ import annotations

from pathlib import Path

from tether.base import Base
from tether.datasets.content import known_content, known_repeated
from tether.datasets.latents.resolution import Resolution
from tether.datasets.latents.views import GoneView, SourceView, View
from tether.datasets.manifest import PARTS, digest, read_json, read_manifest, write_json
from tether.datasets.prepare import Preparation
from tether.datasets.source import Source
from tether.datasets.sources.open import BUILTIN, open_source
from tether.errors import TetherError
from tether.training.checkpoints import list_checkpoints
from tether.training.config import TrainConfig

__all__ = [
    "gone_view",
    "is_read_on_demand",
    "kind_view",
    "open_run_source",
    "preparation_of",
    "resolution_of",
    "source_identity",
    "source_view",
]

RECORD = "source.json"


def resolution_of(config: TrainConfig, base: Base) -> Resolution:
    """The sizes of a run's training images.

    Raises:
        TetherError: when they do not fit the base.
    """
    return Resolution.of(base, config.image_size, config.buckets, config.bucket_step)


def preparation_of(config: TrainConfig, base: Base, kind: str | None = None) -> Preparation:
    """How the samples of a run's source are prepared, for a kind of condition, by default the first.

    Images that would be enlarged more than twice are left out.
    """
    resolution = resolution_of(config, base)
    least = max(8, resolution.shorter // 2)
    return Preparation(kind or config.kinds[0], size=resolution.built_size, min_side=least, captions=config.captions)


def open_run_source(config: TrainConfig, base: Base) -> Source:
    """The source that `config.data` names.

    Raises:
        TetherError: when there is none, or it has no conditions of the kind and images cannot be annotated.
    """
    source = open_source(config.data, size=resolution_of(config, base).built_size, reading=config.reading)
    for kind in config.kinds:
        preparation_of(config, base, kind).check_condition(source)
    return source


def is_read_on_demand(config: TrainConfig, source: Source) -> bool:
    """Whether samples are prepared when they are first shown; else the source is built into `out/data` first.

    A run that has begun to build goes on so.
    """
    built = config.out / "data"
    return source.random_access and read_manifest(built) is None and not (built / PARTS).is_dir()


def source_identity(config: TrainConfig, source: Source) -> str | None:
    """What tells a source from others: the bytes of its files. None for the package's own, which have none."""
    if config.data in BUILTIN:
        return None
    return digest([source.fingerprint(), known_content(source, config.out), config.reading.given()])


def source_view(config: TrainConfig, base: Base, source: Source) -> View:
    """The samples of a source that is read on demand; a source that is not the package's own is remembered.

    Raises:
        TetherError: when it has changed since the run began.
    """
    how = preparation_of(config, base)
    identity = source_identity(config, source)
    view = kind_view(config, source, how, identity)
    if identity is None:
        return view
    record = {"content": view.content, "samples": len(view), "how": _how(how, config)}
    before = read_json(config.out / RECORD)
    if before not in (None, record) and list_checkpoints(config.out / "checkpoints"):
        raise TetherError(
            f"{config.out} holds a run of another data set, or {config.data} has changed since (its images, captions "
            "or names differ): use another folder, or put the data back"
        )
    write_json(config.out / RECORD, record)
    return view


def kind_view(config: TrainConfig, source: Source, how: Preparation, identity: str | None) -> SourceView:
    """The samples of a source that is read on demand, for one kind of condition; `identity` as of `source_identity`."""
    repeated = known_repeated(source, source.usable(how.condition), config.out)
    return SourceView(source, how, config.mirror, identity, repeated)


def gone_view(config: TrainConfig, base: Base) -> GoneView | None:
    """The samples of the source that a run has begun with, if it is gone."""
    if config.data in BUILTIN or config.trains_union or Path(config.data).exists():
        return None
    record = read_json(config.out / RECORD)
    if not isinstance(record, dict) or record.get("how") != _how(preparation_of(config, base), config):
        return None
    return GoneView(config.kinds[0], str(record["content"]), int(record["samples"]), config.data)


def _how(how: Preparation, config: TrainConfig) -> str:
    return digest([repr(how), config.mirror])
