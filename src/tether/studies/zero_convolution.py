"""What zero convolutions are for: the ablation of section 4.2 and figure 8 of arXiv:2302.05543.

Three variants (`tether.studies.variants`) learn canny edges on the locked base with one budget: the ControlNet, the
same with Gaussian weights in place of the zero convolutions, and ControlNet-lite. Measured are

- *harm*: how far the images drawn with a control are from the base's own, of the same prompts and seeds, while it
  learns. Before training it is exactly 0 for zero convolutions, as they add exactly nothing.
- *fidelity* with the paper's four kinds of prompt: none, insufficient, conflicting (another condition's), perfect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tether.evaluation import Case, Evaluation
from tether.evaluation.drawing import Arm
from tether.evaluation.intervals import Score
from tether.evaluation.run import STRENGTH_0
from tether.images import open_image
from tether.kinds.measures import Measure, Numbers
from tether.studies import variants as _variants  # registers the families
from tether.studies.bench import Bench, steered
from tether.studies.statistics import difference_of_seeds, not_learned, score_of_seeds, signed
from tether.studies.study import Budget, Curve, Figure, Findings, Row, Study, Verdict

__all__ = ["STUDY", "harm_of", "prompted"]

KIND, SET = "canny", "emoji3d"
FIDELITY = f"{KIND}/f1_2px"
PROMPTS = ("none", "insufficient", "conflicting", "perfect")
INSUFFICIENT = "a high-quality picture"
VARIANTS = {
    "ControlNet": {"family": "controlnet"},
    "Gaussian": {"family": _variants.GaussianControlNet.family},
    "ControlNet-lite": {"family": _variants.ControlNetLite.family},
}


MARGIN = 0.05
"""F1 by which the Gaussian variant may be above ControlNet-lite for "as much as"."""
HARM = Measure("harm", "harm", higher=False, unit="of 255", digits=2)


@dataclass(frozen=True)
class _Learned:
    """What was measured of one training: at each moment, and at its end with each kind of prompt."""

    moments: Mapping[int, Evaluation]
    prompts: Mapping[str, Evaluation]


def run(bench: Bench) -> Findings:
    """The study."""
    cases = bench.cases([SET], [KIND])
    harm: dict[str, dict[int, list[list[list[Numbers]]]]] = {}
    fidelity: dict[str, dict[str, list[Any]]] = {}
    measures: dict[str, Measure] = {}
    sheet: list[tuple[str, Sequence[Path]]] = []
    for variant in VARIANTS:
        for seed in range(bench.budget.seeds):
            learned = _learned(bench, cases, variant, seed)
            for at, found in learned.moments.items():
                harm.setdefault(variant, {}).setdefault(at, []).append(harm_of(found, variant))
                if seed == 0:
                    sheet.append((f"{variant}\nstep {at}", _first(found, variant)))
            for prompt, found in learned.prompts.items():
                measures.update(found.measures)
                fidelity.setdefault(STRENGTH_0, {}).setdefault(prompt, []).append(found.numbers[STRENGTH_0][FIDELITY])
                fidelity.setdefault(variant, {}).setdefault(prompt, []).append(found.numbers[variant][FIDELITY])
    measure = measures[FIDELITY]
    rows = [
        Row(
            variant,
            {
                **{f"harm, step {at}": score_of_seeds(HARM, found) for at, found in harm[variant].items()},
                **{f"F1, {prompt}": score_of_seeds(measure, found) for prompt, found in fidelity[variant].items()},
            },
        )
        for variant in VARIANTS
    ]
    columns = {f"harm, step {at}": HARM for at in _moments(bench)} | {f"F1, {prompt}": measure for prompt in PROMPTS}
    curves = [
        Curve(variant, list(found), [score_of_seeds(HARM, seeds) for seeds in found.values()])
        for variant, found in harm.items()
    ]
    verdict, summary = _judged(bench, fidelity, measure, rows)
    figure = Figure("harm", "training steps", "mean distance from the base's own images, of 255", curves, log_x=True)
    heads = [case.prompt for case in cases[:8]]
    raw = {"harm": harm, "fidelity": fidelity, "cases": [case.key for case in cases]}
    return Findings(columns, rows, verdict, summary, [figure], sheet, heads, raw)


def _parts(bench: Bench) -> Sequence[Callable[[], object]]:
    cases = bench.cases([SET], [KIND])
    for prompt in PROMPTS:
        bench.draw(prompted(cases, prompt), Arm(STRENGTH_0))
    return [
        partial(_learned, bench, cases, variant, seed) for variant in VARIANTS for seed in range(bench.budget.seeds)
    ]


def _learned(bench: Bench, cases: Sequence[Case], variant: str, seed: int) -> _Learned:
    """Trains a variant and measures it."""
    moments: dict[int, Evaluation] = {}
    arms: list[Arm] = []
    for at in _moments(bench):
        control = bench.train(variant, seed, at, {"data": SET, "condition": KIND, **VARIANTS[variant]})
        arms = [Arm(STRENGTH_0), steered(variant, control, KIND)]
        moments[at] = bench.measure(cases, arms, [KIND], stage=f"{variant}, seed {seed}, step {at}")
    prompts = {
        prompt: bench.measure(prompted(cases, prompt), arms, [KIND], stage=f"{variant}, prompt {prompt}")
        for prompt in PROMPTS
    }
    return _Learned(moments, prompts)


def harm_of(found: Evaluation, arm: str) -> list[list[Numbers]]:
    """For each image of an arm its mean absolute distance, in levels of 255, from the base's own."""
    pairs = zip(found.pictures[arm], found.pictures[STRENGTH_0], strict=True)
    return [[_distance(*two) for two in zip(ours, theirs, strict=True)] for ours, theirs in pairs]


def prompted(cases: Sequence[Case], prompt: str) -> list[Case]:
    """The cases with another kind of prompt, see `PROMPTS`; a conflicting one is that of the case half way on."""
    if prompt == "none":
        return [replace(case, prompt="") for case in cases]
    if prompt == "insufficient":
        return [replace(case, prompt=INSUFFICIENT) for case in cases]
    if prompt == "conflicting":
        shift = len(cases) // 2
        return [replace(case, prompt=cases[(k + shift) % len(cases)].prompt) for k, case in enumerate(cases)]
    return list(cases)


def _moments(bench: Bench) -> list[int]:
    """0, the powers of ten from 10 on, and the last step."""
    steps = bench.budget.steps
    return [0, steps] if bench.quick else sorted({0, *(10**k for k in range(1, 6) if 10**k < steps), steps})


def _distance(ours: Path, theirs: Path) -> Numbers:
    a, b = (np.asarray(open_image(path), np.float64) for path in (ours, theirs))
    return {"value": float(np.abs(a - b).mean())}


def _first(found: Evaluation, arm: str) -> list[Path]:
    return [pictures[0] for pictures in found.pictures[arm][:8]]


def _judged(
    bench: Bench, fidelity: Mapping[str, Mapping[str, list[Any]]], measure: Measure, rows: Sequence[Row]
) -> tuple[Verdict, str]:
    """The claim: (b) falls to the level of (c), at most `MARGIN` above, and (a) is better than both whatever the
    prompt."""
    without = {row.name: row.scores["harm, step 0"].value for row in rows}
    said = (
        f"before training the harm is {without['ControlNet']:g} for ControlNet, {without['Gaussian']:.1f} for Gaussian"
    )
    if bench.quick:
        return "not judged", f"{said}; fidelity is not judged after {bench.budget.steps} steps."
    learned = difference_of_seeds(measure, fidelity["ControlNet"]["perfect"], fidelity[STRENGTH_0]["perfect"])
    if learned.low <= 0:
        return "not judged", f"{said}; {not_learned(bench.budget.steps, learned)}."
    gains: list[tuple[str, str, Score]] = [
        (other, prompt, difference_of_seeds(measure, fidelity["ControlNet"][prompt], fidelity[other][prompt]))
        for other in ("Gaussian", "ControlNet-lite")
        for prompt in PROMPTS
    ]
    better = [gain for gain in gains if gain[2].low > 0]
    worse = [gain for gain in gains if gain[2].high < 0]
    left = {
        prompt: difference_of_seeds(measure, fidelity["Gaussian"][prompt], fidelity["ControlNet-lite"][prompt])
        for prompt in PROMPTS
    }
    fallen = all(score.high <= MARGIN for score in left.values())
    verdict: Verdict = "holds partly"
    if len(better) == len(gains) and fallen:
        verdict = "holds"
    elif worse or not better:
        verdict = "does not hold at this scale"
    listed = ", ".join(f"{signed(score)} over {other} ({prompt})" for other, prompt, score in gains)
    remains = ", ".join(f"{signed(score)} ({prompt})" for prompt, score in left.items())
    return verdict, (
        f"{said}; F1 of ControlNet after {bench.budget.steps} steps: {listed}; of Gaussian against ControlNet-lite: "
        f"{remains}."
    )


STUDY = Study(
    "zero-convolution",
    "What are zero convolutions for?",
    "Replacing the zero convolutions by Gaussian-initialized ones costs as much as replacing the trainable copy by one "
    "convolution a block: the pretrained copy is destroyed while it is tuned. Only the full ControlNet follows the "
    "condition with every kind of prompt (section 4.2, figure 8).",
    run,
    Budget(steps=1000, batch_size=16, seeds=3, cases=24),
    _parts,
)
