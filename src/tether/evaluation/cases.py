"""What is measured: held-out pictures with prompts and condition maps, at the size that is drawn.

Of the sets that the package draws, what no training sees is taken: held-out names, held-out scenes. Of a folder, tars
or tables, the split "test" is, else "validation", else all of it, and a line says so.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from tether.datasets.holes import random_holes
from tether.datasets.names import Reading
from tether.datasets.source import ImageData, Rejected, Source
from tether.datasets.sources.open import BUILTIN, open_source
from tether.datasets.sources.splits import NoSuchSplit
from tether.datasets.synthetic.builtin import builtin_source
from tether.errors import TetherError
from tether.images import fit, open_image, to_rgb
from tether.kinds import find_kind, fit_map, prepare

__all__ = ["Case", "HeldOut", "can_be_made", "held_out_cases", "open_held_out"]

SPLITS = ("test", "validation")
ORDER = 20
"""The seed of the order in which samples are taken."""


@dataclass(frozen=True)
class Case:
    """One held-out picture.

    Attributes:
        key: identifies it.
        prompt: its caption.
        image: RGB, of the size that is drawn.
        maps: its condition maps by kind, RGB, of that size.
        exact: the kinds whose maps its source computed, without an annotator.
        annotated: the kinds whose maps their first annotator made.
        layout: of its source, "scenes".
        mask: white where it is to be inpainted, for kinds that need one.
        number: its place in its set, from 0: its seeds follow from it.
        subject: what it shows; cases of one subject, such as the same drawing at another place, are not independent.
    """

    key: str
    prompt: str
    image: Image.Image
    maps: Mapping[str, Image.Image]
    exact: frozenset[str] = frozenset()
    annotated: frozenset[str] = frozenset()
    layout: str = ""
    mask: Image.Image | None = None
    number: int = 0
    subject: str = ""

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 `(H, W, 3)` of the picture."""
        return np.asarray(self.image)


@dataclass(frozen=True)
class HeldOut:
    """A source of held-out pictures.

    Attributes:
        ref: as it was asked for.
        source: the source.
        split: what of it is read, for people.
    """

    ref: str
    source: Source
    split: str


def open_held_out(ref: str | Path, size: int, reading: Reading | None = None) -> HeldOut:
    """Opens what of a set no training saw.

    Args:
        ref: what `open_source` opens.
        size: side of the pictures that the built-in sets draw.
        reading: how the source's names are read; its `split` is taken if it has one.

    Raises:
        TetherError: as `open_source`.
    """
    reading = reading or Reading()
    if str(ref) in BUILTIN:
        if named := ", ".join(set(reading.given()) - {"condition_column"}):
            raise TetherError(f"{ref} is drawn by the package: leave {named} out")
        return HeldOut(str(ref), builtin_source(str(ref), size, None, held_out=True), "held out")
    if reading.split is not None:
        return HeldOut(str(ref), open_source(ref, reading=reading), reading.split)
    for split in SPLITS:
        try:
            return HeldOut(str(ref), open_source(ref, reading=replace(reading, split=split)), split)
        except NoSuchSplit:
            continue
    return HeldOut(str(ref), open_source(ref, reading=reading), "all, trained on or not")


def held_out_cases(
    sets: Sequence[HeldOut],
    kinds: Sequence[str],
    size: tuple[int, int],
    count: int,
    *,
    use_given: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Case]:
    """Held-out pictures with maps of some kinds, as many of each set.

    Args:
        sets: where they come from.
        kinds: whose maps are needed.
        size: width and height in pixels.
        count: how many in all; there are fewer when the sets have fewer. More of them begin with the same ones.
        use_given: whether a condition that a source brings is used, for the one kind (or the only one that cannot be
            annotated); else all are made from the images.
        on_progress: called with how many are done, and `count`.

    Raises:
        TetherError: when no sample can be used, with the reason of the first.
    """
    shares = [count // len(sets) + (k < count % len(sets)) for k in range(len(sets))]
    found: list[Case] = []
    for one, share in zip(sets, shares, strict=True):
        reader = _Reader(one, kinds, size, use_given)
        for taken, case in enumerate(reader.cases()):
            if taken == share:
                break
            found.append(replace(case, number=taken))
            if on_progress is not None:
                on_progress(len(found), count)
        if share and not any(case.key.startswith(f"{one.ref}/") for case in found):
            raise TetherError(f"{one.ref} has no sample to measure: {reader.fault or 'it is empty'}")
    return found


class _Reader:
    """Reads the cases of one set."""

    def __init__(self, held_out: HeldOut, kinds: Sequence[str], size: tuple[int, int], use_given: bool) -> None:
        self.held_out, self.kinds, self.size = held_out, kinds, size
        self.source, self.fault = held_out.source, ""
        self.given = _given_kind(self.source, kinds) if use_given else None
        for kind in kinds:
            if kind != self.given and kind not in self.source.exact_conditions and not can_be_made(kind):
                raise TetherError(
                    f"{held_out.ref} has no {kind} maps, and nothing here makes them: give --data a set that has, such "
                    f"as {'scenes' if kind in ('depth', 'normal', 'seg', 'openpose') else 'a folder of pairs'}"
                )

    def cases(self) -> Iterator[Case]:
        """Those samples that can be used, in an order that does not depend on how many are taken."""
        source, samples = self.source, range(len(self.source))
        for index in samples if source.is_shuffled else _shuffled(source, samples):
            if not all(source.is_usable(index, kind) for kind in self.kinds):
                continue
            try:
                yield self._case(index)
            except (Rejected, TetherError) as error:
                self.fault = self.fault or f"{self.source.key(index)}: {error}"

    def _case(self, index: int) -> Case:
        key = f"{self.held_out.ref}/{self.source.key(index)}"
        exact = [kind for kind in self.kinds if kind in self.source.exact_conditions]
        samples = {kind: self.source.sample(index, kind) for kind in exact}
        sample = next(iter(samples.values()), None) or self.source.sample(index)
        photo = _opened(sample.image, "white")
        maps = {kind: _map(one.condition, kind, self.size) for kind, one in samples.items()}
        if self.given is not None:
            maps[self.given] = _map(sample.condition, self.given, self.size)
        rng = np.random.default_rng(int(hashlib.sha256(key.encode()).hexdigest()[:16], 16))
        annotated = [kind for kind in self.kinds if kind not in maps]
        for kind in annotated:
            maps[kind] = _made(photo, kind, self.size, rng)
        mask = None
        if any(find_kind(kind).needs_mask for kind in self.kinds):
            mask = Image.fromarray(random_holes(*self.size, rng).astype(np.uint8) * np.uint8(255))
        prompt = next(iter(sample.captions), "")
        image = to_rgb(fit(photo, *self.size))
        subject = f"{self.held_out.ref}/{self.source.subject(index)}"
        return Case(
            key,
            prompt,
            image,
            maps,
            frozenset(exact),
            frozenset(annotated),
            self.source.layout,
            mask,
            subject=subject,
        )


def _shuffled(source: Source, indices: Sequence[int]) -> list[int]:
    """In random order, always the same: one sample of every subject, then a second one of each, and so on."""
    order = np.random.default_rng(ORDER).permutation(len(indices))
    seen: Counter[str] = Counter()
    rounds: dict[int, list[int]] = {}
    for index in (indices[k] for k in order):
        subject = source.subject(index)
        rounds.setdefault(seen[subject], []).append(index)
        seen[subject] += 1
    return [index for one in rounds.values() for index in one]


def _given_kind(source: Source, kinds: Sequence[str]) -> str | None:
    """The kind that the conditions which a source brings are of."""
    if not source.has_conditions or not kinds:
        return None
    if len(kinds) == 1:
        return kinds[0]
    others = [kind for kind in kinds if not can_be_made(kind)]
    return others[0] if len(others) == 1 else None


def can_be_made(kind: str) -> bool:
    """Whether maps of a kind can be made here: its first annotator lacks no weights, or its maps are images."""
    known = find_kind(kind)
    if not known.annotators:
        return known.is_image
    try:
        known.annotator().check_ready()
    except TetherError:
        return False
    return True


def _made(photo: Image.Image, kind: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """The map of a photo: by the kind's annotator at default options, or the photo with detail taken from it."""
    known = find_kind(kind)
    varied = rng if known.is_image and known.vary is not None else None
    return prepare(photo, kind, size, rng=varied).condition


def _map(condition: ImageData | None, kind: str, size: tuple[int, int]) -> Image.Image:
    if condition is None:
        raise Rejected("empty condition", f"the sample has no {kind} map")
    return fit_map(_opened(condition, "black"), kind, size)


def _opened(data: ImageData, ground: str) -> Image.Image:
    if isinstance(data, Image.Image):
        return to_rgb(data, ground)  # type: ignore[arg-type]
    return open_image(io.BytesIO(data) if isinstance(data, bytes) else data, background=ground)  # type: ignore[arg-type]
