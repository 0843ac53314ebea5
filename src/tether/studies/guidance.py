"""How the control meets classifier-free guidance (section 3.4 and figure 5 of arXiv:2302.05543).

The shipped canny control draws the same conditions with the control on both CFG branches, on the conditional one alone,
with resolution weighting (CFG-RW, w_i = 64 / h_i), with the two approximations of later programs, and with shares
between, at guidance scales from 1 to 12, with and without a prompt. Measured are condition fidelity, prompt agreement,
and colorfulness, which shows where guidance is too strong: the images' mean chroma by that of the held-out images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tether.evaluation import Evaluation
from tether.evaluation.drawing import Arm
from tether.evaluation.run import SOURCE
from tether.images import open_image
from tether.kinds.measures import Measure, Numbers
from tether.studies.bench import Bench, steered
from tether.studies.statistics import difference_of_seeds, score_of_seeds, signed
from tether.studies.study import Budget, Curve, Figure, Findings, Row, Study, Verdict

__all__ = ["STUDY"]

KIND, CONTROL = "canny", "canny"
SETS = ("emoji3d", "scenes")
FIDELITY, PROMPT, CHROMA = f"{KIND}/f1_2px", "prompt", "chroma"
SCALES = (1.0, 2.0, 3.5, 5.0, 8.0, 12.0)
WAYS: dict[str, dict[str, Any]] = {
    "both branches": {"sides": "both"},
    "share 0.6": {"sides": 0.6},
    "share 0.3": {"sides": 0.3},
    "conditional": {"sides": "conditional"},
    "CFG-RW": {"weighting": "cfg-rw"},
    "guess mode (released)": {"weighting": "released"},
    "guess mode (diffusers)": {"weighting": "diffusers"},
}
USUAL = 5.0
"""The scale of the table, which is the default of `tether generate`."""


COLORFULNESS = Measure(CHROMA, "chroma", higher=None, digits=1)


def chroma(image: Image.Image, prompt: str) -> Numbers:
    """Mean chroma of an image in CIELAB, sqrt(a² + b²); the prompt is not used."""
    lab = cv2.cvtColor(np.asarray(image.convert("RGB"), np.float32) / 255, cv2.COLOR_RGB2LAB)
    return {"value": float(np.hypot(lab[..., 1], lab[..., 2]).mean())}


def run(bench: Bench) -> Findings:
    """The study."""
    cases = bench.cases(SETS, [KIND])
    blank = [replace(case, prompt="") for case in cases]
    scales = (1.0, USUAL) if bench.quick else SCALES
    arms = [steered(name, CONTROL, KIND, **settings) for name, settings in WAYS.items()]
    found: dict[tuple[str, float], Evaluation] = {}
    for scale in scales:
        for name, listed in (("prompt", cases), ("no prompt", blank)):
            found[name, scale] = bench.measure(
                listed,
                arms,
                [KIND],
                images=bench.budget.seeds,
                words=[(COLORFULNESS, chroma)],
                changes={"guidance_scale": scale},
                stage=f"guidance scale {scale:g}, {name}",
            )
    measures = found["prompt", USUAL].measures
    columns = {
        "F1, prompt": measures[FIDELITY],
        "F1, no prompt": measures[FIDELITY],
        "prompt agreement": measures[PROMPT],
        "chroma, prompt": COLORFULNESS,
        "chroma, no prompt": COLORFULNESS,
    }
    rows = [_row(arm, found) for arm in arms]
    verdict, summary = _judged(bench, found)
    source = score_of_seeds(COLORFULNESS, [found["prompt", USUAL].numbers[SOURCE][CHROMA]])
    rows.append(Row("held-out images", {"chroma, prompt": source}))
    sheet = [
        (f"{arm.name}\n{name}", [files[0] for files in found[name, USUAL].pictures[arm.name][:8]])
        for name in ("prompt", "no prompt")
        for arm in arms
    ]
    raw = {
        f"{name}, {scale:g}": {arm: dict(by) for arm, by in one.numbers.items()} for (name, scale), one in found.items()
    }
    return Findings(
        columns, rows, verdict, summary, _figures(arms, scales, found), sheet, [c.prompt for c in cases[:8]], raw
    )


def _row(arm: Arm, found: dict[tuple[str, float], Evaluation]) -> Row:
    told, untold = found["prompt", USUAL], found["no prompt", USUAL]
    fidelity, agreement = told.measures[FIDELITY], told.measures[PROMPT]
    return Row(
        arm.name,
        {
            "F1, prompt": score_of_seeds(fidelity, [told.numbers[arm.name][FIDELITY]]),
            "F1, no prompt": score_of_seeds(fidelity, [untold.numbers[arm.name][FIDELITY]]),
            "prompt agreement": score_of_seeds(agreement, [told.numbers[arm.name][PROMPT]]),
            "chroma, prompt": score_of_seeds(COLORFULNESS, [told.numbers[arm.name][CHROMA]]),
            "chroma, no prompt": score_of_seeds(COLORFULNESS, [untold.numbers[arm.name][CHROMA]]),
        },
    )


def _figures(arms: Sequence[Arm], scales: Sequence[float], found: dict[tuple[str, float], Evaluation]) -> list[Figure]:
    figures = []
    for file, label, key, name in (
        ("fidelity", "edge F1, 2 px, with the prompt", FIDELITY, "prompt"),
        ("fidelity-no-prompt", "edge F1, 2 px, without a prompt", FIDELITY, "no prompt"),
        ("prompt-agreement", "prompt agreement", PROMPT, "prompt"),
        ("chroma-no-prompt", "mean chroma, without a prompt", CHROMA, "no prompt"),
    ):
        curves = [
            Curve(
                arm.name,
                scales,
                [
                    score_of_seeds(found[name, scale].measures[key], [found[name, scale].numbers[arm.name][key]])
                    for scale in scales
                ],
            )
            for arm in arms
        ]
        figures.append(Figure(file, "guidance scale", label, curves))
    return figures


def _judged(bench: Bench, found: dict[tuple[str, float], Evaluation]) -> tuple[Verdict, str]:
    """The claim, without a prompt: on the conditional branch alone guidance is too strong, more than in real pictures;
    CFG-RW is milder than that, and follows the lines better than both branches.

    With the control on both branches both predictions are the same, so guidance cannot have an effect: a check, which
    does not count.
    """
    if bench.quick:
        return "not judged", "Nothing is judged on a budget this small."
    untold = found["no prompt", USUAL]

    def less(ours: str, theirs: str, key: str) -> Any:
        return difference_of_seeds(untold.measures[key], [untold.numbers[ours][key]], [untold.numbers[theirs][key]])

    plain = _same_at_all_scales(found)
    stronger, too_strong = (less("conditional", other, CHROMA) for other in ("both branches", SOURCE))
    milder = less("CFG-RW", "conditional", CHROMA)
    fidelity = less("CFG-RW", "both branches", FIDELITY)
    holds = [too_strong.low > 0, milder.high < 0, fidelity.low > 0]
    verdict: Verdict = "holds" if all(holds) else "holds partly" if any(holds) else "does not hold at this scale"
    return verdict, (
        f"Without a prompt at scale {USUAL:g}: guidance {'has no effect' if plain else 'has an effect'} with the "
        f"control on both branches; on the conditional branch alone the chroma is {signed(stronger, 1)} against that, "
        f"and {signed(too_strong, 1)} against the held-out images themselves; CFG-RW has {signed(milder, 1)} of chroma "
        f"against the conditional branch alone, and {signed(fidelity)} of F1 against both branches."
    )


def _same_at_all_scales(found: dict[tuple[str, float], Evaluation]) -> bool:
    """Whether images without a prompt, with the control on both branches, are the same at every scale."""
    files: list[list[Path]] = [
        [picture for pictures in one.pictures["both branches"] for picture in pictures]
        for (name, _), one in found.items()
        if name == "no prompt"
    ]
    for same in zip(*files, strict=True):
        first, *others = (np.asarray(open_image(path), np.int16) for path in same)
        if any(np.abs(other - first).mean() > 1 for other in others):
            return False
    return True


STUDY = Study(
    "guidance",
    "Which CFG branch should the control act on?",
    "Without a prompt, a control on both branches removes guidance, one on the conditional branch alone makes it too "
    "strong, and resolution weighting (CFG-RW) gives a result between (section 3.4, figure 5).",
    run,
    Budget(seeds=1, cases=24),
)
