"""How much data a control needs (section 4.4 and figure 10 of arXiv:2302.05543).

Controls are trained for the same number of steps on sets of different sizes, each the beginning of the next, so that
the smaller ones are repeated more often. The sets are scenes, of which no two are alike (of emoji there are only 1,016
drawings to train on). A set of more samples than a training draws would change nothing: the largest has that number.
Measured are fidelity and prompt agreement on held-out scenes, and fidelity on scenes that every set contains, whose
lines are found anew: what a control gains more there than on held-out ones is what was learned by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tether.evaluation import Case, Evaluation
from tether.evaluation.drawing import Arm
from tether.evaluation.run import STRENGTH_0
from tether.kinds.measures import Measure
from tether.studies.bench import Bench, steered
from tether.studies.statistics import difference_of_seeds, not_learned, score_of_seeds, signed
from tether.studies.study import Budget, Curve, Figure, Findings, Row, Study, Verdict

__all__ = ["SIZES", "STUDY"]

KIND, SET = "canny", "scenes"
FIDELITY, PROMPT = f"{KIND}/f1_2px", "prompt"
SIZES = (100, 1_000, 5_000, 20_000)
JUDGED = 1_000
"""The size that the paper says training does not collapse on."""
HELD_OUT, SEEN, AGREEMENT = "F1, held-out scenes", "F1, seen in training", "prompt agreement"


@dataclass(frozen=True)
class _Scenes:
    """The training sets by their size, held-out scenes, and scenes that every set contains."""

    sets: Mapping[int, Path]
    cases: Sequence[Case]
    seen: Sequence[Case]


def run(bench: Bench) -> Findings:
    """The study."""
    scenes = _scenes(bench)
    sizes, cases, seen = tuple(scenes.sets), scenes.cases, scenes.seen
    numbers: dict[str, dict[str, list[Any]]] = {}
    measures: dict[str, Measure] = {}
    sheet: list[tuple[str, Sequence[Path]]] = []
    for size in sizes:
        name = _named(size)
        for seed in range(bench.budget.seeds):
            held, known = _measured(bench, scenes, size, seed)
            measures |= held.measures
            for arm in (STRENGTH_0, name):
                of = numbers.setdefault(arm, {HELD_OUT: [], SEEN: [], AGREEMENT: []})
                of[HELD_OUT].append(held.numbers[arm][FIDELITY])
                of[SEEN].append(known.numbers[arm][FIDELITY])
                of[AGREEMENT].append(held.numbers[arm][PROMPT])
            if seed == 0:
                sheet.append((name, [files[0] for files in held.pictures[name][:8]]))
    by_column = {HELD_OUT: measures[FIDELITY], SEEN: measures[FIDELITY], AGREEMENT: measures[PROMPT]}
    rows = [
        Row(arm, {column: score_of_seeds(by_column[column], found) for column, found in of.items()})
        for arm, of in numbers.items()
    ]
    curves = [
        Curve(column, sizes, [row.scores[column] for row in rows if row.name != STRENGTH_0]) for column in by_column
    ]
    figure = Figure("size", "pairs in the training set", "score", curves, log_x=True)
    verdict, summary = _judged(bench, sizes, numbers, measures[FIDELITY])
    return Findings(
        by_column,
        rows,
        verdict,
        summary,
        [figure],
        sheet,
        [case.prompt for case in cases[:8]],
        {"numbers": numbers, "cases": [case.key for case in cases], "seen": [case.key for case in seen]},
    )


def _parts(bench: Bench) -> Sequence[Callable[[], object]]:
    scenes = _scenes(bench)
    for cases in (scenes.cases, scenes.seen):
        bench.draw(cases, Arm(STRENGTH_0))
    return [partial(_measured, bench, scenes, size, seed) for size in scenes.sets for seed in range(bench.budget.seeds)]


def _scenes(bench: Bench) -> _Scenes:
    sizes = (4, 8) if bench.quick else sizes_of(bench.budget.steps * bench.budget.batch_size)
    cases, seen = bench.cases([SET], [KIND]), bench.first_cases(SET, [KIND], min(bench.budget.cases, sizes[0]))
    return _Scenes({size: bench.subset(SET, KIND, size) for size in sizes}, cases, seen)


def _measured(bench: Bench, scenes: _Scenes, size: int, seed: int) -> tuple[Evaluation, Evaluation]:
    """Trains on a set and measures on held-out scenes, and on seen ones."""
    name, data = _named(size), str(scenes.sets[size])
    control = bench.train(name, seed, bench.budget.steps, {"data": data, "condition": KIND})
    arms = [Arm(STRENGTH_0), steered(name, control, KIND)]
    held = bench.measure(scenes.cases, arms, [KIND], stage=f"{name}, seed {seed}")
    return held, bench.measure(scenes.seen, arms, [KIND], stage=f"{name}, seed {seed}, on what was seen")


def sizes_of(samples: int) -> tuple[int, ...]:
    """The sizes of the sets for a training that draws so many samples."""
    return tuple(sorted({min(size, samples) for size in SIZES}))


def _named(size: int) -> str:
    return f"{size} pairs"


def _judged(
    bench: Bench, sizes: Sequence[int], numbers: Mapping[str, Mapping[str, list[Any]]], measure: Measure
) -> tuple[Verdict, str]:
    """The claim: 1,000 pairs do not collapse, they follow the lines at all; and more data is better."""
    if bench.quick:
        return "not judged", "Nothing is judged on a budget this small."
    smallest, judged, largest = (_named(size) for size in (sizes[0], min(JUDGED, sizes[-1]), sizes[-1]))

    def of(arm: str, column: str = HELD_OUT) -> list[Any]:
        return numbers[arm][column]

    taught = difference_of_seeds(measure, of(largest), of(STRENGTH_0))
    if taught.low <= 0:
        return "not judged", f"With {largest}, {not_learned(bench.budget.steps, taught)}."
    learned, least = (difference_of_seeds(measure, of(size), of(STRENGTH_0)) for size in (judged, smallest))
    more = difference_of_seeds(measure, of(largest), of(smallest))
    seen = {arm: difference_of_seeds(measure, of(arm, SEEN), of(STRENGTH_0, SEEN)) for arm in (smallest, largest)}
    verdict: Verdict = "holds partly"
    if learned.low > 0 and more.low > 0:
        verdict = "holds"
    elif learned.low <= 0:
        verdict = "does not hold at this scale"
    return verdict, (
        f"After {bench.budget.steps} steps of {bench.budget.batch_size}, {judged} follow the lines of held-out scenes "
        f"by {signed(learned)} of F1 more than no control, {smallest} by {signed(least)}; {largest} by "
        f"{signed(more)} more than {smallest}. On scenes that were seen it is "
        f"{signed(seen[smallest])} more than no control with {smallest}, {signed(seen[largest])} with {largest}."
    )


STUDY = Study(
    "data-size",
    "How much data does a control need?",
    "Training does not collapse on 1,000 images, and learns more from more data (section 4.4, figure 10).",
    run,
    Budget(steps=1000, batch_size=16, seeds=1, cases=24),
    _parts,
)
