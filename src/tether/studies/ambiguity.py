"""What is drawn where the condition does not say it? (Section 4.3, "Interpreting contents", of arXiv:2302.05543.)

Held-out conditions are erased bit by bit or replaced by noise (`tether.studies.ambiguous`), and drawn with several
seeds, with their prompts and without. Measured is *agreement*: the F1, at 2 px, of the Canny edges of each two pictures
of a condition, 0 where one of them has none. A condition leaves the picture *open* where agreement is nearer to that of
blank conditions than to that of whole ones.

`tether.kinds.openness` predicts which ones do: the *warning* from the map alone, `tether inspect` from the map and a
few steps of other seeds. Precision and recall of both are measured on held-out conditions. Blank maps are not counted:
that they say nothing is certain. Of a kind that has no limits there yet, they are fitted on conditions of names and
scenes that trainings see (take a kind out of `LIMITS` to fit it anew).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tether.evaluation import Case
from tether.evaluation.drawing import Artist, seeds_of
from tether.evaluation.intervals import Score
from tether.images import open_image
from tether.kinds.measures import Measure, Numbers, Table
from tether.kinds.openness import AGREEMENT as OPEN_BELOW
from tether.kinds.openness import LIMITS, agreement, structure
from tether.sampling.openness import SEEDS, STEPS
from tether.studies.ambiguous import BLANK, LEVELS, QUICK_LEVELS, WHOLE, made_ambiguous
from tether.studies.bench import Bench, steered
from tether.studies.statistics import difference_of_seeds, score_of_seeds, signed
from tether.studies.study import Budget, Curve, Figure, Findings, Row, Study, Verdict

__all__ = ["STUDY", "Point", "fitted_limit", "limit_of"]

KINDS, SETS = ("canny",), ("emoji3d", "scenes")
PROMPTED = {"no prompt": False, "prompt": True}
TRAINED_ON, HELD_OUT = "trained on", "held out"
LEAST_SEEDS, SHOWN = 2, 2
"""Pictures a condition, and how many of them are in the contact sheet."""
PRECISION = 0.95
"""Of the warning, on the conditions that its limits are fitted on."""
AMBIGUOUS = "swept 1/8"
"""The level that the claim is judged on."""


@dataclass(frozen=True)
class Point:
    """A condition on a level, drawn: its structure, and how well the pictures agree, those of a few steps too."""

    case: str
    level: str
    structure: float
    agreement: float
    quick: float = 0.0


def _share(of: str, among: str) -> Any:
    def pool(table: Table) -> float:
        total = table[among].sum()
        return float(table[of].sum() / total) if total else float("nan")

    return pool


AGREEMENT = Measure("agreement", "agreement of seeds")
RIGHT = Measure("precision", "precision of the warning", pool=_share("right", "warned"))
FOUND = Measure("recall", "recall of the warning", pool=_share("right", "open"))
FALSE = Measure("false", "whole maps that are warned of", pool=_share("false", "whole"), higher=False)


def limit_of(points: Sequence[tuple[float, bool]], precision: float = PRECISION) -> float:
    """The highest limit below which enough conditions are open.

    Args:
        points: structure, and whether the condition is open, of each.
        precision: the share of those below the limit that must be open.

    Returns:
        The limit, half way to the next structure; 0, which warns of none, where no limit is precise enough.
    """
    values = sorted({value for value, _ in points})
    best = 0.0
    for k, value in enumerate(values):
        below = [is_open for one, is_open in points if one <= value]
        if np.mean(below) >= precision:
            best = (value + values[k + 1]) / 2 if k + 1 < len(values) else value
    return float(best)


def run(bench: Bench) -> Findings:
    """The study."""
    columns, rows, figures, sheet, raw, told = {}, {}, [], [], {}, []
    heads: list[str] = []
    for kind in KINDS:
        cases = bench.cases(SETS, [kind])
        held = {name: _drawn(bench, kind, HELD_OUT, name, cases, sheet) for name in PROMPTED}
        heads = heads or [case.prompt for case in cases[:4] for _ in range(SHOWN)]
        limits = _limits(bench, kind)
        for name in PROMPTED:
            column = f"{kind}, {name}"
            columns[column] = AGREEMENT
            for level, found in _by_level(held[name]).items():
                rows.setdefault(level, {})[column] = score_of_seeds(AGREEMENT, [found])
            limit = limits[name]
            rows[f"warning: {kind}, {name}"] = _warned(held[name], lambda one, limit=limit: one.structure < limit)
            rows[f"inspect: {kind}, {name}"] = _warned(
                held[name], lambda one, limit=limit: one.structure < limit and one.quick < OPEN_BELOW
            )
            raw[column] = {
                "limit": limits[name],
                "open_below": _open_below(held[name]),
                "points": [vars(one) for one in held[name]],
            }
        figures.append(_figure(kind, held))
        told.append((kind, held))
    columns |= {"precision": RIGHT, "recall": FOUND, "false alarms, whole maps": FALSE}
    verdict, summary = _judged(bench, told, rows)
    listed = [Row(name, scores) for name, scores in rows.items()]
    return Findings(columns, listed, verdict, summary, figures, sheet, heads, raw)


def _limits(bench: Bench, kind: str) -> dict[str, float]:
    """The limits that ship, or else those that are fitted on conditions that trainings see, as many as are held out."""
    known = LIMITS.get(kind)
    if known is not None:
        return {name: known.with_prompt if prompted else known.without_prompt for name, prompted in PROMPTED.items()}
    each = max(1, bench.budget.cases // len(SETS))
    cases = [case for name in SETS for case in bench.training_cases(name, [kind], each)]
    return {name: fitted_limit(_drawn(bench, kind, TRAINED_ON, name, cases, [])) for name in PROMPTED}


def _drawn(
    bench: Bench,
    kind: str,
    split: str,
    name: str,
    cases: Sequence[Case],
    sheet: list[tuple[str, Sequence[Path]]],
) -> list[Point]:
    """All conditions of a split on all levels; a few of the first kind's held-out ones are added to the sheet."""
    levels = QUICK_LEVELS if bench.quick else tuple(LEVELS)
    changes = {"dtype": "float32" if bench.quick else "bfloat16"}
    count = max(LEAST_SEEDS, bench.budget.seeds)
    template = bench.artist.template.model_copy(update=changes)
    artist = Artist(bench.session, template, bench.artist.folder, count)
    quick = Artist(bench.session, template.model_copy(update={"steps": STEPS}), bench.artist.folder, len(SEEDS))
    points, done = [], 0
    for level in levels:
        first = []
        for case in cases:
            pixels = made_ambiguous(np.asarray(case.maps[kind].convert("RGB")), level, case.key)
            one = _with_map(case, kind, pixels, level, prompted=PROMPTED[name])
            seeds = seeds_of(0, case.number, count)
            arm = steered(f"{kind} {split}", kind, kind)
            files = list(artist.pictures([(one, seed) for seed in seeds], arm))
            agreed = _agreement(files), _agreement(list(quick.pictures([(one, seed) for seed in SEEDS], arm)))
            points.append(Point(case.key, level, structure(pixels), *agreed))
            first += files[:SHOWN]
            done += 1
            bench.on_progress(f"{kind}, {split}, {name}", done, len(levels) * len(cases))
        if kind == KINDS[0] and split == HELD_OUT:
            sheet.append((f"{level}\n{name}", first[: 4 * SHOWN]))
    return points


def _agreement(files: Sequence[Path]) -> float:
    return agreement([np.asarray(open_image(file)) for file in files])


def _with_map(case: Case, kind: str, pixels: np.ndarray, level: str, *, prompted: bool) -> Case:
    return replace(
        case,
        key=f"{case.key}-{level}",
        maps={kind: Image.fromarray(pixels)},
        prompt=case.prompt if prompted else "",
    )


def _by_level(points: Sequence[Point]) -> dict[str, list[list[Numbers]]]:
    """The agreement of each case on each level."""
    found: dict[str, list[list[Numbers]]] = {}
    for one in points:
        found.setdefault(one.level, []).append([{"value": one.agreement}])
    return found


def _mean(points: Sequence[Point], level: str) -> float:
    return float(np.mean([one.agreement for one in points if one.level == level]))


def _open_below(points: Sequence[Point]) -> float:
    """The agreement below which a condition leaves the picture open; intervals take it as given."""
    return (_mean(points, WHOLE) + _mean(points, BLANK)) / 2


def fitted_limit(points: Sequence[Point]) -> float:
    """The limit of structure that is fitted to drawn conditions, whole and blank ones among them."""
    open_below = _open_below(points)
    return limit_of([(one.structure, one.agreement < open_below) for one in points if one.level != BLANK])


def _warned(points: Sequence[Point], is_warned: Callable[[Point], bool]) -> dict[str, Score]:
    """Precision, recall and false alarms of a judgement, with intervals over the conditions."""
    by_case: dict[str, list[Numbers]] = {}
    open_below = _open_below(points)
    for one in points:
        if one.level == BLANK:
            continue
        warned, is_open, whole = is_warned(one), one.agreement < open_below, one.level == WHOLE
        by_case.setdefault(one.case, []).append(
            {
                "warned": warned,
                "open": is_open,
                "right": warned and is_open,
                "whole": whole,
                "false": whole and warned,
            }
        )
    rows = [[{key: float(value) for key, value in numbers.items()} for numbers in one] for one in by_case.values()]
    return {
        "precision": score_of_seeds(RIGHT, [rows]),
        "recall": score_of_seeds(FOUND, [rows]),
        "false alarms, whole maps": score_of_seeds(FALSE, [rows]),
    }


def _figure(kind: str, held: Mapping[str, Sequence[Point]]) -> Figure:
    """Agreement over what is left of the lines, for both ways to erase them."""
    curves = []
    for name, points in held.items():
        found = _by_level(points)
        for way in ("swept", "dashed"):
            parts = {level: 1 / int(level.partition("/")[2]) for level in found if level.startswith(way)}
            levels = {WHOLE: 1.0, **parts, BLANK: 0.0}
            scores = [score_of_seeds(AGREEMENT, [found[level]]) for level in levels]
            curves.append(Curve(f"{way}, {name}", list(levels.values()), scores))
    return Figure(f"agreement-{kind}", "share of the lines that is left", f"agreement of seeds, {kind}", curves)


def _judged(
    bench: Bench, told: Sequence[tuple[str, Mapping[str, Sequence[Point]]]], rows: Mapping[str, Mapping[str, Score]]
) -> tuple[Verdict, str]:
    """The claim: ambiguous conditions are interpreted at will without a prompt, and a prompt settles them."""
    if bench.quick:
        return "not judged", "Nothing is judged on a budget this small."
    parts, shown = [], []
    for kind, held in told:
        of = {name: _by_level(points) for name, points in held.items()}
        plain, prompted = of["no prompt"], of["prompt"]
        fallen = difference_of_seeds(AGREEMENT, [plain[AMBIGUOUS]], [plain[WHOLE]])
        settled = difference_of_seeds(AGREEMENT, [prompted[AMBIGUOUS]], [plain[AMBIGUOUS]])
        shown += [fallen.high < 0, settled.low > 0]
        said = [
            f"{name} has precision {_plain(of['precision'])} and recall {_plain(of['recall'])}"
            for name in ("warning", "inspect")
            for of in [rows[f"{name}: {kind}, no prompt"]]
        ]
        parts.append(
            f"{kind}: without a prompt, agreement of seeds with an eighth of the lines left is {signed(fallen)} "
            f"against whole maps, and a prompt adds {signed(settled)}; without a prompt the {' and '.join(said)}"
        )
    verdict: Verdict = "holds" if all(shown) else "holds partly" if any(shown) else "does not hold at this scale"
    return verdict, "; ".join(parts) + "."


def _plain(score: Score) -> str:
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"


STUDY = Study(
    "ambiguity",
    "What is drawn where the condition does not say it?",
    "If the input is ambiguous and the prompt does not mention what is in it, the model interprets the shapes as it "
    "likes (section 4.3, figure 11).",
    run,
    Budget(seeds=3, cases=12, sampling_steps=8),
)
