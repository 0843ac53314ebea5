"""Watching a control learn: a fixed set of validation pictures, drawn again and again with the same seeds.

Each look draws every validation sample twice, with its prompt and without one (then nothing but the condition says what
to draw), measures how far the condition is obeyed, and adds a row to two contact sheets. Seeds, prompts and conditions
never change, so whatever changes from row to row is the control.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tether.base import Base
from tether.control import ControlNet
from tether.kinds import Metric
from tether.sampling import Pipeline
from tether.training.events import Look

__all__ = ["PictureWatcher", "ValidationSample"]

_THUMBNAIL = 128
_LABEL = 96
_ROW = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class ValidationSample:
    """One validation picture to draw.

    Attributes:
        prompt: what is asked for.
        condition: the condition, RGB.
        picture: the picture that it was made from, for the sheet; may be left out.
    """

    prompt: str
    condition: Image.Image
    picture: Image.Image | None = None


class PictureWatcher:
    """A `tether.training.events.Watcher` that draws pictures.

    Args:
        base: the base.
        samples: what to draw, always the same.
        metric: obedience of a picture; without one there are only pictures to look at, and obedience is None.
        folder: where the contact sheets `with-prompt.png` and `without-prompt.png` are, and their rows.
        steps, guidance_scale: of the sampler, DPM-Solver++. Without a prompt there is nothing to guide by.
        seed: sample k is drawn with `seed + k`.
    """

    def __init__(
        self,
        base: Base,
        samples: Sequence[ValidationSample],
        metric: Metric | None,
        folder: Path,
        *,
        steps: int = 10,
        guidance_scale: float = 5.0,
        seed: int = 0,
    ) -> None:
        self.base, self.samples, self.metric, self.folder = base, list(samples), metric, folder
        self.steps, self.guidance_scale, self.seed = steps, guidance_scale, seed

    def __call__(self, step: int, control: ControlNet) -> Look:
        """Draws, measures, and adds a row to the sheets."""
        pipe = Pipeline(self.base, [control])  # type: ignore[list-item]
        obeyed = []
        for sheet, prompted in (("with-prompt", True), ("without-prompt", False)):
            pictures = [self._draw(pipe, index, prompted) for index in range(len(self.samples))]
            obeyed.append(self._obedience(pictures))
            self._add_row(sheet, step, pictures, obeyed[-1])
        return Look(step, *obeyed)

    def _draw(self, pipe: Pipeline, index: int, prompted: bool) -> Image.Image:
        sample = self.samples[index]
        pictures = pipe(
            sample.prompt if prompted else "",
            [sample.condition],
            seed=self.seed + index,
            steps=self.steps,
            guidance_scale=self.guidance_scale if prompted else 1.0,
            size=sample.condition.size,
        )
        assert isinstance(pictures, list)
        return pictures[0]

    def _obedience(self, pictures: Sequence[Image.Image]) -> float | None:
        if self.metric is None:
            return None
        pairs = zip(pictures, self.samples, strict=True)
        return float(np.mean([self.metric(picture, sample.condition) for picture, sample in pairs]))

    def _add_row(self, sheet: str, step: int, pictures: Sequence[Image.Image], obeyed: float | None) -> None:
        rows = self.folder / sheet
        rows.mkdir(parents=True, exist_ok=True)
        label = f"step {step}" + ("" if obeyed is None else f"\nobeys {obeyed:.3f}")
        _write(rows / f"step-{step:08d}.png", _strip(pictures, label))
        # Rows of later steps are of a sitting that was killed after its last checkpoint; they will come again.
        found = {int(match[1]): path for path in rows.glob("*.png") if (match := _ROW.fullmatch(path.stem))}
        strips = [_strip([sample.condition for sample in self.samples], "condition")]
        originals = [sample.picture for sample in self.samples if sample.picture is not None]
        if len(originals) == len(self.samples):
            strips.append(_strip(originals, "made from"))
        for row in sorted(row for row in found if row <= step):
            with Image.open(found[row]) as strip:
                strips.append(strip.convert("RGB"))
        whole = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
        top = 0
        for strip in strips:
            whole.paste(strip, (0, top))
            top += strip.height
        _write(self.folder / f"{sheet}.png", whole)


def _strip(pictures: Sequence[Image.Image], label: str) -> Image.Image:
    """Small pictures side by side behind a label."""
    small = [picture.convert("RGB") for picture in pictures]
    for picture in small:
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    strip = Image.new("RGB", (_LABEL + len(small) * (_THUMBNAIL + 2), max(p.height for p in small) + 2), "white")
    ImageDraw.Draw(strip).multiline_text((4, 4), label, fill="black")
    for index, picture in enumerate(small):
        strip.paste(picture, (_LABEL + index * (_THUMBNAIL + 2), 0))
    return strip


def _write(path: Path, image: Image.Image) -> None:
    """Writes a PNG so that the path never holds half of one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(part, "PNG")
    part.replace(path)
