"""Checks a finished dataset against its manifest, and draws a contact sheet of it."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tether.datasets.manifest import PARTS, Manifest, read_manifest
from tether.datasets.shards import TarReader
from tether.datasets.source import Rejected
from tether.errors import TetherError
from tether.images import contact_sheet, open_image

__all__ = ["Report", "check_dataset", "open_dataset", "show_dataset"]

SHOWN_SIDE = 256


@dataclass(frozen=True)
class Report:
    """The result of `check_dataset`: the manifest, and what is wrong, a line each; empty if nothing is."""

    manifest: Manifest
    faults: tuple[str, ...]


def open_dataset(out: Path | str) -> tuple[Manifest, TarReader]:
    """A finished dataset's manifest and samples.

    Raises:
        TetherError: if there is none, it is unfinished, or a shard is missing.
    """
    out = Path(out)
    manifest = _manifest(out)
    paths = [out / shard.name for shard in manifest.shards]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise TetherError(f"{out} is incomplete: {missing[0]} is missing; delete it and build it again")
    return manifest, TarReader(paths)


def _manifest(out: Path) -> Manifest:
    manifest = read_manifest(out)
    if manifest is None:
        begun = (out / PARTS).is_dir()
        what = "an unfinished dataset: run the same build again" if begun else "no dataset: run `tether dataset build`"
        raise TetherError(f"{out} contains {what}")
    return manifest


def check_dataset(out: Path | str) -> Report:
    """Compares every file of a dataset with the manifest, and checks every sample.

    Raises:
        TetherError: if there is no finished dataset, or its manifest is damaged.
    """
    out = Path(out)
    manifest = _manifest(out)
    faults = manifest.faults(out)
    for shard in manifest.shards:
        if not any(fault.startswith(shard.name) for fault in faults):
            without = manifest.settings.get("reading", {}).get("captions") == "none"
            faults += _sample_faults(out / shard.name, shard.samples, without)
    known = {shard.name for shard in manifest.shards}
    faults += [f"{path.name} is not in the manifest" for path in sorted(out.glob("*.tar")) if path.name not in known]
    if sum(shard.samples for shard in manifest.shards) != manifest.samples:
        faults.append("the manifest's number of samples differs from that of its shards")
    return Report(manifest, tuple(faults))


def _sample_faults(path: Path, count: int, without_captions: bool) -> list[str]:
    """What is wrong with the samples of a shard whose checksum is right."""
    reader = TarReader([path])
    faults = [] if len(reader) == count else [f"{path.name} has {len(reader)} samples instead of {count}"]
    contents = Counter(str(reader.meta(index).get("content")) for index in range(len(reader)))
    faults += [f"{path.name} has a sample {times} times" for times in contents.values() if times > 1]
    for index, member in enumerate(reader.members):
        try:
            sample = reader.sample(index)
        except Rejected as fault:
            faults.append(f"{member.key}: {fault.detail}")
            continue
        if not sample.caption and not without_captions:
            faults.append(f"{member.key} has no caption")
        if _size(sample.image) != _size(sample.condition):
            faults.append(f"{member.key}: image and condition differ in size")
    return faults


def _size(encoded: object) -> tuple[int, int] | None:
    """Width and height from the header: the checksum covers the rest."""
    if not isinstance(encoded, bytes):
        return None
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


def show_dataset(out: Path | str, count: int = 12) -> Image.Image:
    """A contact sheet of `count` samples, evenly spaced: image and condition side by side, captions below.

    Raises:
        TetherError: if there is no finished dataset, or a sample cannot be read.
    """
    if count < 1:
        raise TetherError(f"count is {count}: give at least 1")
    manifest, reader = open_dataset(out)
    kind = str(manifest.settings["condition"])
    cells: list[Image.Image] = []
    words: list[str] = []
    for index in np.linspace(0, len(reader) - 1, min(count, len(reader))).round().astype(int):
        try:
            sample = reader.sample(int(index))
        except Rejected as fault:
            raise TetherError(f"cannot read sample {index} of {out}: {fault.detail}") from None
        for encoded in (sample.image, sample.condition):
            assert isinstance(encoded, bytes)
            image = open_image(io.BytesIO(encoded))
            image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BOX)
            cells.append(image)
        words += [sample.caption, kind]
    columns = 4
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    labels = [words[start : start + columns] for start in range(0, len(words), columns)]
    return contact_sheet(rows, labels)
