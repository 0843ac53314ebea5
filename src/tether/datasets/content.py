"""Whether a source's files are the ones that a dataset was built from.

    OUT/.source.json        {"stamp": ..., "content": ...}

    OUT/.repeated.json      {KEY: [number, ...]}

`content` is a SHA-256 of the files' bytes: it is the same wherever they lie. Reading all of them takes long, so it is
computed again only when the stamp (their names, sizes and times of change) has changed. So it is with the samples whose
files are the same as others'; KEY is a digest of the stamp and of the samples that were looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tether.datasets.manifest import digest, read_json, write_json
from tether.datasets.source import Source
from tether.datasets.twins import repeated_files
from tether.files.atomic import make_folder

__all__ = ["STAMP", "known_content", "known_repeated"]

STAMP = ".source.json"
REPEATED = ".repeated.json"


def known_content(source: Source, out: Path) -> str | None:
    """SHA-256 of the bytes of a source's files; None if it has none.

    Args:
        source: the source.
        out: the folder of the dataset, where the stamp is kept.
    """
    states = [_state(path) for path in source.files()]
    if not states:
        return None
    stamp, kept = digest(states), read_json(out / STAMP)
    if isinstance(kept, dict) and kept.get("stamp") == stamp and isinstance(kept.get("content"), str):
        return kept["content"]
    content = source.content()
    make_folder(out)
    write_json(out / STAMP, {"stamp": stamp, "content": content})
    return content


def known_repeated(source: Source, samples: Sequence[int], out: Path, *, keep: bool = True) -> set[int]:
    """`repeated_files`, without reading files that have not changed since it was kept.

    Args:
        source: the source.
        samples: those that are looked at.
        out: the folder of the run, where what was found is kept.
        keep: whether it is kept there.
    """
    states = [_state(path) for path in source.files()]
    if not states:
        return repeated_files(source, samples)
    key, kept = digest([states, source.fingerprint(), list(samples)]), read_json(out / REPEATED)
    kept = kept if isinstance(kept, dict) else {}
    if isinstance(kept.get(key), list):
        return set(kept[key])
    found = repeated_files(source, samples)
    if keep:
        make_folder(out)
        write_json(out / REPEATED, kept | {key: sorted(found)})
    return found


def _state(path: Path) -> list[object]:
    try:
        found = path.stat()
    except OSError:
        return [path.name, None, None]
    return [path.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns]  # programs can set the mtime back
