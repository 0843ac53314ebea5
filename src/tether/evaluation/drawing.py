"""Draws the pictures that are measured, each once: what is already in the folder is not drawn again.

    OUT/canny/scenes-scene-1000003-0-5f2c81d09a6b7e34.png      set, case, seed, digest
    OUT/source/scenes-scene-1000003-90ac8e4b3d7f0d11.png       the held-out picture itself

The digest is of everything that a picture depends on: the request with its condition maps, base and controls with their
weights and settings, the versions of the packages. So settings may change from run to run in one folder, and the
pictures at strength 0 serve all of them. Each is a PNG that `tether generate --again` repeats.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.base import Base
from tether.datasets.manifest import digest
from tether.errors import TetherError
from tether.evaluation.cases import Case
from tether.files.hashing import hash_modules
from tether.images import open_image, save_png
from tether.sampling import ControlRequest, Drawn, Request, Session
from tether.sampling.together import alike

__all__ = ["Arm", "Artist", "Steering", "seeds_of"]


@dataclass(frozen=True)
class Steering:
    """A control of an arm.

    Attributes:
        ref: what `tether.load_control` opens.
        kind: the kind of its conditions.
        settings: further fields of `tether.sampling.ControlRequest`: strength, weighting, sides, window.
    """

    ref: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way to draw all cases.

    Attributes:
        name: for people.
        controls: those that steer; none for the base alone, which is what strength 0 draws, to the byte.
    """

    name: str
    controls: tuple[Steering, ...] = ()


class Artist:
    """Draws cases in arms.

    Args:
        session: what draws.
        template: the request of every picture, without prompt, seed and controls.
        folder: where the pictures are kept.
        batch: how many are drawn at once. More is faster, and a picture may differ by a level of 255 from the one that
            is drawn alone.
    """

    def __init__(self, session: Session, template: Request, folder: Path, batch: int = 1) -> None:
        self.session, self.template, self.folder, self.batch = session, template, folder, batch
        self._weights: dict[tuple[str, ...], str] = {}
        self.drawn = 0

    @property
    def base(self) -> Base:
        """The base that draws."""
        return self.session.open(self.template).base

    def picture(self, case: Case, arm: Arm, seed: int) -> Path:
        """The file of the picture of a case, drawn if it is not there.

        Raises:
            TetherError: when it cannot be drawn or written.
        """
        return next(self.pictures([(case, seed)], arm))

    def pictures(self, wanted: Sequence[tuple[Case, int]], arm: Arm) -> Iterator[Path]:
        """The files of the pictures of cases with seeds, in their order; those of a batch that are not there are drawn
        at once, where they can be (`tether.sampling.together.alike`).

        Raises:
            TetherError: as `picture`.
        """
        for start in range(0, len(wanted), self.batch):
            some = wanted[start : start + self.batch]
            requests = [self.session.prepare(self.request(case, arm, seed)) for case, seed in some]
            paths = [self._path(case, arm, seed, request) for (case, seed), request in zip(some, requests, strict=True)]
            missing = {path: request for path, request in zip(paths, requests, strict=True) if not _is_whole(path)}
            for path, one in zip(missing, self._draw(list(missing.values())), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_png(one.image, path, one.metadata)
                self.drawn += 1
            yield from paths

    def _draw(self, requests: Sequence[Request]) -> Iterator[Drawn]:
        """The pictures of prepared requests, together if that is possible."""
        shared = {alike(one) for one in requests} if len(requests) > 1 else set()
        if len(shared) == 1 and shared != {""}:
            together = self.session.draw_together(requests)
            if together is not None:
                yield from (one for (one,) in together)
                return
        for request in requests:
            yield from self.session.draw(request)

    def source(self, case: Case) -> Path:
        """The file of the held-out picture itself, written if it is not there: for tools that compare folders."""
        code = hashlib.sha256(case.pixels.tobytes()).hexdigest()[:16]
        path = self.folder / "source" / f"{_slug(case.key)}-{code}.png"
        if not _is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(case.image, path, {})
        return path

    def request(self, case: Case, arm: Arm, seed: int) -> Request:
        """The request of a picture."""
        controls = [
            ControlRequest(ref=one.ref, condition=case.maps[one.kind], source=case.key, invert=False, **one.settings)
            for one in arm.controls
        ]
        filling = {} if case.mask is None else {"init": case.image, "mask": case.mask, "denoising_strength": 1.0}
        return self.template.model_copy(
            update={"prompt": case.prompt, "seed": seed, "size": case.image.size, "controls": controls, **filling}
        )

    def _path(self, case: Case, arm: Arm, seed: int, request: Request) -> Path:
        refs = tuple(one.ref for one in arm.controls)
        if refs not in self._weights:
            pipeline = self.session.open(request)
            modules = {f"base.{k}": module for k, module in enumerate(pipeline.base.modules())}
            modules |= {f"control.{k}": control for k, control in enumerate(pipeline.controls)}
            settings = [[control.sides, dict(control.config)] for control in pipeline.controls]
            self._weights[refs] = digest([hash_modules(modules), settings])
        code = digest([self._weights[refs], request.model_dump(mode="json", exclude={"fingerprints"})])[:16]
        return self.folder / _slug(arm.name) / f"{_slug(case.key)}-{seed}-{code}.png"


def seeds_of(first: int, number: int, images: int) -> Sequence[int]:
    """The seeds of the pictures of a case with a number: more pictures, or more cases, begin with the same ones."""
    return [first + number + 100_000 * k for k in range(images)]


def _is_whole(path: Path) -> bool:
    """Whether a picture is there and can be read; a damaged one is drawn again."""
    if not path.is_file():
        return False
    try:
        open_image(path)
    except TetherError:
        return False
    return True


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+]+", "-", text.replace("/", " ")).strip("-.")[-80:] or "picture"
