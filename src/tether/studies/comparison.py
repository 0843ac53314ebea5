"""ControlNet beside earlier and other ways (section 4.2 and tables 1 and 2 of arXiv:2302.05543).

Every way is trained on the same base, the same samples in the same order, and the same number of steps; see
`tether.studies.earlier`. Measured are

- what it costs: parameters that are trained, memory and time of an update, both counted on random numbers;
- fidelity and prompt agreement on held-out conditions;
- *drift*: how far pictures drawn with the control switched off (strength 0) are from the base's own, of the same
  prompts and seeds. A locked base has none, exactly;
- the ranks of a blind judge (`tether.studies.blind_judge`) in place of the paper's user study. No people were asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tether.evaluation import Case, Evaluation
from tether.evaluation.drawing import Arm
from tether.evaluation.intervals import Score
from tether.evaluation.run import STRENGTH_0
from tether.images import from_pixels, open_image, to_pixels
from tether.kinds.measures import Measure, Numbers
from tether.studies import earlier as _earlier  # registers the families
from tether.studies import variants as _variants
from tether.studies.bench import Bench, steered
from tether.studies.blind_judge import Judge, pixels_of, ranks, train_fidelity, train_quality, wrong_maps
from tether.studies.statistics import difference_of_seeds, not_learned, score_of_seeds, signed
from tether.studies.study import Budget, Findings, Row, Study, Verdict
from tether.studies.zero_convolution import harm_of
from tether.training.plan import Plan

__all__ = ["ARMS", "STUDY"]

KIND, SET = "canny", "emoji3d"
FIDELITY, PROMPT = f"{KIND}/f1_2px", "prompt"
CONTROLNET = "ControlNet"
FINE_TUNING = 1e-4
"""The learning rate where the base's own weights are trained: at 4e-4, that of fresh parts, they are destroyed."""
ARMS: dict[str, dict[str, Any]] = {
    CONTROLNET: {"family": "controlnet"},
    "ControlNet-lite": {"family": _variants.ControlNetLite.family},
    "concatenated (LDM)": {"family": _earlier.Concatenated.family, "learning_rate": FINE_TUNING},
    "ControlNet, not locked": {"family": _earlier.UnlockedControlNet.family, "learning_rate": FINE_TUNING},
    "T2I-Adapter": {"family": _earlier.Adapter.family},
    "sketch-guided": {
        "family": _earlier.EdgeGuidance.family,
        "auxiliary_losses": [{"loss": "tether.studies.earlier.edge_guidance:EdgeLoss"}],
    },
    "ControlNet-XS": {"family": _earlier.SmallCopy.family},
    "LoRA and channels": {"family": _earlier.ControlLora.family},
}
TELLING = 0.75
"""Accuracy on held-out pictures below which a judge's ranks are not counted."""
IN_THE_PAPER = ("concatenated (LDM)", "sketch-guided", "ControlNet-lite")
"""The ways that the paper's user study ranks below ControlNet; concatenation stands in for PITI, see its file."""

PARAMETERS = Measure("parameters", "trained parameters", higher=False, unit="M", digits=2)
MEMORY = Measure("memory", "memory of training", higher=False, unit="GB", digits=2)
TIME = Measure("time", "time of an update", higher=False, unit="of ControlNet's", digits=2)
DRIFT = Measure("drift", "drift", higher=False, unit="of 255", digits=2)
QUALITY = Measure("quality", "rank of quality", digits=2)
LINES = Measure("lines", "rank of fidelity", digits=2)

Seeds = list[list[list[Numbers]]]
"""For each training seed the numbers of each case's pictures."""


@dataclass
class _Found:
    """What was measured, by arm; `unsteered` is the fidelity of the base's own pictures."""

    fidelity: dict[str, Seeds]
    prompt: dict[str, Seeds]
    drift: dict[str, Seeds]
    drawn: dict[str, list[Evaluation]]
    unsteered: Seeds


def run(bench: Bench) -> Findings:
    """The study."""
    cases = bench.cases([SET], [KIND])
    found = _Found({}, {}, {}, {}, [])
    measures: dict[str, Measure] = {}
    for arm in ARMS:
        for seed in range(bench.budget.seeds):
            on, off = _measured(bench, cases, arm, seed)
            measures |= on.measures
            if arm == CONTROLNET:
                found.unsteered.append(off.numbers[STRENGTH_0][FIDELITY])
            found.fidelity.setdefault(arm, []).append(on.numbers[arm][FIDELITY])
            found.prompt.setdefault(arm, []).append(on.numbers[arm][PROMPT])
            found.drift.setdefault(arm, []).append(harm_of(off, f"{arm}, off"))
            found.drawn.setdefault(arm, []).append(on)
    quality, lines, accuracy = _ranked(bench, cases, found)
    costs = _costs(bench)
    rows = [
        Row(
            arm,
            {
                **{name: _exactly(value) for name, value in costs[arm].items()},
                "F1": score_of_seeds(measures[FIDELITY], found.fidelity[arm]),
                "prompt agreement": score_of_seeds(measures[PROMPT], found.prompt[arm]),
                "drift": score_of_seeds(DRIFT, found.drift[arm]),
                "rank of quality": score_of_seeds(QUALITY, quality[arm]),
                "rank of fidelity": score_of_seeds(LINES, lines[arm]),
            },
        )
        for arm in ARMS
    ]
    rows.append(Row(STRENGTH_0, {"F1": score_of_seeds(measures[FIDELITY], found.unsteered)}))
    columns = {
        "parameters, M": PARAMETERS,
        "memory, GB": MEMORY,
        "time": TIME,
        "F1": measures[FIDELITY],
        "prompt agreement": measures[PROMPT],
        "drift": DRIFT,
        "rank of quality": QUALITY,
        "rank of fidelity": LINES,
    }
    verdict, summary = _judged(bench, found, quality, lines, accuracy, measures)
    shown = [case.prompt for case in cases[:8]]
    sheet = [(arm, [files[0] for files in found.drawn[arm][0].pictures[arm][:8]]) for arm in ARMS]
    raw = {
        "fidelity": found.fidelity | {STRENGTH_0: found.unsteered},
        "prompt": found.prompt,
        "drift": found.drift,
        "ranks of quality": quality,
        "ranks of fidelity": lines,
        "accuracy of the judge": accuracy,
        "cases": [case.key for case in cases],
    }
    return Findings(columns, rows, verdict, summary, sheet=sheet, heads=shown, raw=raw)


def _parts(bench: Bench) -> Sequence[Callable[[], object]]:
    cases = bench.cases([SET], [KIND])
    bench.draw(cases, Arm(STRENGTH_0))
    learned = cache(lambda: _learned_by(bench))  # made where a part needs it, once in a process

    def part(arm: str, seed: int) -> None:
        _measured(bench, cases, arm, seed)
        if seed == 0:
            _sampled(bench, cases, learned(), arm)

    return [partial(part, arm, seed) for arm in ARMS for seed in range(bench.budget.seeds)]


def _trained(bench: Bench, arm: str, seed: int) -> Path:
    return bench.train(arm, seed, bench.budget.steps, {"data": SET, "condition": KIND, **ARMS[arm]})


def _measured(bench: Bench, cases: Sequence[Case], arm: str, seed: int) -> tuple[Evaluation, Evaluation]:
    """Trains an arm and measures it with its control on, and off, beside the base alone."""
    control, stage = _trained(bench, arm, seed), f"{arm}, seed {seed}"
    on = bench.measure(cases, [steered(arm, control, KIND)], [KIND], stage=stage)
    arms = [Arm(STRENGTH_0), steered(f"{arm}, off", control, KIND, strength=0.0)]
    return on, bench.measure(cases, arms, [KIND], stage=f"{stage}, off")


def _learned_by(bench: Bench) -> list[Case]:
    """What the judges learn by."""
    return bench.training_cases(SET, [KIND], 8 if bench.quick else 480)


def _sampled(bench: Bench, cases: Sequence[Case], learned: Sequence[Case], arm: str) -> Tensor:
    """Pictures of an arm, of conditions that the judges learn by: as many as are measured."""
    few = 1 if bench.quick else len(cases)
    some = learned[:: max(1, len(learned) // few)][:few]
    name = f"{arm}, for the judge"
    return _pixels(bench.measure(some, [steered(name, _trained(bench, arm, 0), KIND)], [], stage=name), name)


def _exactly(value: float) -> Score:
    """A number without an interval."""
    return Score(value, value, value)


def _costs(bench: Bench) -> dict[str, dict[str, float]]:
    """Parameters, memory and time of each arm. Times are the least of three rounds, in which the arms take turns."""
    rounds = 1 if bench.quick else 3
    plans: dict[str, list[Plan]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for number, (arm, settings) in enumerate(ARMS.items()):
            bench.on_progress("measuring updates", number, len(ARMS))
            plans[arm].append(bench.cost({"data": SET, "condition": KIND, **settings}))
    times = {arm: min(plan.seconds_a_step for plan in of_arm) for arm, of_arm in plans.items()}
    return {
        arm: {
            "parameters, M": of_arm[0].trained / 1e6,
            "memory, GB": of_arm[0].total_memory / 1e9,
            "time": times[arm] / times[CONTROLNET],
        }
        for arm, of_arm in plans.items()
    }


def _ranked(
    bench: Bench, cases: Sequence[Case], found: _Found
) -> tuple[dict[str, Seeds], dict[str, Seeds], dict[str, float]]:
    """Ranks of quality and of fidelity of each arm, and the judges' accuracy on what they were not trained on."""
    steps = 2 if bench.quick else 400
    learned = _learned_by(bench)
    real = pixels_of([_decoded(bench, case) for case in learned])
    maps = _maps(learned)
    sampled = [_sampled(bench, cases, learned, arm) for arm in ARMS]
    options: dict[str, Any] = {
        "device": bench.device,
        "on_step": lambda done, total: bench.on_progress("training the judge", done, total),
    }
    by_quality = train_quality(real, torch.cat(sampled), steps, **options)
    by_lines = train_fidelity(real, maps, steps, **options)

    shown = _maps(cases)
    quality: dict[str, Seeds] = {arm: [] for arm in ARMS}
    lines: dict[str, Seeds] = {arm: [] for arm in ARMS}
    for seed in range(bench.budget.seeds):
        pictures = {arm: _pixels(found.drawn[arm][seed], arm) for arm in ARMS}
        of_quality = ranks([by_quality.score(one) for one in pictures.values()])
        of_lines = ranks([by_lines.score(torch.cat([one, shown], dim=1)) for one in pictures.values()])
        for k, arm in enumerate(ARMS):
            quality[arm].append([[{"value": float(rank)}] for rank in of_quality[k]])
            lines[arm].append([[{"value": float(rank)}] for rank in of_lines[k]])
    truth = pixels_of([_decoded(bench, case) for case in cases])
    drawn = torch.cat([_pixels(found.drawn[arm][0], arm) for arm in ARMS])
    chosen = torch.arange(len(shown)).repeat(4)  # as many ways to be wrong
    others = wrong_maps(shown, chosen, torch.Generator().manual_seed(0))
    accuracy = {
        "quality": _accuracy(by_quality, truth, drawn),
        "fidelity": _accuracy(by_lines, torch.cat([truth, shown], dim=1), torch.cat([truth[chosen], others], dim=1)),
    }
    return quality, lines, accuracy


def _accuracy(judge: Judge, true: Tensor, false: Tensor) -> float:
    """The mean of the shares of both that are told."""
    return float(((judge.score(true) > 0).mean() + (judge.score(false) <= 0).mean()) / 2)


def _decoded(bench: Bench, case: Case) -> Any:
    """A real picture after the base's autoencoder, as a sampled one is."""
    base = bench.artist.base
    return from_pixels(base.decode_latents(base.encode_images(to_pixels(case.image))))[0]


def _pixels(drawn: Evaluation, arm: str) -> Tensor:
    return pixels_of([open_image(files[0]) for files in drawn.pictures[arm]])


def _maps(cases: Sequence[Case]) -> Tensor:
    return pixels_of([case.maps[KIND] for case in cases])[:, :1]


def _judged(
    bench: Bench,
    found: _Found,
    quality: Mapping[str, Seeds],
    lines: Mapping[str, Seeds],
    accuracy: Mapping[str, float],
    measures: Mapping[str, Measure],
) -> tuple[Verdict, str]:
    """The claim: ControlNet is ranked above each of the others of the paper's study, in quality and in fidelity."""
    if bench.quick:
        return "not judged", "Nothing is judged on a budget this small."
    learned = difference_of_seeds(measures[FIDELITY], found.fidelity[CONTROLNET], found.unsteered)
    if learned.low <= 0:
        return "not judged", f"{not_learned(bench.budget.steps, learned)}."
    said, better, worse = [], 0, 0
    counted = [name for name, share in accuracy.items() if share >= TELLING]
    for other in IN_THE_PAPER:
        pair = [
            difference_of_seeds(measure, of[CONTROLNET], of[other])
            for measure, of in ((QUALITY, quality), (LINES, lines))
        ]
        gain = difference_of_seeds(measures[FIDELITY], found.fidelity[CONTROLNET], found.fidelity[other])
        telling = [one for one, name in zip(pair, ("quality", "fidelity"), strict=True) if name in counted]
        better += sum(one.low > 0 for one in telling)
        worse += sum(one.high < 0 for one in telling)
        said.append(f"{other}: {signed(pair[0], 2)} in quality, {signed(pair[1], 2)} in fidelity, F1 {signed(gain, 2)}")
    verdict: Verdict = "holds partly"
    if better == 2 * len(IN_THE_PAPER):
        verdict = "holds"
    elif not counted:
        verdict = "not judged"
    elif better == worse == 0:
        verdict = "is not shown"
    elif worse >= better:
        verdict = "does not hold at this scale"
    drifts = {
        arm: float(np.mean([[n["value"] for n in case] for seed in of for case in seed]))
        for arm, of in found.drift.items()
    }
    gains = {arm: difference_of_seeds(measures[FIDELITY], of, found.unsteered) for arm, of in found.fidelity.items()}
    idle = ", ".join(f"{arm} {signed(gain)}" for arm, gain in gains.items() if gain.low <= 0)
    moved = ", ".join(f"{arm} {value:.1f}" for arm, value in drifts.items() if value)
    return verdict, (
        f"After {bench.budget.steps} steps ControlNet's rank of {len(ARMS)}, by a blind judge (no people were asked), "
        f"less that of {'; '.join(said)}. The judge tells real pictures from sampled ones in "
        f"{accuracy['quality']:.0%} and a picture's own lines from others, mirrored and moved ones in "
        f"{accuracy['fidelity']:.0%} of held-out cases; "
        f"ranks of one that is right in less than {TELLING:.0%} are not counted. "
        f"Drift of the base, of 255: {moved or 'none'}; all others 0, exactly. "
        f"F1 not shown to be above no control's: {idle or 'none'}."
    )


STUDY = Study(
    "comparison",
    "How does ControlNet compare with earlier ways?",
    "People ranked ControlNet's pictures above those of PITI (the condition as input, the whole model fine-tuned), "
    "sketch-guided diffusion and ControlNet-lite, in quality and in fidelity (section 4.2, table 1).",
    run,
    Budget(steps=1000, batch_size=16, seeds=1, cases=24),
    _parts,
)
