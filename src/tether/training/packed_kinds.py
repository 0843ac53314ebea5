"""Conditions of several kinds from a packed latents file with images; see `tether.training.packed`.

A kind's condition is the exact map of a row where the file has some, and else made of the row's image as everywhere in
the package (`tether.kinds.prepare`), with random variations where the kind has them, or random holes to inpaint. A map
that is black says nothing (no person is in the scene): such rows are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tether import kinds
from tether.datasets.holes import random_holes
from tether.errors import TetherError
from tether.images import to_rgb
from tether.kinds.scribble import random_scribble

__all__ = ["PackedConditions"]

MAPS = "maps_"
ANNOTATED_TOO = frozenset({"seg"})
"""Kinds that are annotated in rows without an exact map, where other rows have one. A network that looks for people, or
guesses depth, would find nothing in most drawings."""
VARIED = {"scribble": random_scribble}
"""Random variations of kinds that data sets are built of without any."""


class PackedConditions:
    """Makes the conditions of a file's rows.

    Args:
        images: uint8 `(N, H, W, 3)`.
        maps: kind -> exact maps of the last S rows, uint8 `(S, H, W, 3)`.
        wanted: the kinds that will be asked for.
        what: the file's name in messages.

    Raises:
        TetherError: for a kind that has neither maps nor an annotator, or none of whose maps shows anything.
    """

    def __init__(self, images: np.ndarray, maps: Mapping[str, np.ndarray], wanted: Sequence[str], what: str) -> None:
        self.images, self.maps = images, dict(maps)
        self._usable: dict[str, Tensor] = {}
        for kind in dict.fromkeys(wanted):
            self._usable[kind] = self._rows_of(kind)
            if not len(self._usable[kind]):
                raise TetherError(
                    f"{what} has no conditions of the kind {kind}: it has no maps of it, and no annotator makes them"
                )

    @classmethod
    def read(cls, file: Any, wanted: Sequence[str], what: str) -> PackedConditions:
        """The conditions of an opened `.npz` file; only maps of wanted kinds are read."""
        names = {MAPS + kind: kind for kind in wanted}
        return cls(file["images"], {kind: file[name] for name, kind in names.items() if name in file}, wanted, what)

    def __len__(self) -> int:
        return len(self.images)

    def usable(self, kind: str) -> Tensor:
        """The rows that have conditions of a kind, `(R,)`."""
        return self._usable[kind]

    def condition(self, row: int, kind: str, seed: int) -> Tensor:
        """The condition of a row.

        Args:
            row: its number.
            kind: one of the kinds that are wanted.
            seed: of random variations.

        Returns:
            uint8 `(3, H, W)`; float32 in [-1, 1] for a kind with holes, which are -1.
        """
        image, exact = self.images[row], self._map(row, kind)
        if exact is not None:
            return _planes(exact)
        rng = np.random.default_rng([row, seed])
        if kinds.find_kind(kind).needs_mask:
            holes = torch.from_numpy(random_holes(image.shape[1], image.shape[0], rng))
            return (_planes(image).float() / 255).masked_fill(holes, kinds.find_kind(kind).value_range[0])
        if kind in VARIED:
            return _planes(VARIED[kind](image, rng))
        size = image.shape[1], image.shape[0]
        made = kinds.prepare(Image.fromarray(image), kind, size, fit="stretch", rng=rng)
        return _planes(np.asarray(to_rgb(made.condition)))

    def _map(self, row: int, kind: str) -> np.ndarray | None:
        maps = self.maps.get(kind)
        first = len(self.images) - (0 if maps is None else len(maps))
        return None if maps is None or row < first else maps[row - first]

    def _rows_of(self, kind: str) -> Tensor:
        maps = self.maps.get(kind)
        first = len(self.images) - (0 if maps is None else len(maps))
        annotated = _is_annotated(kind) and (maps is None or kind in ANNOTATED_TOO)
        rows = torch.arange(first) if annotated else torch.arange(0)
        if maps is not None:
            shown = maps.reshape(len(maps), -1).any(axis=1)
            rows = torch.cat([rows, first + torch.from_numpy(np.flatnonzero(shown))])
        return rows


def _is_annotated(kind: str) -> bool:
    """Whether the kind's condition can be made of an image here."""
    try:
        kinds.annotatable(kind)
    except TetherError:
        return False
    return True


def _planes(pixels: np.ndarray) -> Tensor:
    """`(H, W, 3)` -> `(3, H, W)`."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
