"""Makes a dataset: decodes, annotates, checks, and writes shards, on all cores, and goes on where it was killed.

    OUT/shard-00000.tar ...     samples, see `tether.datasets.shards`
    OUT/quarantine.jsonl        a line {"key", "reason", "detail"} for each sample that was left out
    OUT/manifest.json           settings, counts, and the SHA-256 of each file above

Shard k holds what is good among the source's samples kN ... (k+1)N - 1. So it depends on the source, on the settings
and on which pictures came before (duplicates), and on nothing else: not on the number of processes, not on stops.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from tether.datasets.manifest import (
    PARTS,
    Manifest,
    Parts,
    ShardRecord,
    difference,
    hash_file,
    read_manifest,
    write_file,
    write_manifest,
)
from tether.datasets.samples import Preparation, Prepared, Rejected, prepare
from tether.datasets.shards import write_tar
from tether.datasets.sources import BUILTIN, Source, open_source
from tether.errors import TetherError

__all__ = ["Progress", "build_dataset"]

FORMAT = 1
CHUNK = 8
QUARANTINE = "quarantine.jsonl"

Progress = Callable[[int, int], None]
"""Called with how many samples (or shards) are done and how many there are."""

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
    on_progress: Progress | None = None,
) -> Manifest:
    """Builds a dataset in a folder, or goes on with one, or finds it finished.

    Bad samples are left out and named in `quarantine.jsonl` with a reason: "unreadable", "too small", "wrong mode",
    "duplicate", "empty caption", "condition unreadable", "condition size", "not annotated".

    Args:
        source: what to read; see `tether.datasets.sources.open_source`.
        out: the folder. It is made; a finished dataset with the same settings is left as it is.
        condition: the kind of condition to annotate; where the source brings conditions, what they are called.
        options: the annotator's options; left out, they are drawn at random for each sample where the annotator can.
        size: larger pictures are reduced until their shorter side has so many pixels.
        min_side: pictures with a shorter side than this, or than `size` where that is less, are left out.
        count: how many samples the package's own sets draw.
        shard_size: source samples a shard.
        workers: processes; one a core when left out, 0 works in this one. With any, call from under
            `if __name__ == "__main__":`.
        on_progress: called after each sample.

    Raises:
        TetherError: where there is no such source or condition, the folder holds something else, no sample is good, or
            the disk is full.
    """
    out = Path(out)
    if shard_size < 1 or (workers is not None and workers < 0):
        raise TetherError(f"shard_size is {shard_size} and workers {workers}: give at least 1 and 0")
    how = Preparation(condition, options, size, min_side)
    if not isinstance(source, Source):
        if str(source) not in BUILTIN and out.resolve().is_relative_to(Path(source).resolve()):
            raise TetherError(f"{out} lies in {source}, and would be read as a source: give a folder elsewhere")
        source = open_source(source, size=size, count=count)
    how.check_condition(source.has_conditions)
    settings = {
        "format": FORMAT,
        "source": {"kind": source.kind, "samples": len(source), "fingerprint": source.fingerprint()},
        "condition": condition,
        "annotated": not source.has_conditions,
        "options": None if options is None else dict(options),
        "size": size,
        "min_side": min_side,
        "shard_size": shard_size,
    }
    if (finished := _finished(out, settings)) is not None:
        return finished
    parts = Parts(out, settings)
    ranges = [range(start, min(start + shard_size, len(source))) for start in range(0, len(source), shard_size)]
    records = []
    contents: dict[str, str] = {}
    with _results(source, how, workers) as results:
        for number, samples in enumerate(ranges):
            record = parts.load(number)
            if record is None or not _is_whole(out, record):
                report = _reporter(on_progress, samples.start, len(source))
                record = _make_shard(out, number, samples, source, report(results(samples)), contents)
                parts.save(number, record)
            elif on_progress is not None:
                on_progress(samples.stop, len(source))
            contents.update(record["contents"])
            records.append(record)
    return _finish(out, settings, records)


def _finished(out: Path, settings: dict[str, Any]) -> Manifest | None:
    """The manifest where `out` holds this dataset already, None where it is to be made."""
    if out.exists() and not out.is_dir():
        raise TetherError(f"{out} is a file: give a folder for the dataset")
    manifest = read_manifest(out)
    if manifest is not None:
        if manifest.settings != settings:
            told = difference(manifest.settings, settings)
            raise TetherError(f"{out} holds a finished dataset with {told}: give another folder, or delete it")
        Parts.clear(out)
        return manifest
    if out.is_dir() and any(out.iterdir()) and not (out / PARTS).is_dir():
        raise TetherError(f"{out} is not empty and holds no dataset: give a new folder")
    return None


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
    """Writes one shard and returns its record: the file, contents by hash, and what was left out.

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
        write_file(path, lambda part: write_tar(part, good))
        shard = ShardRecord.of(path, len(good)).model_dump()
    return {"shard": shard, "contents": contents, "quarantined": quarantined}


def _finish(out: Path, settings: dict[str, Any], records: list[dict[str, Any]]) -> Manifest:
    """Writes the quarantine and the manifest."""
    quarantined = [entry for record in records for entry in record["quarantined"]]
    shards = tuple(ShardRecord(**record["shard"]) for record in records if record["shard"])
    reasons = Counter(entry["reason"] for entry in quarantined)
    if not shards:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        first = quarantined[0]
        raise TetherError(f"no sample is good ({told}); the first, {first['key']}: {first['detail']}")
    lines = "".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in quarantined)
    write_file(out / QUARANTINE, lambda part: part.write_text(lines, encoding="utf-8", errors="backslashreplace"))
    manifest = Manifest(
        settings=settings,
        samples=sum(shard.samples for shard in shards),
        shards=shards,
        quarantined=dict(sorted(reasons.items())),
        files={QUARANTINE: hash_file(out / QUARANTINE)},
    )
    write_manifest(out, manifest)
    return manifest


def _reporter(on_progress: Progress | None, start: int, total: int) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """Passes results on and tells of each."""

    def report(results: Iterable[Any]) -> Iterator[Any]:
        for done, result in enumerate(results, start=start + 1):
            yield result
            if on_progress is not None:
                on_progress(done, total)

    return report


def _work(source: Source, how: Preparation, index: int) -> Prepared | Rejected:
    try:
        return prepare(source[index], how)
    except Rejected as fault:
        return fault
    except OSError as error:
        return Rejected("unreadable", f"its file cannot be read: {error.strerror or error}")
    except (ValueError, MemoryError, cv2.error) as error:  # one odd sample must not stop a million others
        return Rejected("unreadable", (str(error) or type(error).__name__).strip().splitlines()[0])


@contextmanager
def _results(source: Source, how: Preparation, workers: int | None) -> Iterator[Results]:
    """A function from sample numbers to results in the same order, in this process or in `workers` others."""
    count = (os.cpu_count() or 1) if workers is None else workers
    if count == 0:
        yield lambda indices: (_work(source, how, index) for index in indices)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(count, context, _start_worker, (source, how)) as pool:
        try:
            yield lambda indices: pool.map(_work_here, indices, chunksize=CHUNK)
        except BrokenProcessPool:
            raise TetherError(
                "a worker process died, most likely of too little memory: give fewer workers; the same command goes on"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_here: dict[str, Any] = {}
"""What a worker process works on; set once when it starts, so that it is not sent with every sample."""


def _start_worker(source: Source, how: Preparation) -> None:
    _here.update(source=source, how=how)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops its workers
    parent = multiprocessing.parent_process()
    if parent is not None:  # a parent that is killed tells its workers nothing
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _work_here(index: int) -> Prepared | Rejected:
    return _work(_here["source"], _here["how"], index)
