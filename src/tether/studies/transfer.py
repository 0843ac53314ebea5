"""A control on a fine-tuned base, with and without weight transfer (figure 12 of arXiv:2302.05543).

The base is fine-tuned, its whole U-Net, to draw in a style that it has never seen: emoji as blueprints. Their captions
stay as they are, so that afterwards it draws everything so. At some steps of the fine-tuning the shipped canny control
draws held-out conditions on it

- *unchanged*, as people use the published controls on community models,
- *transferred*: what it learned is added to the new base's encoder (`tether.control.transfer`).

Measured are condition fidelity and how far the pictures are from the style.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tether.base import load_base
from tether.control import load_control
from tether.control.transfer import transferred
from tether.datasets.sources.open import open_source
from tether.evaluation import Case, Evaluation
from tether.evaluation.drawing import Arm
from tether.evaluation.run import STRENGTH_0
from tether.files.writing import replacing
from tether.images import open_image, save_png
from tether.kinds.measures import Measure, Numbers
from tether.studies.bench import Bench, steered
from tether.studies.statistics import difference_of_seeds, score_of_seeds, signed
from tether.studies.study import Budget, Curve, Figure, Findings, Row, Study, Verdict
from tether.studies.whole import WholeUNet, write_base

__all__ = ["OFF_STYLE", "STUDY", "blueprint", "off_style"]

KIND, CONTROL, SET = "canny", "canny", "emoji3d"
FIDELITY, PROMPT = f"{KIND}/f1_2px", "prompt"
UNCHANGED, TRANSFERRED = "unchanged", "transferred"
ARMS = (STRENGTH_0, UNCHANGED, TRANSFERRED)
IMAGES, QUICK_IMAGES = 960, 4
"""Drawings in the style, of names that are not held out."""
TRAINING: dict[str, Any] = {
    "condition": KIND,
    "family": WholeUNet.family,
    "learning_rate": 1e-4,
    "prompt_dropout": 0.1,
    "crops": 1,
}
PAPER, LINES = (16, 34, 84), (236, 244, 255)
"""The colors of the style, RGB: of what was white, and of what was black."""
OFF_STYLE = Measure("off_style", "distance from the style", higher=False, unit="ΔE", digits=1)
TOLERANCE = 0.05
"""F1 that a control may lose for "works as before"."""
UNDONE = 0.5
"""What part of the way to the style a control may take back for "works on the fine-tuned base"."""


def blueprint(pixels: np.ndarray) -> np.ndarray:
    """An image, uint8 `(H, W, 3)`, as a blueprint: its lightness from `LINES` (dark) to `PAPER` (light)."""
    light = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) / 255
    return (light * np.array(PAPER, np.float32) + (1 - light) * np.array(LINES, np.float32)).round().astype(np.uint8)


def off_style(image: Image.Image, prompt: str) -> Numbers:
    """Mean distance of an image's pixels from the colors of the style, ΔE in CIELAB; the prompt is not used."""
    palette = _lab(blueprint(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)))[0]
    colors, inverse = np.unique(
        np.asarray(image.convert("RGB")).reshape(-1, 3) // 4 * 4 + 2, axis=0, return_inverse=True
    )
    distance = np.sqrt(np.square(_lab(colors[None])[0][:, None] - palette).sum(axis=2)).min(axis=1)
    return {"value": float(distance[inverse.reshape(-1)].mean())}


def run(bench: Bench) -> Findings:
    """The study."""
    cases = bench.cases([SET], [KIND])
    folder = _drawings(bench)
    moments = [0, bench.budget.steps] if bench.quick else _moments(bench.budget.steps)
    found: dict[int, list[Evaluation]] = {at: [] for at in moments}
    for seed in range(bench.budget.seeds):
        for at in moments:
            tuned = bench.train("blueprint", seed, at, {"data": str(folder), **TRAINING})
            base = write_base(bench.base, tuned, bench.out / "bases" / f"blueprint-{seed}-at-{at}")
            moved = _moved(bench, base, bench.out / "transferred" / base.name)
            arms = [Arm(STRENGTH_0), steered(UNCHANGED, CONTROL, KIND), steered(TRANSFERRED, moved, KIND)]
            found[at].append(_measured(bench, cases, arms, base, f"seed {seed}, step {at}"))
    measures = found[moments[0]][0].measures
    columns = {"F1": measures[FIDELITY], "prompt agreement": measures[PROMPT], "off style": OFF_STYLE}
    keys = dict(zip(columns, (FIDELITY, PROMPT, OFF_STYLE.key), strict=True))
    rows = [
        Row(
            f"{arm}, after {at} steps",
            {name: score_of_seeds(columns[name], _of(found[at], arm, key)) for name, key in keys.items()},
        )
        for at in moments
        for arm in ARMS
    ]
    figures = [
        Figure(
            file,
            "steps of fine-tuning the base",
            label,
            [
                Curve(arm, moments, [score_of_seeds(measures[key], _of(found[at], arm, key)) for at in moments])
                for arm in ARMS
            ],
        )
        for file, label, key in (
            ("fidelity", "edge F1, 2 px", FIDELITY),
            ("style", "distance from the style, ΔE", OFF_STYLE.key),
        )
    ]
    verdict, summary = _judged(bench, found, moments)
    sheet = [
        (f"{arm}\nstep {at}", [files[0] for files in found[at][0].pictures[arm][:8]]) for at in moments for arm in ARMS
    ]
    raw = {
        str(at): [{arm: {key: one.numbers[arm][key] for key in keys.values()} for arm in ARMS} for one in seeds]
        for at, seeds in found.items()
    }
    return Findings(columns, rows, verdict, summary, figures, sheet, [case.prompt for case in cases[:8]], raw)


def _measured(bench: Bench, cases: Sequence[Case], arms: Sequence[Arm], base: Path, stage: str) -> Evaluation:
    return bench.measure(cases, arms, [KIND], words=[(OFF_STYLE, off_style)], changes={"base": str(base)}, stage=stage)


def _drawings(bench: Bench) -> Path:
    """A folder of drawings in the style with their captions, made once."""
    count = QUICK_IMAGES if bench.quick else IMAGES
    folder = bench.out / "data" / f"blueprint-{count}"
    if not folder.is_dir():
        source = open_source(SET, size=bench.artist.base.sample_size, count=count)
        with replacing(folder, force=True) as part:
            part.mkdir(parents=True)
            for number, sample in enumerate(source):
                pixels = np.asarray(open_image(sample.image) if isinstance(sample.image, Path) else sample.image)
                save_png(Image.fromarray(blueprint(pixels)), part / f"{number:04}.png", {})
                (part / f"{number:04}.txt").write_text(sample.caption, encoding="utf-8")
                bench.on_progress("drawing in the style", number + 1, count)
    return folder


def _moved(bench: Bench, base: Path, folder: Path) -> Path:
    """The folder of the control, transferred to a fine-tuned base; made once."""
    if not folder.is_dir():
        control = load_control(CONTROL)
        before, after = (load_base(ref).unet.state_dict() for ref in (bench.base, base))
        control.load_state_dict(transferred(control.state_dict(), before, after))
        folder.parent.mkdir(parents=True, exist_ok=True)
        control.save(folder)
    return folder


def _moments(steps: int) -> list[int]:
    """0, and an eighth, a third and all of the steps."""
    return sorted({0, max(1, steps // 8), max(1, steps // 3), steps})


def _of(found: Sequence[Evaluation], arm: str, key: str) -> list[Any]:
    """The numbers of an arm, for each seed."""
    return [one.numbers[arm][key] for one in found]


def _lab(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _judged(bench: Bench, found: dict[int, list[Evaluation]], moments: Sequence[int]) -> tuple[Verdict, str]:
    """The claim: on a fine-tuned base a control works as it did, in that base's style, without being trained again."""
    if bench.quick:
        return "not judged", "Nothing is judged on a budget this small."
    first, last = found[moments[0]], found[moments[-1]]
    measure = first[0].measures[FIDELITY]
    lost = difference_of_seeds(measure, _of(last, UNCHANGED, FIDELITY), _of(first, UNCHANGED, FIDELITY))
    gained = difference_of_seeds(measure, _of(last, UNCHANGED, FIDELITY), _of(last, STRENGTH_0, FIDELITY))
    moved = difference_of_seeds(measure, _of(last, TRANSFERRED, FIDELITY), _of(last, UNCHANGED, FIDELITY))
    style = [
        score_of_seeds(OFF_STYLE, _of(one, arm, OFF_STYLE.key))
        for one, arm in ((first, STRENGTH_0), (last, STRENGTH_0), (last, UNCHANGED), (last, TRANSFERRED))
    ]
    back = difference_of_seeds(OFF_STYLE, _of(last, UNCHANGED, OFF_STYLE.key), _of(last, STRENGTH_0, OFF_STYLE.key))
    in_style = back.high < UNDONE * (style[0].value - style[1].value)
    verdict: Verdict = "does not hold at this scale"
    if gained.low > 0:
        verdict = "holds" if lost.low > -TOLERANCE and in_style else "holds partly"
    return verdict, (
        f"After {moments[-1]} steps of fine-tuning the unchanged control's F1 is {signed(lost)} against the base that "
        f"it was trained on, and {signed(gained)} against no control; transferred it is {signed(moved)} against "
        f"unchanged. Distance from the style: {style[0].value:.1f} "
        f"before fine-tuning, {style[1].value:.1f} after it, {style[2].value:.1f} under the unchanged control "
        f"({signed(back, 1)}), {style[3].value:.1f} under the transferred one."
    )


STUDY = Study(
    "transfer",
    "Does a control work on a fine-tuned base?",
    "A control can be used on other models of the same architecture, fine-tuned ones, without being trained again "
    "(section 4.3, figure 12); the authors' code also adds the difference between the bases to it.",
    run,
    Budget(steps=400, batch_size=16, seeds=1, cases=24),
)
