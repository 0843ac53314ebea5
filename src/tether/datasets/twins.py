"""Samples whose files are the same as another's, found without reading all files.

Only files of equal size can be equal, so only those are compared. The same pixels in another file are not found: for
that every image must be decoded, which `tether dataset build` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tether.datasets.source import ImageData, Rejected, Source

__all__ = ["repeated_files", "sizes_of"]


def repeated_files(source: Source, samples: Iterable[int]) -> set[int]:
    """Those of `samples` whose image and condition are the same files, byte by byte, as an earlier one's."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index in samples:
        sizes = source.file_sizes(index)
        if sizes is not None:
            by_size.setdefault(sizes, []).append(index)
    repeated: set[int] = set()
    for alike in by_size.values():
        seen: set[bytes] = set()
        for index in alike if len(alike) > 1 else ():
            found = _hash(source, index)
            if found in seen:
                repeated.add(index)
            elif found is not None:
                seen.add(found)
    return repeated


def sizes_of(files: Iterable[ImageData | None]) -> tuple[int, ...] | None:
    """Bytes of files, of those that are given; None if one cannot be read."""
    try:
        return tuple(path.stat().st_size for path in files if isinstance(path, Path))
    except OSError:
        return None


def _hash(source: Source, index: int) -> bytes | None:
    try:
        sample = source.sample(index)
        sha = hashlib.sha256()
        for data in (sample.image, sample.condition):
            read = data.read_bytes() if isinstance(data, Path) else data
            sha.update(hashlib.sha256(read if isinstance(read, bytes) else b"").digest())
    except (Rejected, OSError):
        return None
    return sha.digest()
