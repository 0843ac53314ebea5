"""Does control appear at once? (Section 3.3 and figure 4, "sudden convergence", of arXiv:2302.05543.)

ControlNets learn canny edges from scratch at several learning rates and batch sizes; at equal distances the same
held-back images are drawn, and the monitor of `tether.training.convergence` judges the curve of their fidelity: flat,
gradual (with a beginning or without) or sudden. How sharp a curve is says

    sharpness = largest rise between two validations / rise from the first to the best one

which is 1 for a jump, and 1 / (their number - 1) for a line; noise makes it larger, and a curve that the monitor calls
flat has none. Weights are not averaged, as an average would smooth a jump. Curves are compared over steps, and over
samples: batches of a quarter of the budget's make four times the steps, so that both end after the same number of
samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tether.evaluation.intervals import Score
from tether.kinds.measures import Measure
from tether.studies.bench import Bench
from tether.studies.statistics import score_of_seeds, shown, signed
from tether.studies.study import Budget, Curve, Figure, Findings, Row, Study, Verdict
from tether.training.convergence import find_convergence

__all__ = ["STUDY", "sharpness"]

KIND, SET = "canny", "emoji3d"
RATES, QUICK_RATES = (1e-4, 4e-4, 1.6e-3), (4e-4,)
SMALLER = 4
"""The smaller batches are the budget's divided by this."""
VALIDATIONS, QUICK_VALIDATIONS = 16, 1
FIDELITY = Measure("fidelity", "fidelity at the end")
SHARPNESS = Measure("sharpness", "sharpness", higher=None, digits=2)
APPEARED = Measure("appeared", "control appeared at step", higher=False, digits=0)
SAME = Measure("same", "fidelity at equal samples")
UNJUDGED: tuple[Verdict, str] = ("not judged", "Nothing is judged on a budget this small.")


@dataclass(frozen=True)
class Learned:
    """One run: its curve, and what the monitor says of it."""

    steps: Sequence[int]
    fidelity: Sequence[float]
    kind: str
    appeared_at: int | None


def sharpness(fidelity: Sequence[float]) -> float:
    """How much of a curve's rise is between two validations: 1 for a jump, 1 / (their number - 1) for a line; 0 where
    it does not rise."""
    values = np.asarray(fidelity, np.float64)
    rise = values.max() - values[0]
    return float(np.diff(values).max() / rise) if rise > 0 else 0.0


def run(bench: Bench) -> Findings:
    """The study."""
    found = {
        (rate, batch): [_learned(bench, rate, batch, steps, seed) for seed in range(bench.budget.seeds)]
        for (rate, batch), steps in _settings(bench).items()
    }
    return _findings(found, judged=not bench.quick)


def _findings(found: Mapping[tuple[float, int], Sequence[Learned]], *, judged: bool) -> Findings:
    columns = {"fidelity": FIDELITY, "sharpness": SHARPNESS, "appeared at step": APPEARED}
    rows = [Row(_name(*setting), _scores(seeds)) for setting, seeds in found.items()]
    fidelity = "condition fidelity (edge F1)"
    figures = [
        # Each training by itself: the mean of jumps at different steps is a slope.
        Figure(
            "fidelity-over-steps",
            "steps",
            fidelity,
            [
                Curve(_name(*setting), one.steps, [Score(value, value, value) for value in one.fidelity])
                for setting, seeds in found.items()
                for one in seeds
            ],
        ),
        Figure(
            "fidelity-over-samples",
            "samples",
            fidelity,
            [
                Curve(_name(rate, batch), [batch * step for step in seeds[0].steps], _scored(seeds))
                for (rate, batch), seeds in found.items()
            ],
        ),
    ]
    verdict, summary = _judged(found) if judged else UNJUDGED
    raw = {_name(*setting): [vars(one) for one in seeds] for setting, seeds in found.items()}
    return Findings(columns, rows, verdict, summary, figures, raw=raw, intervals="over training runs")


def _parts(bench: Bench) -> Sequence[Callable[[], object]]:
    return [
        partial(_learned, bench, rate, batch, steps, seed)
        for (rate, batch), steps in _settings(bench).items()
        for seed in range(bench.budget.seeds)
    ]


def _settings(bench: Bench) -> dict[tuple[float, int], int]:
    """Learning rate and batch size -> steps."""
    rates, validations = (QUICK_RATES, QUICK_VALIDATIONS) if bench.quick else (RATES, VALIDATIONS)
    largest = bench.budget.batch_size
    # Rounded up, so that the last validation is at the last step.
    steps = -(-bench.budget.steps // validations) * validations
    batches = sorted({max(1, largest // SMALLER), largest})
    return {(rate, batch): steps * largest // batch for rate in rates for batch in batches}


def _name(rate: float, batch: int) -> str:
    return f"rate {rate:g}, batch {batch}"


def _learned(bench: Bench, rate: float, batch: int, steps: int, seed: int) -> Learned:
    budget = bench.budget
    # A curve is of one budget: one that went on with another would have points at other distances, or of other images.
    variant = f"rate-{rate:g}-batch-{batch}-{steps}-steps-{budget.cases}-images-{budget.sampling_steps}-sampling-steps"
    settings: dict[str, Any] = {
        "data": SET,
        "condition": KIND,
        "learning_rate": rate,
        "batch_size": batch,
        "ema": 0.0,
        "validation_every": max(1, steps // (QUICK_VALIDATIONS if bench.quick else VALIDATIONS)),
        "validation_images": budget.cases,
        "validation_steps": budget.sampling_steps,
    }
    bench.train(variant, seed, steps, settings)
    curve = bench.curve(variant, seed)
    at, fidelity = [one.step for one in curve], [one.fidelity or 0.0 for one in curve]
    verdict = find_convergence(at, fidelity)
    return Learned(at, fidelity, verdict.kind, verdict.step)


def _scored(seeds: Sequence[Learned]) -> list[Score]:
    """The fidelity at each validation, with its interval over seeds."""
    return [_over_seeds(FIDELITY, values) for values in zip(*(one.fidelity for one in seeds), strict=True)]


def _scores(seeds: Sequence[Learned]) -> dict[str, Score]:
    scores = {
        "fidelity": _over_seeds(FIDELITY, [one.fidelity[-1] for one in seeds]),
    }
    if rises := _rises(seeds):
        scores["sharpness"] = _over_seeds(SHARPNESS, rises)
    appeared = [float(one.appeared_at) for one in seeds if one.appeared_at is not None]
    return scores | ({"appeared at step": _over_seeds(APPEARED, appeared)} if appeared else {})


def _rises(runs: Sequence[Learned]) -> list[float]:
    """The sharpness of those that are not flat."""
    return [sharpness(one.fidelity) for one in runs if one.kind != "flat"]


def _over_seeds(measure: Measure, values: Sequence[float]) -> Score:
    return score_of_seeds(measure, [[[{"value": value}]] for value in values])


def _over_settings(measure: Measure, values: Sequence[Sequence[float]]) -> Score:
    """The mean over settings of what was measured once for each seed. Settings are chosen: only seeds are resampled."""
    return score_of_seeds(measure, [[[{"value": value} for value in of_seed]] for of_seed in zip(*values, strict=True)])


def _judged(found: Mapping[tuple[float, int], Sequence[Learned]]) -> tuple[Verdict, str]:
    """The claim: fidelity does not grow gradually, it jumps."""
    runs = [one for seeds in found.values() for one in seeds]
    kinds = Counter(
        "gradual, with a beginning" if one.kind == "gradual" and one.appeared_at else one.kind for one in runs
    )
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    rises = _rises(runs)
    sharp = shown(_over_seeds(SHARPNESS, rises), ".2f") if rises else "no part"
    verdict: Verdict = "does not hold at this scale"
    if kinds["sudden"]:
        verdict = "holds" if kinds["sudden"] == len(runs) else "holds partly"
    largest, smallest = max(batch for _, batch in found), min(batch for _, batch in found)
    rates = dict.fromkeys(rate for rate, _ in found)
    gains = [
        [
            one.fidelity[-1] - other.fidelity[-1]
            for one, other in zip(found[rate, largest], found[rate, smallest], strict=True)
        ]
        for rate in rates
    ]
    helped = _over_settings(SAME, gains)
    return verdict, (
        f"Of {len(runs)} runs the monitor calls {counted}; where control appears, the largest rise between two of "
        f"{len(runs[0].steps)} validations is {sharp} of the whole rise. At equal samples "
        f"batches of {largest} end {signed(helped)} of fidelity "
        f"against batches of {smallest}."
    )


STUDY = Study(
    "sudden-convergence",
    "Does control appear at once?",
    "Because of the zero convolutions the model draws well from the first step on, and at some step it suddenly "
    "follows the condition, usually before 10,000 steps (section 3.3, figure 4). At equal computation larger batches "
    "are usually better than more steps (the authors' guide to training).",
    run,
    Budget(steps=304, batch_size=16, seeds=3, cases=12, sampling_steps=10),
    _parts,
)
