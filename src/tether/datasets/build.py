"""Builds a dataset: decodes, annotates, checks and writes shards, on all cores, and continues where it was killed.

    OUT/shard-00000.tar ...     samples, see `tether.datasets.shards`
    OUT/quarantine.jsonl        a line {"key", "reason", "detail"} for each rejected sample
    OUT/manifest.json           settings, counts, and the SHA-256 of each file above
    OUT/.source.json            names, sizes and times of the source's files, see `tether.datasets.content`

Shard k contains the good samples among the source's samples kN ... (k+1)N - 1. It depends only on the source, the
settings and the images before it (duplicates): not on the number of processes, and not on interruptions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2

from tether import kinds
from tether.datasets.content import known_content
from tether.datasets.manifest import (
    PARTS,
    Manifest,
    Parts,
    ShardRecord,
    agree,
    difference,
    read_manifest,
    write_manifest,
)
from tether.datasets.names import Reading
from tether.datasets.prepare import Preparation, Prepared, prepare_sample
from tether.datasets.shards import write_tar
from tether.datasets.source import Rejected, Source
from tether.datasets.sources.open import BUILTIN, open_source
from tether.errors import TetherError
from tether.files.atomic import atomic_write, write_text
from tether.files.hashing import hash_file

__all__ = ["QUARANTINE", "Progress", "build_dataset", "describe_conditions"]

FORMAT = 1
CHUNK = 8
QUARANTINE = "quarantine.jsonl"

Progress = Callable[[int, int], None]
"""Called with the number of samples (or shards) done and the total."""

Results = Callable[[Iterable[int]], Iterable[Prepared | Rejected]]


def build_dataset(
    source: Source | str | Path,
    out: Path | str,
    condition: str,
    *,
    options: Mapping[str, float] | None = None,
    size: int = 512,
    min_side: int = 64,
    count: int | None = None,
    shard_size: int = 512,
    workers: int | None = None,
    ray: bool = False,
    reading: Reading | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """Builds a dataset in a folder, continues an unfinished one, or returns a finished one.

    Bad samples are left out and listed in `quarantine.jsonl` with a reason (`tether.datasets.source.Reason`).

    Args:
        source: what to read; see `tether.datasets.sources.open_source`.
        out: the folder. It is created; a finished dataset with the same settings is left as it is.
        condition: the kind of condition. A source that can compute it exactly (`Source.exact_conditions`) does; the
            conditions that a source brings are used as they are, under this name; else images are annotated.
        options: the annotator's options; by default they are drawn at random for each sample, if the kind can vary.
        size: larger images are reduced until their shorter side has this many pixels.
        min_side: images with a shorter side than this, or than `size` if that is less, are rejected.
        count: how many samples the built-in sets draw.
        shard_size: source samples a shard.
        workers: processes, by default one a core; 0 works in this one. With any, call from under
            `if __name__ == "__main__":`.
        ray: spread the samples over a cluster of Ray, with `workers` actors, by default one a CPU of it. The bytes are
            the same.
        reading: how the source's names are read; by default by the table in `tether.datasets.names`.
        on_progress: called after each sample.

    Raises:
        TetherError: if the source or the kind of condition does not exist, the folder contains something else, no
            sample is good, or the disk is full.
    """
    out = Path(out)
    if shard_size < 1 or (workers is not None and workers < ray):
        raise TetherError(f"shard_size is {shard_size} and workers {workers}: give at least 1 and {int(ray)}")
    reading = reading or Reading()
    how = Preparation(condition, options, size, min_side, reading.captions)
    source = _opened(source, out, size, count, reading)
    how.check_condition(source)
    _check_out(out)
    settings = _settings(source, how, shard_size, reading, out)
    if (finished := _finished(out, settings)) is not None:
        return finished
    records = _make_shards(out, settings, source, how, workers, ray, on_progress)
    return _finish(out, settings, records, source)


def describe_conditions(manifest: Manifest) -> str:
    """Where a dataset's conditions come from: "given (column 'guide')", "annotated (canny)" or "exact (scenes)"."""
    layout = manifest.settings["source"]["kind"]
    if manifest.settings["annotated"]:
        return f"annotated ({manifest.settings['condition']})"
    if layout in BUILTIN:
        return f"exact ({layout})"
    return f"given ({manifest.conditions_from})" if manifest.conditions_from else "given"


def _opened(source: Source | str | Path, out: Path, size: int, count: int | None, reading: Reading) -> Source:
    if isinstance(source, Source):
        return source
    if str(source) not in BUILTIN and out.resolve().is_relative_to(Path(source).resolve()):
        raise TetherError(f"{out} is inside {source}, and would be read as a source: give a folder elsewhere")
    return open_source(source, size=size, count=count, reading=reading)


def _settings(source: Source, how: Preparation, shard_size: int, reading: Reading, out: Path) -> dict[str, Any]:
    """Everything that determines a dataset's bytes."""
    described = {"kind": source.layout, "samples": len(source), "fingerprint": source.fingerprint()}
    if (content := known_content(source, out)) is not None:
        described["content"] = content
    given = reading.given()
    kind, annotated = kinds.find_kind(how.condition), not source.brings(how.condition)
    return {
        **({"reading": given} if given else {}),
        # Versions that wrote no maker stored conditions with black holes, and tiles that were the image itself.
        **({"maker": 2} if kind.needs_mask or (annotated and kind.name == "tile") else {}),
        **how.maker(source),
        "format": FORMAT,
        "source": described,
        "condition": how.condition,
        "annotated": annotated,
        "options": None if how.options is None else dict(how.options),
        "size": how.size,
        "min_side": how.min_side,
        "shard_size": shard_size,
    }


def _make_shards(
    out: Path,
    settings: dict[str, Any],
    source: Source,
    how: Preparation,
    workers: int | None,
    ray: bool,
    on_progress: Progress | None,
) -> list[dict[str, Any]]:
    """Writes the shards that are not complete yet, and returns the records of all of them."""
    parts, shard_size = Parts(out, settings), settings["shard_size"]
    ranges = [range(start, min(start + shard_size, len(source))) for start in range(0, len(source), shard_size)]
    records = []
    contents: dict[str, str] = {}
    found = [parts.load(number) for number in range(len(ranges))]
    found = [record if record is not None and _is_whole(out, record) else None for record in found]
    missing = [index for samples, record in zip(ranges, found, strict=True) if record is None for index in samples]
    with _results(source, how, workers) if not ray else _spread(source, how, missing, workers) as results:
        for number, (samples, record) in enumerate(zip(ranges, found, strict=True)):
            if record is None:
                report = _reporter(on_progress, samples.start, len(source))
                record = _make_shard(out, number, samples, source, report(results(samples)), contents)
                parts.save(number, record)
            elif on_progress is not None:
                on_progress(samples.stop, len(source))
            contents.update(record["contents"])
            records.append(record)
    return records


def _finished(out: Path, settings: dict[str, Any]) -> Manifest | None:
    """The manifest, if `out` contains this dataset already."""
    manifest = read_manifest(out)
    if manifest is not None:
        if not agree(manifest.settings, settings):
            changes = difference(manifest.settings, settings)
            raise TetherError(f"{out} contains a finished dataset with {changes}: give another folder, or delete it")
        Parts.clear(out)
        return manifest
    return None


def _check_out(out: Path) -> None:
    """Raises a TetherError if a dataset cannot be built in `out`."""
    if out.exists() and not out.is_dir():
        raise TetherError(f"{out} is a file: give a folder for the dataset")
    if not out.is_dir() or (out / PARTS).is_dir() or read_manifest(out) is not None:
        return
    if any(not path.name.startswith(".") for path in out.iterdir()):
        raise TetherError(f"{out} is not empty and contains no dataset: give a new folder")


def _is_whole(out: Path, record: dict[str, Any]) -> bool:
    return record["shard"] is None or ShardRecord(**record["shard"]).fault(out) is None


def _make_shard(
    out: Path,
    number: int,
    samples: range,
    source: Source,
    results: Iterable[Prepared | Rejected],
    earlier: Mapping[str, str],
) -> dict[str, Any]:
    """Writes one shard and returns its record: the file, contents by hash, and rejected samples.

    A shard without a good sample has no file.
    """
    good: list[tuple[int, Prepared]] = []
    contents: dict[str, str] = {}
    quarantined: list[dict[str, str]] = []
    for index, result in zip(samples, results, strict=True):
        if isinstance(result, Prepared):
            twin = earlier.get(result.content) or contents.get(result.content)
            if twin is None:
                contents[result.content] = result.key
                good.append((index, result))
                continue
            result = Rejected("duplicate", f"the same pixels as {twin}")
        quarantined.append({"key": source.key(index), "reason": result.reason, "detail": result.detail})
    shard = None
    if good:
        path = out / f"shard-{number:05d}.tar"
        with atomic_write(path) as part:
            write_tar(part, good)
        shard = ShardRecord.of(path, len(good)).model_dump()
    return {"shard": shard, "contents": contents, "quarantined": quarantined}


def _finish(out: Path, settings: dict[str, Any], records: list[dict[str, Any]], source: Source) -> Manifest:
    """Writes the quarantine and the manifest."""
    quarantined = [entry for record in records for entry in record["quarantined"]]
    shards = tuple(ShardRecord(**record["shard"]) for record in records if record["shard"])
    reasons = Counter(entry["reason"] for entry in quarantined)
    if not shards:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        first = quarantined[0]
        raise TetherError(f"no usable sample ({counts}); the first, {first['key']}: {first['detail']}")
    lines = "".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in quarantined)
    write_text(out / QUARANTINE, lines, errors="backslashreplace")
    manifest = Manifest(
        settings=settings,
        samples=sum(shard.samples for shard in shards),
        shards=shards,
        quarantined=dict(sorted(reasons.items())),
        files={QUARANTINE: hash_file(out / QUARANTINE)},
        conditions_from=source.conditions_from,
        left_out=dict(source.left_out),
    )
    write_manifest(out, manifest)
    return manifest


def _reporter(on_progress: Progress | None, start: int, total: int) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Passes results on and reports each."""

    def report(results: Iterable[Any]) -> Iterator[Any]:
        for done, result in enumerate(results, start=start + 1):
            yield result
            if on_progress is not None:
                on_progress(done, total)

    return report


@contextmanager
def _results(source: Source, how: Preparation, workers: int | None) -> Iterator[Results]:
    """A function from sample numbers to results in the same order, in this process or in `workers` processes."""
    count = (os.cpu_count() or 1) if workers is None else workers
    if count == 0:
        yield lambda indices: (prepare_sample(source, how, index) for index in indices)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(count, context, _start_worker, (source, how)) as pool:
        try:
            yield lambda indices: pool.map(_work_here, indices, chunksize=CHUNK)
        except BrokenProcessPool:
            raise TetherError(
                "a worker process died, most likely out of memory: give fewer workers; the same command continues"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _spread(
    source: Source, how: Preparation, samples: Sequence[int], workers: int | None
) -> AbstractContextManager[Results]:
    """The same, on a cluster; Ray is imported here alone.

    Raises:
        TetherError: when it is not installed.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise TetherError("--ray needs Ray and pyarrow: pip install 'tether-control[ray]'")
    from tether.datasets.spread import spread_results

    return spread_results(source, how, samples, workers)


_JOB: ContextVar[tuple[Source, Preparation]] = ContextVar("job")
"""The source and settings of a worker process; set once when it starts, so that they are not sent with every sample."""


def _start_worker(source: Source, how: Preparation) -> None:
    _JOB.set((source, how))
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which stops its workers
    parent = multiprocessing.parent_process()
    if parent is not None:  # a killed parent cannot stop its workers
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _work_here(index: int) -> Prepared | Rejected:
    return prepare_sample(*_JOB.get(), index)
