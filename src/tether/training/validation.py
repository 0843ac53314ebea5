"""Validation: the same images drawn again and again with the same seeds, while a control learns.

Each validation draws every validation sample twice, with its prompt and without one (the condition alone then says what
to draw), measures the condition fidelity, and adds a row to two contact sheets. Seeds, prompts and conditions never
change, so whatever changes from row to row is the control. A sheet has the first row, the last one, and at most 58
between them, so that it stays small and quickly written; the rows' files have all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from tether.base import Base
from tether.control.control import Control
from tether.evaluation.fidelity import metric_of
from tether.files.atomic import atomic_write, make_folder
from tether.kinds import Metric
from tether.sampling import Guidance, Pipeline, Request
from tether.sampling.prompts import guidance_of
from tether.training.events import Validation

__all__ = ["ImageValidator", "ValidationSample"]

_TOGETHER = 8
"""Images of one batch. A single one leaves much of a processor idle; this many take less memory than training one."""
_ROWS = 60
"""Rows of a sheet. Of more, this many are in it, evenly spaced; the others' files stay."""
_THUMBNAIL = 128
_LABEL = 96
_ROW = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class ValidationSample:
    """One validation image to draw.

    Attributes:
        prompt: its prompt.
        condition: its condition, RGB.
        image: the image that the condition was made from, for the sheet; may be left out.
        mask: white where the image is to be inpainted, for conditions with holes; needs `image`.
        kind: the kind of its condition, for a control of several kinds.
    """

    prompt: str
    condition: Image.Image
    image: Image.Image | None = None
    mask: Image.Image | None = None
    kind: str | None = None


class ImageValidator:
    """A `tether.training.events.Validator` that draws images.

    Args:
        base: the base.
        samples: what to draw, always the same.
        metric: (image, condition) -> condition fidelity; without one images are only drawn, and fidelity is None.
            Samples that name their kind are measured by that kind's metric; those without one do not count.
        folder: gets the contact sheets `with-prompt.png` and `without-prompt.png`, and their rows.
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

    def __call__(self, step: int, control: Control) -> Validation:
        """Draws, measures, and adds a row to the sheets."""
        kinds = {sample.kind for sample in self.samples}
        pipes = {kind: self._pipeline(control if kind is None else control.of_kind(kind)) for kind in kinds}
        found = []
        for sheet, prompted in (("with-prompt", True), ("without-prompt", False)):
            images = self._draw(pipes, prompted)
            found.append(self._fidelity(images))
            self._add_row(sheet, step, images, found[-1])
        return Validation(step, *found)

    def _pipeline(self, control: Control) -> Pipeline:
        return Pipeline(self.base, [] if _is_silent(control) else [control])

    def _draw(self, pipes: Mapping[str | None, Pipeline], prompted: bool) -> list[Image.Image]:
        """All samples, with their prompts or without."""
        requests = [self._request(index, prompted) for index in range(len(self.samples))]
        # Captions are no prompts: as in training, parentheses and brackets in them are text.
        guidances = [guidance_of(each, self.base, each.size or (0, 0), syntax="plain") for each in requests]
        drawn: list[Image.Image] = []
        while (start := len(drawn)) < len(requests):
            batch = range(start, start + self._fitting(start, guidances))
            conditions = [self.samples[index].condition for index in batch]
            seeds = [self.seed + index for index in batch]
            request = requests[start].model_copy(update={"count": len(batch), "seed": seeds})
            guidance = Guidance.joined([guidances[index] for index in batch])
            pipe = pipes[self.samples[start].kind]
            drawn += pipe.draw(request, [conditions] if pipe.controls else [], guidance=guidance)
        return drawn

    def _fitting(self, start: int, guidances: Sequence[Guidance]) -> int:
        """How many samples are drawn in one batch: of one kind, size and length of prompt, and none to inpaint."""
        shapes = [
            (sample.kind, sample.condition.size, guidance.conditional.tokens.shape)
            for sample, guidance in zip(self.samples, guidances, strict=True)
        ]
        for count, index in enumerate(range(start, len(shapes))):
            masked = self.samples[index].mask is not None or self.samples[start].mask is not None
            if count == _TOGETHER or shapes[index] != shapes[start] or (count and masked):
                return count
        return len(shapes) - start

    def _request(self, index: int, prompted: bool) -> Request:
        sample = self.samples[index]
        return Request(
            prompt=sample.prompt if prompted else "",
            seed=self.seed + index,
            steps=self.steps,
            guidance_scale=self.guidance_scale if prompted else 1.0,
            size=sample.condition.size,
            init=None if sample.mask is None else sample.image,
            mask=sample.mask,
            denoising_strength=1.0,
        )

    def _fidelity(self, images: Sequence[Image.Image]) -> float | None:
        found = []
        for image, sample in zip(images, self.samples, strict=True):
            metric = self.metric if sample.kind is None else metric_of(sample.kind)
            if metric is not None:
                found.append(metric(image, sample.condition))
        return float(np.mean(found)) if found else None

    def _add_row(self, sheet: str, step: int, images: Sequence[Image.Image], fidelity: float | None) -> None:
        rows = self.folder / sheet
        make_folder(rows)
        label = f"step {step}" + ("" if fidelity is None else f"\nfidelity {fidelity:.3f}")
        _write(rows / f"step-{step:08d}.png", _strip(images, label))
        # Rows of later steps are of a run that was killed after its last checkpoint; they will come again.
        found = {int(match[1]): path for path in rows.glob("*.png") if (match := _ROW.fullmatch(path.stem))}
        strips = [_strip([sample.condition for sample in self.samples], "condition")]
        originals = [sample.image for sample in self.samples if sample.image is not None]
        if len(originals) == len(self.samples):
            strips.append(_strip(originals, "original"))
        rows_so_far = sorted(row for row in found if row <= step)
        shown = np.linspace(0, len(rows_so_far) - 1, min(_ROWS, len(rows_so_far))).round().astype(int)
        for row in (rows_so_far[place] for place in shown):
            with Image.open(found[row]) as strip:
                strips.append(strip.convert("RGB"))
        whole = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
        top = 0
        for strip in strips:
            whole.paste(strip, (0, top))
            top += strip.height
        _write(self.folder / f"{sheet}.png", whole)


def _is_silent(control: Control) -> bool:
    """Whether a control is known to give no signal: nothing of its zero convolutions has been learned yet."""
    zeros = [getattr(control, name, None) for name in ("controlnet_down_blocks", "controlnet_mid_block")]
    return all(
        isinstance(zero, nn.Module) and not any(bool(tensor.any()) for tensor in zero.parameters()) for zero in zeros
    )


def _strip(images: Sequence[Image.Image], label: str) -> Image.Image:
    """Small images side by side behind a label."""
    small = [image.convert("RGB") for image in images]
    for image in small:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    strip = Image.new("RGB", (_LABEL + len(small) * (_THUMBNAIL + 2), max(p.height for p in small) + 2), "white")
    ImageDraw.Draw(strip).multiline_text((4, 4), label, fill="black")
    for index, image in enumerate(small):
        strip.paste(image, (_LABEL + index * (_THUMBNAIL + 2), 0))
    return strip


def _write(path: Path, image: Image.Image) -> None:
    with atomic_write(path) as part:
        image.save(part, "PNG", compress_level=1)
